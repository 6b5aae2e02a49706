package engine

import (
	"fmt"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/11f9778f/berth/internal/engine/stage"
)

// mask hides the spec's masked paths: a file under /dev/null, a directory under an empty read-only
// tmpfs. What is not there needs no mask. The device is the host's, opened while the host's root is still
// the child's: nothing that the image has at /dev/null can stand in for it (CVE-2025-31133).
func (u *setup) mask() {
	paths := u.o.Spec.Linux.MaskedPaths
	if len(paths) == 0 {
		return
	}
	u.do("open the host's /dev/null", unix.SYS_OPENAT, stage.Int(unix.AT_FDCWD), u.p.String("/dev/null"), stage.Int(openPath|unix.O_NOFOLLOW)).Into(u.scratch)
	empty := u.p.String("")
	const clone = unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC | unix.AT_EMPTY_PATH
	const move = unix.MOVE_MOUNT_F_EMPTY_PATH | unix.MOVE_MOUNT_T_EMPTY_PATH
	for _, path := range paths {
		what := "mask " + path
		done, dir := new(stage.Label), new(stage.Label)
		u.open(what, path, u.dest, unix.O_PATH).Tolerate(unix.ENOENT, unix.ENOTDIR).ElseGoTo(done)
		u.do(what, unix.SYS_OPEN_TREE, u.scratch.Value(), empty, stage.Int(clone)).Into(u.mount)
		u.do(what, unix.SYS_MOVE_MOUNT, u.mount.Value(), empty, u.dest.Value(), empty, stage.Int(move)).Tolerate(unix.ENOTDIR, unix.EINVAL).ElseGoTo(dir)
		placed := new(stage.Label)
		u.p.GoTo(placed)
		u.p.Mark(dir)
		u.closeCell(u.mount)
		u.newFilesystem(what, "tmpfs", "", mountOptions{
			attr: unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC},
			data: []string{"nr_blocks=1", "nr_inodes=1"},
		})
		u.moveTo(what, u.mount.Value())
		u.p.Mark(placed)
		u.closeCell(u.mount)
		u.closeCell(u.dest)
		u.p.Mark(done)
	}
	u.closeCell(u.scratch)
}

// readonly remounts the spec's read-only paths over themselves.
func (u *setup) readonly() {
	const clone = unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC | unix.AT_EMPTY_PATH | unix.AT_RECURSIVE
	for _, path := range u.o.Spec.Linux.ReadonlyPaths {
		what := "make " + path + " read-only"
		done := new(stage.Label)
		u.open(what, path, u.dest, unix.O_PATH).Tolerate(unix.ENOENT, unix.ENOTDIR).ElseGoTo(done)
		u.do(what, unix.SYS_OPEN_TREE, u.dest.Value(), u.p.String(""), stage.Int(clone)).Into(u.mount)
		u.setAttr(what, u.mount, unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}, true)
		u.moveTo(what, u.mount.Value())
		u.closeCell(u.mount)
		u.closeCell(u.dest)
		u.p.Mark(done)
	}
}

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

// devices fills /dev, unless the spec binds the host's one there.
func (u *setup) devices() error {
	hasPts := false
	for _, m := range u.o.Spec.Mounts {
		opts, _ := parseMountOptions(m.Options)
		switch relative(m.Destination) {
		case "dev":
			if m.Type == "bind" || opts.bind {
				return nil
			}
		case "dev/pts":
			hasPts = true
		}
	}
	if err := u.destination("/dev", true, u.o.Spec.Mounts); err != nil {
		return err
	}
	devices := append(append([]specs.LinuxDevice(nil), defaultDevices...), u.o.Spec.Linux.Devices...)
	u.open("open /dev", "/dev", u.dest, unix.O_PATH|unix.O_DIRECTORY)
	for _, d := range devices {
		if err := u.device(d); err != nil {
			return err
		}
	}
	links := devLinks
	if hasPts {
		links = append(append([][2]string(nil), links...), [2]string{"pts/ptmx", "ptmx"})
	}
	for _, l := range links {
		u.do("link /dev/"+l[1], unix.SYS_SYMLINKAT, u.p.String(l[0]), u.dest.Value(), u.p.String(l[1])).Tolerate(unix.EEXIST)
	}
	u.closeCell(u.dest)
	return nil
}

var deviceModes = map[string]uint32{"c": unix.S_IFCHR, "u": unix.S_IFCHR, "b": unix.S_IFBLK, "p": unix.S_IFIFO}

// device makes one node; u.dest is /dev. What an image put at its place goes first.
func (u *setup) device(d specs.LinuxDevice) error {
	kind, ok := deviceModes[d.Type]
	if !ok {
		return fmt.Errorf("linux.devices: %s: unknown type %q", d.Path, d.Type)
	}
	rel := relative(d.Path)
	if len(rel) < 5 || rel[:4] != "dev/" {
		return fmt.Errorf("linux.devices: %s is not below /dev", d.Path)
	}
	at, name := u.dest, rel[4:]
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		u.makeBelow("dev", name[:i], true)
		u.open("open directory of "+d.Path, "dev/"+name[:i], u.scratch, unix.O_PATH|unix.O_DIRECTORY)
		at, name = u.scratch, name[i+1:]
	}
	mode := uint32(0o666)
	if d.FileMode != nil {
		mode = uint32(d.FileMode.Perm())
	}
	what := "create " + d.Path
	u.do(what, unix.SYS_UNLINKAT, at.Value(), u.p.String(name), stage.Int(0)).TolerateAny()
	u.do(what, unix.SYS_MKNODAT, at.Value(), u.p.String(name), stage.Int(kind|mode), stage.Int(unix.Mkdev(uint32(d.Major), uint32(d.Minor))))
	if d.UID != nil || d.GID != nil {
		u.do(what, unix.SYS_FCHOWNAT, at.Value(), u.p.String(name), stage.Int(id(d.UID)), stage.Int(id(d.GID)), stage.Int(unix.AT_SYMLINK_NOFOLLOW))
	}
	if at != u.dest {
		u.closeCell(u.scratch)
	}
	return nil
}

func id(p *uint32) uint32 {
	if p == nil {
		return 0
	}
	return *p
}
