package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"

	"github.com/11f9778f/berth/internal/network/book"
	"github.com/11f9778f/berth/internal/network/relay"
	"github.com/11f9778f/berth/internal/sys"
)

// holds are the sockets that keep host ports from the processes of the host, and the relays of the host's ::1.
type holds struct {
	mu sync.Mutex
	m  map[string][]io.Closer
}

func (h *holds) has(owner string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, ok := h.m[owner]
	return ok
}

func (h *holds) put(owner string, held []io.Closer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.m == nil {
		h.m = map[string][]io.Closer{}
	}
	h.m[owner] = held
}

func (h *holds) release(owner string) {
	h.mu.Lock()
	held := h.m[owner]
	delete(h.m, owner)
	h.mu.Unlock()
	closeAll(held)
}

func (h *holds) closeAll() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, held := range h.m {
		closeAll(held)
	}
	h.m = nil
}

func closeAll(held []io.Closer) {
	for _, c := range held {
		c.Close()
	}
}

// hold binds an entry's host ports on the host, all or none, to learn that no process has them and to keep it
// so. An entry that holds its ports already goes on.
func (m *Manager) hold(e book.Entry) error {
	if len(e.Ports) == 0 || m.holds.has(e.Owner) {
		return nil
	}
	var held []io.Closer
	err := m.inHost(func() error {
		for _, p := range e.Ports {
			for _, addr := range hostAddresses(p, e) {
				c, err := m.holdAt(p, e, netip.AddrPortFrom(addr, p.HostPort))
				if err != nil {
					return explain(p, err)
				}
				if c != nil {
					held = append(held, c)
				}
			}
		}
		return nil
	})
	if err != nil {
		closeAll(held)
		return err
	}
	m.holds.put(e.Owner, held)
	return nil
}

// holdAt binds one address. What comes to the host's ::1 is relayed from there: the kernel would not.
func (m *Manager) holdAt(p book.Port, e book.Entry, at netip.AddrPort) (io.Closer, error) {
	if at.Addr() != netip.IPv6Unspecified() && at.Addr() != netip.IPv6Loopback() || p.Protocol == "sctp" {
		f, err := sys.HoldPort(p.Protocol, at)
		if f == nil {
			return nil, err
		}
		return f, err
	}
	f, err := sys.ListenPort(p.Protocol, at)
	if err != nil {
		return nil, err
	}
	var pod netip.AddrPort
	for _, a := range e.Addresses {
		if a.Addr().Is6() {
			pod = netip.AddrPortFrom(a.Addr(), p.ContainerPort)
		}
	}
	return relay.Start(p.Protocol, f, func(ctx context.Context) (c net.Conn, err error) {
		err = m.inHost(func() error {
			d := net.Dialer{FallbackDelay: -1} // a race of families would leave the namespace's thread
			c, err = d.DialContext(ctx, p.Protocol, pod.String())
			return err
		})
		return c, err
	})
}

// hostAddresses are the addresses to bind for a port: its own, or the unspecified one of each of the pod's
// families.
func hostAddresses(p book.Port, e book.Entry) []netip.Addr {
	if p.HostIP.IsValid() {
		return []netip.Addr{p.HostIP}
	}
	var out []netip.Addr
	for _, a := range e.Addresses {
		if a.Addr().Is4() {
			out = append(out, netip.IPv4Unspecified())
		} else {
			out = append(out, netip.IPv6Unspecified())
		}
	}
	return out
}

// explain says what to do about a port that can not be bound.
func explain(p book.Port, err error) error {
	switch {
	case errors.Is(err, sys.ErrPortInUse):
		return fmt.Errorf("host port %s is in use by a process of this host: choose another hostPort, or stop that process (ss -lnp shows it): %w", p, err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("%w: host port %s: %s is not an address of this host: leave hostIP out, or choose one that ip addr shows: %w", book.ErrInvalid, p, p.HostIP, err)
	}
	return fmt.Errorf("host port %s: %w", p, err)
}
