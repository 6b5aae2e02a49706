package sys

import (
	"strings"

	"golang.org/x/sys/unix"
)

// xattrMax is the kernel's XATTR_SIZE_MAX.
const xattrMax = 64 << 10

func fsetxattr(fd int, name string, value []byte) error {
	return uninterrupted(func() error { return unix.Fsetxattr(fd, name, value, 0) })
}

func fgetxattr(fd int, name string) ([]byte, error) {
	buf := make([]byte, 256)
	for {
		n, err := unix.Fgetxattr(fd, name, buf)
		switch {
		case err == nil:
			return buf[:n], nil
		case err == unix.EINTR:
		case err == unix.ERANGE && len(buf) < xattrMax:
			buf = make([]byte, xattrMax)
		default:
			return nil, err
		}
	}
}

// flistxattr returns the names of at most 64 KiB of names.
func flistxattr(fd int) ([]string, error) {
	buf := make([]byte, 256)
	for {
		n, err := unix.Flistxattr(fd, buf)
		switch {
		case err == nil && n == 0:
			return nil, nil
		case err == nil:
			return strings.Split(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00"), nil
		case err == unix.EINTR:
		case err == unix.ERANGE && len(buf) < xattrMax:
			buf = make([]byte, xattrMax)
		default:
			return nil, err
		}
	}
}
