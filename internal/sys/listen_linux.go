package sys

import (
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// backlog is how many clients may wait to be accepted, if the kernel's somaxconn allows so many.
const backlog = 4096

// ListenUnix listens at path, on a socket of streams, or of packets. It is net.ListenUnix without the 64 KiB that package net
// reads somaxconn with, which a shim would keep; and the socket's file stays when the listener is closed.
func ListenUnix(path string, packets bool) (*net.UnixListener, error) {
	kind := unix.SOCK_STREAM
	if packets {
		kind = unix.SOCK_SEQPACKET
	}
	fd, err := unix.Socket(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("listen at %s: socket: %w", path, err)
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		return nil, fmt.Errorf("listen at %s: bind: %w", path, err)
	}
	if err := unix.Listen(fd, backlog); err != nil {
		return nil, fmt.Errorf("listen at %s: %w", path, err)
	}
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("listen at %s: %w", path, err)
	}
	return l.(*net.UnixListener), nil
}
