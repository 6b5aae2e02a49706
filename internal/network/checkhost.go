package network

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/11f9778f/berth/internal/network/book"
	"github.com/11f9778f/berth/internal/network/rtnl"
)

// checkHost looks for what a sandbox needs on the host.
func (m *Manager) checkHost(e book.Entry) ([]Problem, error) {
	var out []Problem
	bad := func(remedy, format string, args ...any) {
		out = append(out, Problem{What: fmt.Sprintf(format, args...), Remedy: remedy})
	}
	bridge, err := rtnl.Inspect(m.host, m.cfg.Bridge)
	switch {
	case rtnl.IsMissing(err):
		bad("start the pods anew: the next one makes the bridge", "the bridge %s is gone, and the pods' links with it", m.cfg.Bridge)
	case err != nil:
		return nil, err
	default:
		if !bridge.Up {
			bad("ip link set "+m.cfg.Bridge+" up", "the bridge %s is down", m.cfg.Bridge)
		}
		for _, g := range gateways(m.book.Subnets()) {
			if !slices.Contains(bridge.Addresses, g) && slices.ContainsFunc(entryGateways(e), func(a netip.Addr) bool { return a == g.Addr() }) {
				bad(fmt.Sprintf("ip addr add %s dev %s", g, m.cfg.Bridge), "the bridge %s has lost the address %s, which the pod's default route leads to", m.cfg.Bridge, g)
			}
		}
	}
	name := m.cfg.hostLink(e.Owner)
	link, err := rtnl.Inspect(m.host, name)
	switch {
	case rtnl.IsMissing(err):
		bad(anew, "the host's end of the pod's link, %s, is gone", name)
	case err != nil:
		return nil, err
	case bridge.Index != 0 && link.Master != bridge.Index:
		bad(fmt.Sprintf("ip link set %s master %s", name, m.cfg.Bridge), "the pod's link %s is not in the bridge %s", name, m.cfg.Bridge)
	case !link.Up:
		bad("ip link set "+name+" up", "the host's end of the pod's link, %s, is down", name)
	}
	out = append(out, checkShape(m.host, name, e.Ingress)...)
	more, err := m.checkTable(e)
	return append(out, more...), err
}

// checkTable looks for the pod's host ports, for the rules that all pods share, and for forwarding.
func (m *Manager) checkTable(e book.Entry) ([]Problem, error) {
	const again = "restart the daemon: it makes the table anew, and pods run on"
	var out []Problem
	m.bridge.mu.Lock()
	noNAT := m.bridge.noNAT
	m.bridge.mu.Unlock()
	if noNAT != nil {
		return []Problem{{What: fmt.Sprintf("there is no masquerade: %v", noNAT)}}, nil
	}
	missing, err := m.table.Missing(m.book.Subnets())
	if err != nil {
		return nil, err
	}
	for _, what := range missing {
		out = append(out, Problem{What: "nftables: " + what, Remedy: again})
	}
	open, err := m.table.List()
	if err != nil {
		return nil, err
	}
	for _, f := range forwards(e) {
		if !slices.Contains(open, f) {
			out = append(out, Problem{What: fmt.Sprintf("nftables: the host port %s is missing in table %s", portName(f), m.cfg.Table), Remedy: again})
		}
	}
	return append(out, append(m.checkOthers(), m.checkForwarding(e)...)...), nil
}

// checkOthers looks for other programs' firewalls that keep pods from the world.
func (m *Manager) checkOthers() []Problem {
	chains, err := m.dropping()
	var out []Problem
	if err != nil {
		out = append(out, Problem{What: fmt.Sprintf("other firewall tables can not be looked at: %v", err)})
	}
	for _, c := range chains {
		out = append(out, Problem{
			What:   fmt.Sprintf("another program's firewall, %s, drops what is forwarded, and has no rule for the bridge %s: pods may not reach the world, nor it their host ports", c.name, m.cfg.Bridge),
			Remedy: c.remedy,
		})
	}
	return out
}

// foreignChain is one of another program's that drops what is forwarded.
type foreignChain struct{ name, remedy string }

// dropping looks for such chains, in nftables and in legacy iptables. What it has found stands beside an error.
func (m *Manager) dropping() (out []foreignChain, err error) {
	chains, err := m.table.Dropping()
	for _, c := range chains {
		out = append(out, foreignChain{c, fmt.Sprintf("nft insert rule %s iifname %s accept; nft insert rule %s oifname %s accept", c, m.cfg.Bridge, c, m.cfg.Bridge)})
	}
	var legacy []string
	lerr := m.inHost(func() (err error) { legacy, err = m.table.LegacyDropping(m.book.Subnets()); return err })
	for _, c := range legacy {
		out = append(out, foreignChain{"the chain FORWARD of " + c, fmt.Sprintf("%s -I FORWARD -i %s -j ACCEPT; %s -I FORWARD -o %s -j ACCEPT", c, m.cfg.Bridge, c, m.cfg.Bridge)})
	}
	return out, errors.Join(err, lerr)
}

// checkForwarding looks at the host's switches for routing.
func (m *Manager) checkForwarding(e book.Entry) []Problem {
	var out []Problem
	for _, a := range e.Addresses {
		name := "net/ipv4/ip_forward"
		if a.Addr().Is6() {
			name = "net/ipv6/conf/all/forwarding"
		}
		var b []byte
		err := m.inHost(func() (err error) { b, err = os.ReadFile("/proc/sys/" + name); return err })
		if err == nil && strings.TrimSpace(string(b)) == "0" {
			key := strings.ReplaceAll(name, "/", ".")
			out = append(out, Problem{What: "routing is switched off on this host: " + key + " is 0", Remedy: "sysctl -w " + key + "=1"})
		}
	}
	return out
}
