package sys

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// MountShm mounts a tmpfs of at most size bytes at the folder dir, writable by all with the sticky bit, as
// /dev/shm is. Unpin takes it away.
func MountShm(dir string, size int64) error {
	data := "mode=1777,size=" + strconv.FormatInt(size, 10)
	if err := unix.Mount("shm", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, data); err != nil {
		return &os.PathError{Op: "mount tmpfs", Path: dir, Err: err}
	}
	return nil
}
