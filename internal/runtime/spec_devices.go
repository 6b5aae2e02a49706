package runtime

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// devices adds those that are asked for, or all of the host's to a privileged container.
func (b *specBuilder) devices() error {
	if b.container.Spec.Security.Privileged {
		b.out.Linux.Devices = hostDevices()
		return nil
	}
	var out []specs.LinuxDevice
	for _, d := range b.container.Spec.Devices {
		real, err := filepath.EvalSymlinks(d.HostPath)
		if err != nil {
			return invalid("device: %v", err)
		}
		dev, ok := statDevice(real)
		if !ok {
			return invalid("%q is not a device of the host", d.HostPath)
		}
		dev.Path = d.ContainerPath
		out = append(out, dev)
	}
	b.out.Linux.Devices = append(out, b.out.Linux.Devices...)
	return nil
}

// hostDevices lists the devices below /dev, without those that each container has of its own.
func hostDevices() []specs.LinuxDevice {
	var out []specs.LinuxDevice
	filepath.WalkDir("/dev", func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return nil
		case d.IsDir() && (p == "/dev/pts" || p == "/dev/shm" || p == "/dev/fd" || p == "/dev/mqueue" || strings.HasPrefix(d.Name(), ".")):
			return filepath.SkipDir
		case d.Type()&fs.ModeDevice == 0 || p == "/dev/console" || p == "/dev/tty":
			return nil
		}
		if dev, ok := statDevice(p); ok {
			out = append(out, dev)
		}
		return nil
	})
	return out
}

func statDevice(p string) (specs.LinuxDevice, bool) {
	info, err := os.Lstat(p)
	if err != nil || info.Mode()&fs.ModeDevice == 0 {
		return specs.LinuxDevice{}, false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return specs.LinuxDevice{}, false
	}
	kind := "b"
	if info.Mode()&fs.ModeCharDevice != 0 {
		kind = "c"
	}
	mode := info.Mode().Perm()
	dev := uint64(st.Rdev)
	return specs.LinuxDevice{
		Path: p, Type: kind, FileMode: &mode, UID: &st.Uid, GID: &st.Gid,
		// As the C library's gnu_dev_major and gnu_dev_minor take a dev_t apart.
		Major: int64((dev>>8)&0xfff | (dev>>32)&^0xfff),
		Minor: int64(dev&0xff | (dev>>12)&^0xff),
	}, true
}
