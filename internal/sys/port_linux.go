package sys

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// ErrPortInUse says that a process of this machine has the port.
var ErrPortInUse = errors.New("port in use")

// HoldPort binds addr and keeps it bound until the file is closed, so that no other process can take it.
// It does not listen: who connects is refused as if nobody were there. protocol is "tcp", "udp" or "sctp".
// The error wraps ErrPortInUse where another process has the port. The file may be nil without an error:
// the port is free, but cannot be held (the kernel has no SCTP, or old connections linger on the port).
func HoldPort(protocol string, addr netip.AddrPort) (*os.File, error) {
	f, err := bindPort(protocol, addr, false)
	if !errors.Is(err, ErrPortInUse) || protocol != "tcp" {
		return f, err
	}
	// Connections of a former server in TIME_WAIT look like a server to a bind without SO_REUSEADDR.
	// With it, and with listen, only a living one counts.
	f, again := bindPort(protocol, addr, true)
	if again != nil {
		return nil, err
	}
	return nil, f.Close()
}

// ListenPort binds addr for who serves it; with protocol "tcp" it listens, and old connections that linger are no
// hindrance. Errors are those of HoldPort.
func ListenPort(protocol string, addr netip.AddrPort) (*os.File, error) {
	return bindPort(protocol, addr, protocol == "tcp")
}

func bindPort(protocol string, addr netip.AddrPort, listen bool) (*os.File, error) {
	fail := func(err error) (*os.File, error) {
		if errors.Is(err, unix.EADDRINUSE) {
			err = ErrPortInUse
		}
		return nil, fmt.Errorf("bind %s %s: %w", protocol, addr, err)
	}
	var sa unix.Sockaddr
	family, ip := unix.AF_INET, addr.Addr().Unmap()
	if ip.Is4() {
		sa = &unix.SockaddrInet4{Port: int(addr.Port()), Addr: ip.As4()}
	} else {
		family, sa = unix.AF_INET6, &unix.SockaddrInet6{Port: int(addr.Port()), Addr: ip.As16()}
	}
	kind, proto := unix.SOCK_STREAM, unix.IPPROTO_TCP
	switch protocol {
	case "udp":
		kind, proto = unix.SOCK_DGRAM, unix.IPPROTO_UDP
	case "sctp":
		proto = unix.IPPROTO_SCTP
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, proto)
	if errors.Is(err, unix.EPROTONOSUPPORT) && protocol == "sctp" {
		return nil, nil
	}
	if err != nil {
		return fail(err)
	}
	f := os.NewFile(uintptr(fd), fmt.Sprintf("%s %s", protocol, addr))
	if family == unix.AF_INET6 {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
	}
	if err == nil && listen {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	}
	if err == nil {
		err = unix.Bind(fd, sa)
	}
	if err == nil && listen {
		err = unix.Listen(fd, unix.SOMAXCONN)
	}
	if err != nil {
		f.Close()
		return fail(err)
	}
	return f, nil
}
