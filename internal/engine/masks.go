package engine

import (
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
	for _, path := range paths {
		what := "mask " + path
		done, file, placed := new(stage.Label), new(stage.Label), new(stage.Label)
		u.open(what, path, u.dest, unix.O_PATH).Tolerate(unix.ENOENT, unix.ENOTDIR).ElseGoTo(done)
		// Asked first: closing a mount that found no place waits for the kernel's readers (RCU).
		u.open(what, path, u.mount, unix.O_PATH|unix.O_DIRECTORY).Tolerate(unix.ENOTDIR).ElseGoTo(file)
		u.closeCell(u.mount)
		u.newFilesystem(what, "tmpfs", "", mountOptions{
			attr: unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC},
			data: []string{"nr_blocks=1", "nr_inodes=1"},
		})
		u.moveTo(what, u.mount.Value())
		u.p.GoTo(placed)
		u.p.Mark(file)
		u.do(what, unix.SYS_OPEN_TREE, u.scratch.Value(), empty, stage.Int(clone)).Into(u.mount)
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
