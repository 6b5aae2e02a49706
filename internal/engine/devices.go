package engine

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/11f9778f/berth/internal/engine/stage"
)

// defaultDevices are those that every container has (runtime-spec config-linux.md, Default Devices).
var defaultDevices = []specs.LinuxDevice{
	{Path: "/dev/null", Type: "c", Major: 1, Minor: 3},
	{Path: "/dev/zero", Type: "c", Major: 1, Minor: 5},
	{Path: "/dev/full", Type: "c", Major: 1, Minor: 7},
	{Path: "/dev/random", Type: "c", Major: 1, Minor: 8},
	{Path: "/dev/urandom", Type: "c", Major: 1, Minor: 9},
	{Path: "/dev/tty", Type: "c", Major: 5, Minor: 0},
}

// devLinks are the links that programs expect in /dev.
var devLinks = [][2]string{
	{"/proc/self/fd", "fd"}, {"/proc/self/fd/0", "stdin"}, {"/proc/self/fd/1", "stdout"}, {"/proc/self/fd/2", "stderr"},
}

var deviceModes = map[string]uint32{"c": unix.S_IFCHR, "u": unix.S_IFCHR, "b": unix.S_IFBLK, "p": unix.S_IFIFO}

// devices makes the spec's devices, and fills /dev unless the spec binds the host's one there.
func (u *setup) devices() error {
	hasPts, bound := false, false
	for _, m := range u.o.Spec.Mounts {
		switch relative(m.Destination) {
		case "dev":
			bound = isBind(m.Type, m.Options)
		case "dev/pts":
			hasPts = true
		}
	}
	if bound {
		return nil
	}
	if err := u.destination("/dev", true, u.o.Spec.Mounts); err != nil {
		return err
	}
	own := u.ownDevices()
	u.open("open /dev", "/dev", u.dest, unix.O_PATH|unix.O_DIRECTORY)
	for _, d := range defaultDevices {
		if _, replaced := own[d.Path]; !replaced {
			// What an image put there goes first.
			u.do("replace "+d.Path, unix.SYS_UNLINKAT, u.dest.Value(), u.p.String(path.Base(d.Path)), stage.Int(0)).TolerateAny()
			if err := u.device(d, u.dest); err != nil {
				return err
			}
		}
	}
	links := devLinks
	if hasPts {
		links = append(append([][2]string(nil), links...), [2]string{"pts/ptmx", "ptmx"})
	}
	for _, l := range links {
		if _, replaced := own["/dev/"+l[1]]; !replaced {
			u.do("link /dev/"+l[1], unix.SYS_SYMLINKAT, u.p.String(l[0]), u.dest.Value(), u.p.String(l[1])).Tolerate(unix.EEXIST)
		}
	}
	u.closeCell(u.dest)
	return u.specDevices(own)
}

// ownDevices are the spec's devices by their cleaned paths; the last of several with one path counts.
func (u *setup) ownDevices() map[string]specs.LinuxDevice {
	own := map[string]specs.LinuxDevice{}
	for _, d := range u.o.Spec.Linux.Devices {
		own["/"+relative(d.Path)] = d
	}
	return own
}

func (u *setup) specDevices(own map[string]specs.LinuxDevice) error {
	for _, listed := range u.o.Spec.Linux.Devices {
		at := "/" + relative(listed.Path)
		d, ok := own[at]
		if !ok {
			continue // its turn has been
		}
		delete(own, at)
		d.Path = at
		there, err := u.deviceThere(d)
		if err != nil {
			return fmt.Errorf("linux.devices: %s: %w", d.Path, err)
		}
		if there {
			continue
		}
		dir := path.Dir(at)
		if err := u.destination(dir, true, u.o.Spec.Mounts); err != nil {
			return fmt.Errorf("linux.devices: %s: %w", d.Path, err)
		}
		u.open("open directory of "+at, dir, u.dest, unix.O_PATH|unix.O_DIRECTORY)
		if err := u.device(d, u.dest); err != nil {
			return fmt.Errorf("linux.devices: %s: %w", d.Path, err)
		}
		u.closeCell(u.dest)
	}
	return nil
}

// deviceThere looks whether the root filesystem has the device already. Another file at its place is an error, as the
// spec wants it; below a mount, the kernel will say that the file exists.
func (u *setup) deviceThere(d specs.LinuxDevice) (bool, error) {
	for _, m := range u.o.Spec.Mounts {
		if strings.HasPrefix(relative(d.Path)+"/", relative(m.Destination)+"/") {
			return false, nil
		}
	}
	dir, err := openInRoot(u.root, path.Dir(d.Path))
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer unix.Close(dir)
	var st unix.Stat_t
	err = unix.Fstatat(dir, path.Base(d.Path), &st, unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case errors.Is(err, unix.ENOENT):
		return false, nil
	case err != nil:
		return false, err
	case !isDevice(&st, d):
		return false, errors.New("there is another file in the root filesystem")
	}
	return true, nil
}

// isDevice compares type and numbers.
func isDevice(st *unix.Stat_t, d specs.LinuxDevice) bool {
	if st.Mode&unix.S_IFMT != deviceModes[d.Type] {
		return false
	}
	return d.Type == "p" || st.Rdev == unix.Mkdev(uint32(d.Major), uint32(d.Minor))
}

// device makes one node in the directory of cell dir.
func (u *setup) device(d specs.LinuxDevice, dir stage.Cell) error {
	kind, ok := deviceModes[d.Type]
	if !ok {
		return fmt.Errorf("unknown type %q", d.Type)
	}
	what, name := "create "+d.Path, u.p.String(path.Base(d.Path))
	if inUserNamespace(u.o.Spec) && d.Type != "p" {
		return u.bindDevice(what, d, dir)
	}
	u.do(what, unix.SYS_MKNODAT, dir.Value(), name, stage.Int(kind|fileMode(d)), stage.Int(unix.Mkdev(uint32(d.Major), uint32(d.Minor))))
	if d.UID != nil || d.GID != nil {
		u.do(what, unix.SYS_FCHOWNAT, dir.Value(), name, stage.Int(id(d.UID)), stage.Int(id(d.GID)), stage.Int(unix.AT_SYMLINK_NOFOLLOW))
	}
	return nil
}

// fileMode is the node's mode. The child's umask, which is this process's, may take bits off as it does for mknod(1).
func fileMode(d specs.LinuxDevice) uint32 {
	if d.FileMode == nil {
		return 0o666
	}
	return uint32(d.FileMode.Perm())
}

// bindDevice binds a node that this process has: nobody in a user namespace may make one, nor open one on a filesystem
// of the namespace's own.
func (u *setup) bindDevice(what string, d specs.LinuxDevice, dir stage.Cell) error {
	tree, err := u.hostDevice(d)
	if err != nil {
		return err
	}
	name := u.p.String(path.Base(d.Path))
	u.do(what, unix.SYS_MKNODAT, dir.Value(), name, stage.Int(unix.S_IFREG|0o644), stage.Int(0))
	u.do(what, unix.SYS_OPENAT, dir.Value(), name, stage.Int(openPath|unix.O_NOFOLLOW)).Into(u.node)
	const flags = unix.MOVE_MOUNT_F_EMPTY_PATH | unix.MOVE_MOUNT_T_EMPTY_PATH
	empty := u.p.String("")
	u.do(what, unix.SYS_MOVE_MOUNT, u.p.File(u.own(tree)), empty, u.node.Value(), empty, stage.Int(flags))
	u.closeCell(u.node)
	return nil
}

// hostDevice returns a detached mount of the node: the host's, if it is at the same path and just the same, else a new
// one on a filesystem of its own.
func (u *setup) hostDevice(d specs.LinuxDevice) (*os.File, error) {
	l := u.o.Spec.Linux
	uid, err := hostID(l.UIDMappings, id(d.UID))
	if err != nil {
		return nil, fmt.Errorf("uid: %w", err)
	}
	gid, err := hostID(l.GIDMappings, id(d.GID))
	if err != nil {
		return nil, fmt.Errorf("gid: %w", err)
	}
	asIs := d.FileMode == nil && d.UID == nil && d.GID == nil
	how := unix.OpenHow{Flags: openPath | unix.O_NOFOLLOW, Resolve: unix.RESOLVE_NO_SYMLINKS}
	if fd, err := unix.Openat2(unix.AT_FDCWD, d.Path, &how); err == nil {
		defer unix.Close(fd)
		var st unix.Stat_t
		same := unix.Fstat(fd, &st) == nil && isDevice(&st, d)
		if same && (asIs || st.Uid == uid && st.Gid == gid && st.Mode&0o7777 == fileMode(d)) {
			return cloneTreeFD(fd, d.Path, false)
		}
	}
	var tree *os.File
	err = inPrivateMounts(func(base *os.File) (err error) {
		at := int(base.Fd())
		if err := unix.Mknodat(at, "node", deviceModes[d.Type]|fileMode(d), int(unix.Mkdev(uint32(d.Major), uint32(d.Minor)))); err != nil {
			return fmt.Errorf("mknod: %w", err)
		}
		if err := errors.Join(unix.Fchownat(at, "node", int(uid), int(gid), unix.AT_SYMLINK_NOFOLLOW), unix.Fchmodat(at, "node", fileMode(d), 0)); err != nil {
			return err
		}
		fd, err := unix.Openat(at, "node", openPath|unix.O_NOFOLLOW, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		tree, err = cloneTreeFD(fd, d.Path, false)
		return err
	})
	return tree, err
}

func id(p *uint32) uint32 {
	if p == nil {
		return 0
	}
	return *p
}
