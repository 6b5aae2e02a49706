package sys

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// MountTmpfs mounts a tmpfs at the folder dir, of at most size bytes (0: the kernel's default, half of the
// memory), with those permissions of its root. A dir that is a mount point already is left as it is.
func MountTmpfs(dir string, size int64, mode os.FileMode) error {
	if mounted, err := IsMountPoint(dir); err != nil || mounted {
		return err
	}
	data := fmt.Sprintf("mode=%04o", mode.Perm())
	if size > 0 {
		data += fmt.Sprintf(",size=%d", size)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, data); err != nil {
		return &os.PathError{Op: "mount tmpfs", Path: dir, Err: err}
	}
	return nil
}

// UnmountFolder takes away what is mounted at dir, layer by layer, without following links. It is no error
// if there is nothing.
func UnmountFolder(dir string) error {
	for {
		switch err := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); {
		case err == nil:
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT):
			return nil
		default:
			return &os.PathError{Op: "unmount", Path: dir, Err: err}
		}
	}
}

// IsMountPoint tells whether another file system is mounted at dir.
func IsMountPoint(dir string) (bool, error) {
	in, err := os.Lstat(dir)
	if err != nil {
		return false, err
	}
	out, err := os.Lstat(filepath.Dir(filepath.Clean(dir)))
	if err != nil {
		return false, err
	}
	return in.Sys().(*syscall.Stat_t).Dev != out.Sys().(*syscall.Stat_t).Dev, nil
}
