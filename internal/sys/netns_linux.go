package sys

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

const threadNetNS = "/proc/thread-self/ns/net"

// NewNetNS makes a network namespace, runs inside on a thread that is in it, and pins it by a bind mount
// on the file path, which must exist. The pin is made last: where there is a pin, inside has succeeded.
// The calling goroutine stays in its own namespace.
func NewNetNS(path string, inside func() error) error {
	return inOtherNetNS(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare network namespace: %w", err)
		}
		if err := inside(); err != nil {
			return err
		}
		if err := unix.Mount(threadNetNS, path, "", unix.MS_BIND, ""); err != nil {
			return &os.PathError{Op: "bind network namespace", Path: path, Err: err}
		}
		return nil
	})
}

// PinNetNS runs inside on a thread that is in the network namespace ns, and then pins that on the file path,
// which must exist.
func PinNetNS(path string, ns *os.File, inside func() error) error {
	return InNetNS(ns, func() error {
		if err := inside(); err != nil {
			return err
		}
		if err := unix.Mount(threadNetNS, path, "", unix.MS_BIND, ""); err != nil {
			return &os.PathError{Op: "bind network namespace", Path: path, Err: err}
		}
		return nil
	})
}

// SpareNetNS makes a network namespace, runs inside on a thread that is in it, and returns it. Nothing pins it: it
// goes with the file, and with this process.
func SpareNetNS(inside func() error) (ns *os.File, err error) {
	err = inOtherNetNS(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare network namespace: %w", err)
		}
		if err := inside(); err != nil {
			return err
		}
		ns, err = OpenThreadNetNS()
		return err
	})
	return ns, err
}

// BindNetNS pins the network namespace ns on the file path, which must exist.
func BindNetNS(path string, ns *os.File) error {
	if err := unix.Mount(descriptorPath(ns), path, "", unix.MS_BIND, ""); err != nil {
		return &os.PathError{Op: "bind network namespace", Path: path, Err: err}
	}
	return nil
}

// InNetNS runs f on a thread that is in the network namespace ns. Goroutines that f starts are not.
func InNetNS(ns *os.File, f func() error) error {
	return inOtherNetNS(func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return &os.PathError{Op: "enter network namespace", Path: ns.Name(), Err: err}
		}
		return f()
	})
}

// inOtherNetNS runs f, which changes its thread's network namespace.
func inOtherNetNS(f func() error) error { return OnThreadAndBack([]string{"net"}, f) }

// ErrNotNetNS says that a file is not a network namespace.
var ErrNotNetNS = errors.New("not a network namespace")

// OpenNetNS opens the network namespace that is pinned at path. The error wraps ErrNotNetNS where path
// is another kind of file, and fs.ErrNotExist where it is missing.
func OpenNetNS(path string) (*os.File, error) {
	// O_NONBLOCK: a FIFO at this place must not hold us.
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if errors.Is(err, unix.ELOOP) {
		fd, err = openMagicLink(path)
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil {
		unix.Close(fd)
		return nil, &os.PathError{Op: "statfs", Path: path, Err: err}
	}
	kind := -1
	if st.Type == unix.NSFS_MAGIC {
		kind, err = unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE)
	}
	if err != nil || kind != unix.CLONE_NEWNET {
		unix.Close(fd)
		return nil, &os.PathError{Op: "open", Path: path, Err: ErrNotNetNS}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// openMagicLink opens a path whose last part is a link, as /proc/PID/ns/net is. What it leads to is
// checked by the caller on the descriptor.
func openMagicLink(path string) (int, error) {
	return unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
}

// OpenThreadNetNS opens the network namespace of the calling thread.
func OpenThreadNetNS() (*os.File, error) { return os.Open(threadNetNS) }

// Unpin takes a bind mount away from the file path, at once for new users of the path. No mount there, or
// no file, is success.
func Unpin(path string) error {
	err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err == nil || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return &os.PathError{Op: "unmount", Path: path, Err: err}
}
