package network

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/11f9778f/berth/internal/failpoint"
	"github.com/11f9778f/berth/internal/network/firewall"
	"github.com/11f9778f/berth/internal/network/rtnl"
	"github.com/11f9778f/berth/internal/trace"
)

// bridge is what the Manager knows of the bridge and the table.
type bridge struct {
	mu    sync.Mutex
	index int   // 0 until the bridge is known to be there
	noNAT error // why there is no table, where the kernel lacks nftables
}

// ensure makes what all pods share, if it is not there: forwarding, the bridge with its addresses, the table.
// It returns the bridge's index.
func (m *Manager) ensure(ctx context.Context) (int, error) {
	m.bridge.mu.Lock()
	defer m.bridge.mu.Unlock()
	if m.bridge.index != 0 {
		return m.bridge.index, nil
	}
	defer trace.Start(ctx, "network.bridge")()
	if err := m.checkForeign(); err != nil {
		return 0, err
	}
	subnets := m.book.Subnets()
	if err := m.inHost(func() error { return m.enableForwarding(subnets) }); err != nil {
		return 0, err
	}
	if err := failpoint.Here("network/bridge/before"); err != nil {
		return 0, err
	}
	var index int
	err := m.onHost(func(c *rtnl.Conn) (err error) {
		index, err = c.CreateBridge(m.host, m.cfg.Bridge, m.cfg.bridgeMAC(), m.cfg.MTU, gateways(subnets))
		return err
	})
	if err != nil {
		return 0, err
	}
	if err := failpoint.Here("network/bridge/after"); err != nil {
		return 0, err
	}
	if err := m.inHost(m.tuneBridge); err != nil {
		return 0, err
	}
	if err := m.buildTable(); err != nil {
		return 0, err
	}
	m.warnOfDropping()
	m.bridge.index = index
	return index, nil
}

// warnOfDropping tells of another program's firewall that keeps pods from the world.
func (m *Manager) warnOfDropping() {
	found, err := m.dropping()
	if err != nil {
		m.log.Debug("other firewall tables are not known", "error", err)
	}
	var chains []string
	for _, c := range found {
		chains = append(chains, c.name)
	}
	if len(chains) > 0 {
		m.log.Warn("another program's firewall drops forwarded packets: pods may not reach the world, nor it their host ports, until its rules let the bridge pass",
			"chains", strings.Join(chains, ", "), "bridge", m.cfg.Bridge)
	}
}

// forget makes the next ensure look again.
func (m *Manager) forget() {
	m.bridge.mu.Lock()
	m.bridge.index = 0
	m.bridge.mu.Unlock()
}

// buildTable makes or replaces the table, with the ports of the book. A kernel without nftables is told of
// once; pods then have no masquerade.
func (m *Manager) buildTable() error {
	if err := failpoint.Here("network/table/before"); err != nil {
		return err
	}
	var ports []firewall.Forward
	for _, e := range m.book.Entries() {
		ports = append(ports, forwards(e)...)
	}
	err := m.table.Build(m.book.Subnets(), ports)
	if errors.Is(err, firewall.ErrNotSupported) && len(ports) == 0 {
		m.log.Warn("pods reach each other and this host only, and can have no host ports", "error", err)
		m.bridge.noNAT = err
		return nil
	}
	if err != nil {
		return err
	}
	m.bridge.noNAT = nil
	return failpoint.Here("network/table/after")
}

// checkForeign refuses a bridge that belongs to another daemon: two address books for one network would give
// one address twice.
func (m *Manager) checkForeign() error {
	l, ok, err := m.findBridge()
	if err != nil || !ok || l.Kind != "bridge" {
		return err
	}
	if bytes.HasPrefix(l.MAC, bridgeMAC) && !bytes.Equal(l.MAC, m.cfg.bridgeMAC()) {
		return fmt.Errorf("bridge %s belongs to a daemon with another run directory: configure another bridge name", m.cfg.Bridge)
	}
	return nil
}

func (m *Manager) findBridge() (rtnl.Link, bool, error) {
	links, err := rtnl.List(m.host)
	i := slices.IndexFunc(links, func(l rtnl.Link) bool { return l.Name == m.cfg.Bridge })
	if err != nil || i < 0 {
		return rtnl.Link{}, false, err
	}
	return links[i], true, nil
}

// removeBridge removes the bridge if this daemon made it and nobody else's link is in it.
func (m *Manager) removeBridge() error {
	links, err := rtnl.List(m.host)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(links, func(l rtnl.Link) bool {
		return l.Name == m.cfg.Bridge && bytes.Equal(l.MAC, m.cfg.bridgeMAC())
	})
	if i < 0 {
		return nil
	}
	for _, l := range links {
		if _, ours := m.cfg.ownerOf(l.Alias); l.Master == links[i].Index && !ours && l.Alias != m.cfg.alias("") {
			m.log.Warn("the bridge stays, for a link that is not Berth's is in it", "bridge", m.cfg.Bridge, "link", l.Name)
			return nil
		}
	}
	m.forget()
	return m.onHost(func(c *rtnl.Conn) error { return c.DeleteLink(m.cfg.Bridge) })
}

// tuneBridge sets the bridge's sysctls. It runs in the host's namespace.
func (m *Manager) tuneBridge() error {
	// Answers to the host's own processes come back to 127.0.0.1; the table guards what else is there.
	file := "/proc/sys/net/ipv4/conf/" + m.cfg.Bridge + "/route_localnet"
	if err := os.WriteFile(file, []byte("1"), 0); err != nil {
		return fmt.Errorf("let host ports answer on loopback: %w", err)
	}
	for _, name := range []string{
		"accept_ra",  // a pod's router advertisements are not for the host
		"accept_dad", // the bridge is alone with its addresses, and asks for neighbours from its first pod on
	} {
		err := os.WriteFile("/proc/sys/net/ipv6/conf/"+m.cfg.Bridge+"/"+name, []byte("0"), 0)
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // a kernel without IPv6
			return err
		}
	}
	return nil
}

// enableForwarding switches routing on where it is off, and says so. It stays on: others may have come to
// need it. It runs in the host's namespace.
func (m *Manager) enableForwarding(subnets []netip.Prefix) error {
	for _, s := range subnets {
		if s.Addr().Is4() {
			if err := m.setHost("net/ipv4/ip_forward", "1"); err != nil {
				return err
			}
			continue
		}
		if err := m.keepRouterAdvertisements(); err != nil {
			return err
		}
		if err := m.setHost("net/ipv6/conf/all/forwarding", "1"); err != nil {
			return err
		}
	}
	return nil
}

// keepRouterAdvertisements lets links that learn their routes from a router go on doing so: with forwarding
// on, 1 means "no longer" and 2 means "all the same" (kernel, ip-sysctl, accept_ra).
func (m *Manager) keepRouterAdvertisements() error {
	const root = "/proc/sys/"
	if on, _ := os.ReadFile(root + "net/ipv6/conf/all/forwarding"); strings.TrimSpace(string(on)) == "1" {
		return nil
	}
	files, err := filepath.Glob(root + "net/ipv6/conf/*/accept_ra")
	if err != nil {
		return err
	}
	for _, f := range files {
		link := filepath.Base(filepath.Dir(f))
		value, _ := os.ReadFile(f)
		if strings.TrimSpace(string(value)) != "1" || link == "lo" || link == "all" || link == "default" || link == m.cfg.Bridge {
			continue
		}
		if err := m.setHost(strings.TrimPrefix(f, root), "2"); err != nil {
			return err
		}
	}
	return nil
}

// setHost sets a sysctl of the host, if it is not so already, tells of it, and remembers the old value.
func (m *Manager) setHost(name, value string) error {
	file := "/proc/sys/" + name
	old, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("read sysctl: %w", err)
	}
	was := strings.TrimSpace(string(old))
	if was == value {
		return nil
	}
	if err := m.remember(name, was); err != nil {
		return err
	}
	if err := failpoint.Here("network/sysctl/before"); err != nil {
		return err
	}
	if err := os.WriteFile(file, []byte(value), 0); err != nil {
		return fmt.Errorf("set sysctl: %w", err)
	}
	m.log.Info("a setting of the host is changed, for pods to be routed, and stays so", "sysctl", strings.ReplaceAll(name, "/", "."), "from", was, "to", value)
	return failpoint.Here("network/sysctl/after")
}

// remember notes the value that a sysctl had before Berth changed it, for whoever wants it back.
func (m *Manager) remember(name, value string) error {
	file := filepath.Join(m.cfg.RunDir, "network", "sysctls-before.json")
	have := map[string]string{}
	if b, err := os.ReadFile(file); err == nil {
		_ = json.Unmarshal(b, &have) // a damaged note is written anew
	}
	if _, ok := have[name]; ok {
		return nil
	}
	have[name] = value
	b, err := json.Marshal(have)
	if err != nil {
		return err
	}
	if err := os.WriteFile(file+".tmp", b, 0o600); err != nil {
		return err
	}
	return os.Rename(file+".tmp", file)
}
