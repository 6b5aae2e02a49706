package engine

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/11f9778f/berth/internal/engine/stage"
)

// A container without a mount namespace lives in its creator's (config-linux.md, Namespaces). Nothing is mounted there
// for it: its first process builds the root filesystem in a mount namespace that lives for that long, takes a detached
// copy out of it, goes back, and makes the copy its root directory. The copy belongs to nobody but to those who have
// their root in it, and goes with the last of them.

// callerMountsFile is the creator's mount namespace. Of the thread: others may be in private ones for a moment.
const callerMountsFile = "/proc/thread-self/ns/mnt"

// inCallerMounts tells whether the container is to share this process's mount namespace: it has none in its list, or
// joins by path what is this process's own.
func inCallerMounts(s *specs.Spec) (bool, error) {
	ns, ok := namespace(s, specs.MountNamespace)
	if !ok || ns.Path == "" {
		return !ok, nil
	}
	joined, err := os.Stat(ns.Path)
	if err != nil {
		return false, fmt.Errorf("linux.namespaces: %s: %w", ns.Type, err)
	}
	own, err := os.Stat(callerMountsFile)
	if err != nil {
		return false, err
	}
	return os.SameFile(joined, own), nil
}

// validateCallerMounts refuses what needs a mount namespace of the container's own.
func validateCallerMounts(s *specs.Spec) error {
	shared, err := inCallerMounts(s)
	if err != nil || !shared {
		return err
	}
	if inUserNamespace(s) {
		return errors.New("linux.namespaces: a user namespace without a mount namespace: nobody in it could mount anything")
	}
	for n, m := range s.Mounts {
		opts, err := parseMountOptions(m.Options)
		if err == nil && (opts.attr.Propagation|opts.rattr.Propagation)&unix.MS_UNBINDABLE != 0 {
			return fmt.Errorf("mounts[%d].options: unbindable: not without a mount namespace of the container, whose mounts are a copy", n)
		}
	}
	return nil
}

// returnToCaller takes the child, with a detached copy of what it has built, back into its creator's mount namespace.
func (u *setup) returnToCaller() error {
	ns, err := os.Open(callerMountsFile)
	if err != nil {
		return err
	}
	const clone = unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC | unix.AT_EMPTY_PATH | unix.AT_RECURSIVE
	u.do("take the root filesystem along", unix.SYS_OPEN_TREE, u.rootCell.Value(), u.p.String(""), stage.Int(clone)).Into(u.mount)
	u.closeCell(u.rootCell)
	u.do("return to the caller's mount namespace", unix.SYS_SETNS, u.p.File(u.own(ns)), stage.Int(unix.CLONE_NEWNS))
	u.do("keep the root filesystem", unix.SYS_FCNTL, u.mount.Value(), stage.Int(unix.F_DUPFD_CLOEXEC), stage.Int(0)).Into(u.rootCell)
	u.closeCell(u.mount)
	return nil
}

// openRoot opens the root directory of the container's first process, which is not its mount namespace's root.
func (c *Container) openRoot() (*os.File, error) {
	path := "/proc/" + strconv.Itoa(c.init.pid) + "/root"
	fd, err := unix.Open(path, openPath|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, fmt.Errorf("open the container's root: %w", &os.PathError{Op: "open", Path: path, Err: err})
	}
	// It still runs, so the number was its own all the time.
	if err := unix.PidfdSendSignal(int(c.init.pidfd.Fd()), 0, nil, 0); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("the container is not running: %w", os.ErrProcessDone)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// changeRoot makes root the child's root directory.
func changeRoot(p *stage.Program, root *os.File) {
	p.Do("enter the container's root", unix.SYS_FCHDIR, p.File(root))
	p.Do("change root", unix.SYS_CHROOT, p.String("."))
	p.Do("enter /", unix.SYS_CHDIR, p.String("/"))
}
