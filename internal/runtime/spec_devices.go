package runtime

import (
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// devices adds those that are asked for, or all of the host's to a privileged container.
func (b *specBuilder) devices() error {
	var out []specs.LinuxDevice
	for _, d := range b.container.Spec.Devices {
		found, err := requested(d)
		if err != nil {
			return err
		}
		out = append(out, found...)
		if b.container.Spec.Security.Privileged {
			continue // its cgroup allows every device
		}
		for i := range found {
			b.rules = append(b.rules, specs.LinuxDeviceCgroup{
				Allow: true, Type: found[i].Type, Major: &found[i].Major, Minor: &found[i].Minor, Access: firstOf(d.Permissions, "rwm"),
			})
		}
	}
	if b.container.Spec.Security.Privileged {
		b.out.Linux.Devices = hostDevices()
	}
	// The same path twice: the one that was asked for counts.
	b.out.Linux.Devices = append(slices.DeleteFunc(b.out.Linux.Devices, func(have specs.LinuxDevice) bool {
		return slices.ContainsFunc(out, func(d specs.LinuxDevice) bool { return d.Path == have.Path })
	}), out...)
	return nil
}

// requested returns a device, or all devices of a folder, under their names in the container.
func requested(d Device) ([]specs.LinuxDevice, error) {
	real, err := filepath.EvalSymlinks(d.HostPath)
	if err != nil {
		return nil, invalid("device: %v", err)
	}
	var out []specs.LinuxDevice
	err = filepath.WalkDir(real, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if dev, ok := statDevice(p); ok {
			dev.Path = path.Join(d.ContainerPath, strings.TrimPrefix(p, real))
			out = append(out, dev)
		}
		return nil
	})
	if err != nil {
		return nil, invalid("device: %v", err)
	}
	if len(out) == 0 {
		return nil, invalid("%q is not a device of the host", d.HostPath)
	}
	return out, nil
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
