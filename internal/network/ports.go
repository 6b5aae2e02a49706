package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"

	"github.com/11f9778f/berth/internal/failpoint"
	"github.com/11f9778f/berth/internal/network/book"
	"github.com/11f9778f/berth/internal/network/firewall"
	"github.com/11f9778f/berth/internal/network/rtnl"
	"github.com/11f9778f/berth/internal/trace"
)

// normalize turns port mappings into the book's form: protocols in small letters, "all addresses" as the zero
// value, mappings without a host port left out. subnets are those that pods get addresses of.
func normalize(in []PortMapping, subnets []netip.Prefix) ([]book.Port, error) {
	var out []book.Port
	for _, p := range in {
		if p.HostPort == 0 {
			continue
		}
		q := book.Port{Protocol: strings.ToLower(p.Protocol), HostIP: p.HostIP.Unmap(), HostPort: p.HostPort, ContainerPort: p.ContainerPort}
		if q.Protocol == "" {
			q.Protocol = "tcp"
		}
		if !q.HostIP.IsValid() || q.HostIP.IsUnspecified() {
			q.HostIP = netip.Addr{}
		}
		switch {
		case q.Protocol != "tcp" && q.Protocol != "udp" && q.Protocol != "sctp":
			return nil, fmt.Errorf("%w: host port %d: protocol %q: want TCP, UDP or SCTP", book.ErrInvalid, p.HostPort, p.Protocol)
		case q.ContainerPort == 0:
			return nil, fmt.Errorf("%w: host port %d: no container port", book.ErrInvalid, p.HostPort)
		case q.HostIP.Zone() != "":
			return nil, fmt.Errorf("%w: host port %d: host address %s: an address with a zone can not be published", book.ErrInvalid, p.HostPort, p.HostIP)
		case q.HostIP == netip.IPv6Loopback() && q.Protocol == "sctp":
			return nil, fmt.Errorf("%w: host port %d: the kernel routes nothing from ::1 to a pod, and SCTP is not relayed: use hostIP 127.0.0.1", book.ErrInvalid, p.HostPort)
		case q.HostIP.IsValid() && !slices.ContainsFunc(subnets, func(s netip.Prefix) bool { return s.Addr().Is4() == q.HostIP.Is4() }):
			return nil, fmt.Errorf("%w: host port %s: pods have no address of that family: configure a subnet for it", book.ErrInvalid, q)
		}
		out = append(out, q)
	}
	return out, nil
}

// forwards are the table's elements for an entry: each port for each address of its family.
func forwards(e book.Entry) []firewall.Forward {
	var out []firewall.Forward
	for _, p := range e.Ports {
		for _, a := range e.Addresses {
			if p.HostIP.IsValid() && p.HostIP.Is4() != a.Addr().Is4() {
				continue
			}
			out = append(out, firewall.Forward{
				Protocol: p.Protocol, HostIP: p.HostIP, HostPort: p.HostPort, To: netip.AddrPortFrom(a.Addr(), p.ContainerPort),
			})
		}
	}
	return out
}

// openPorts puts an entry's host ports into the table.
func (m *Manager) openPorts(ctx context.Context, e book.Entry) error {
	if len(e.Ports) == 0 {
		return nil
	}
	defer trace.Start(ctx, "network.ports")()
	m.bridge.mu.Lock()
	noNAT := m.bridge.noNAT
	m.bridge.mu.Unlock()
	if noNAT != nil {
		return fmt.Errorf("host ports: %w", noNAT)
	}
	ports := forwards(e)
	if err := failpoint.Here("network/ports/before"); err != nil {
		return err
	}
	err := m.table.Add(ports)
	if firewall.IsMissing(err) { // somebody flushed the ruleset
		m.log.Warn("the nftables table was removed by somebody and is made again", "table", m.cfg.Table)
		m.bridge.mu.Lock()
		err = m.buildTable()
		m.bridge.mu.Unlock()
	}
	if err != nil {
		return err
	}
	m.forgetFlows(e, ports)
	return failpoint.Here("network/ports/after")
}

// closePorts takes an entry's host ports out of the table and lets go of them.
func (m *Manager) closePorts(ctx context.Context, e book.Entry) error {
	if len(e.Ports) == 0 {
		return nil
	}
	defer trace.Start(ctx, "network.ports.remove")()
	if err := failpoint.Here("network/ports/remove/before"); err != nil {
		return err
	}
	ports := forwards(e)
	if err := m.table.Remove(ports); err != nil {
		return err
	}
	m.forgetFlows(e, ports)
	m.holds.release(e.Owner)
	return failpoint.Here("network/ports/remove/after")
}

// forgetFlows makes the kernel forget UDP flows to an entry's host ports. UDP has no beginning: a client that
// goes on sending would go on reaching whoever was there before.
func (m *Manager) forgetFlows(e book.Entry, ports []firewall.Forward) {
	var udp, v6 bool
	for _, p := range ports {
		udp, v6 = udp || p.Protocol == "udp", v6 || p.To.Addr().Is6()
	}
	if !udp {
		return
	}
	match := func(protocol uint8, port uint16, _ netip.Addr) bool {
		if protocol != syscall.IPPROTO_UDP {
			return false
		}
		for _, p := range ports {
			if p.Protocol == "udp" && p.HostPort == port {
				return true
			}
		}
		return false
	}
	err := rtnl.ForgetFlows(m.host, false, match)
	if v6 {
		err = errors.Join(err, rtnl.ForgetFlows(m.host, true, match))
	}
	if err != nil {
		m.log.Warn("old UDP flows to a host port are not forgotten", "sandbox", e.Owner, "error", err)
	}
}
