package sys

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// RouteSocket is a NETLINK_ROUTE socket in the network namespace of the thread that opened it. It is for one
// goroutine at a time.
type RouteSocket struct{ fd int }

// OpenRouteSocket opens a socket in the calling thread's network namespace.
func OpenRouteSocket() (*RouteSocket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	// The kernel answers before send returns; the limit is for an answer that never comes.
	limit := unix.Timeval{Sec: 10}
	err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit)
	if err == nil {
		// Errors come with the kernel's own words. An old kernel without them is good enough.
		_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1)
		// Errors repeat the header of the request alone, not all of it.
		_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	}
	if err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("setsockopt", err)
	}
	return &RouteSocket{fd: fd}, nil
}

// Close closes the socket.
func (s *RouteSocket) Close() error { return unix.Close(s.fd) }

// Send sends one datagram of one or more messages to the kernel.
func (s *RouteSocket) Send(b []byte) error {
	for {
		err := unix.Sendto(s.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		if !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("sendto", err)
		}
	}
}

// Receive reads one datagram from the kernel into b and returns its length.
func (s *RouteSocket) Receive(b []byte) (int, error) {
	for {
		n, flags, from, err := s.receive(b)
		switch {
		case err != nil:
			return 0, os.NewSyscallError("recvmsg", err)
		case flags&unix.MSG_TRUNC != 0:
			return 0, fmt.Errorf("netlink answer longer than %d bytes", len(b))
		case from == 0: // from the kernel, and from nobody else
			return n, nil
		}
	}
}

func (s *RouteSocket) receive(b []byte) (n, flags int, port uint32, err error) {
	for {
		var from unix.Sockaddr
		n, _, flags, from, err = unix.Recvmsg(s.fd, b, nil, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if nl, ok := from.(*unix.SockaddrNetlink); ok {
			port = nl.Pid
		}
		return n, flags, port, err
	}
}
