package engine

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/11f9778f/berth/internal/sys"
)

// inPrivateMounts calls f on a thread with a mount namespace of its own, a copy of the host's that the host
// does not see changes of. base is an empty tmpfs that is mounted there. The namespace goes with the thread;
// what f has cloned out of it stays.
//
// It is for what older kernels do with attached mounts only.
func inPrivateMounts(f func(base *os.File) error) error {
	return sys.OnThread(func() error { return privately(f) })
}

func privately(f func(base *os.File) error) error {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("stop mount propagation: %w", err)
	}
	base, err := newFilesystem("tmpfs", "tmpfs", mountOptions{data: []string{"mode=700"}})
	if err != nil {
		return err
	}
	defer base.Close()
	// Above "/", but paths are looked up below it: a thread's root is not moved by a mount.
	if err := unix.MoveMount(int(base.Fd()), "", unix.AT_FDCWD, "/", unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("attach tmpfs: %w", err)
	}
	return f(base)
}
