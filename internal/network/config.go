package network

import (
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/11f9778f/berth/internal/network/book"
	"github.com/11f9778f/berth/internal/network/netns"
	"github.com/11f9778f/berth/internal/network/rtnl"
)

const (
	defaultBridge = "berth0"
	defaultTable  = "berth"
	defaultPrefix = "bth"
	defaultMTU    = 1500
	maxLinkName   = 15 // IFNAMSIZ without the final zero
	podInterface  = "eth0"
)

// candidates are the default subnets, in the order of preference.
var candidates = []string{
	"10.88.0.0/16", "10.89.0.0/16", "10.90.0.0/16", "10.91.0.0/16", "10.92.0.0/16", "10.93.0.0/16", "10.94.0.0/16", "10.95.0.0/16",
	"172.28.0.0/16", "192.168.88.0/24",
}

var linkName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*$`)

// withDefaults checks a configuration and fills in what needs no look at the host.
func (c Config) withDefaults() (Config, error) {
	if c.RunDir == "" {
		return c, errors.New("no run directory is configured")
	}
	abs, err := filepath.Abs(c.RunDir)
	if err != nil {
		return c, err
	}
	c.RunDir = abs
	if c.Bridge == "" {
		c.Bridge = defaultBridge
	}
	if c.Table == "" {
		c.Table = defaultTable
		if c.Bridge != defaultBridge {
			c.Table += "_" + c.Bridge // a second daemon on this host
		}
	}
	if c.LinkPrefix == "" {
		c.LinkPrefix = defaultPrefix
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if len(c.Bridge) > maxLinkName || !linkName.MatchString(c.Bridge) {
		return c, fmt.Errorf("bridge name %q: want at most %d letters, digits, dots, dashes", c.Bridge, maxLinkName)
	}
	if len(c.LinkPrefix) > 5 || !linkName.MatchString(c.LinkPrefix) {
		return c, fmt.Errorf("link prefix %q: want at most 5 letters, digits, dots, dashes", c.LinkPrefix)
	}
	if len(c.Table) > 64 || !linkName.MatchString(c.Table) {
		return c, fmt.Errorf("table name %q: want at most 64 letters, digits, dots, dashes", c.Table)
	}
	if c.MTU != 0 && (c.MTU < 576 || c.MTU > 65535) {
		return c, fmt.Errorf("MTU %d: want 576 to 65535", c.MTU)
	}
	return c, CheckSubnets(c.Subnets)
}

// CheckSubnets refuses what can be no pods' address ranges: at most one of each family.
func CheckSubnets(subnets []netip.Prefix) error {
	var have4, have6 bool
	for _, s := range subnets {
		switch {
		case !s.IsValid() || s.Addr().Is4In6() || s != s.Masked():
			return fmt.Errorf("pod subnet %s: want a network's own address and length, as 10.88.0.0/16", s)
		case s.Addr().Is4() && (s.Bits() > 30 || s.Bits() < 8):
			return fmt.Errorf("pod subnet %s: want a length of 8 to 30", s)
		case s.Addr().Is6() && (s.Bits() > 126 || s.Bits() < 16):
			return fmt.Errorf("pod subnet %s: want a length of 16 to 126", s)
		case s.Addr().IsLoopback() || s.Addr().IsMulticast() || s.Addr().IsLinkLocalUnicast():
			return fmt.Errorf("pod subnet %s: loopback, multicast and link-local ranges are no pods'", s)
		case s.Addr().Is4() && have4, s.Addr().Is6() && have6:
			return fmt.Errorf("pod subnet %s: there is one of its family already", s)
		}
		have4, have6 = have4 || s.Addr().Is4(), have6 || s.Addr().Is6()
	}
	return nil
}

// fit completes a configuration with what depends on the host's routes: the subnets and the MTU.
func (c Config) fit(routes []rtnl.Route) (Config, error) {
	if c.MTU == 0 {
		c.MTU = defaultMTU
		for _, r := range routes {
			if r.Destination.Bits() == 0 && r.MTU >= 576 && r.MTU < c.MTU {
				c.MTU = r.MTU
			}
		}
	}
	for _, s := range c.Subnets {
		if r, ok := overlap(s, routes, c.Bridge); ok {
			c.Logger.Warn("the pods' subnet overlaps a route of the host, which pods will not reach", "subnet", s, "route", r.Destination, "link", r.Link)
		}
	}
	if len(c.Subnets) > 0 {
		return c, nil
	}
	for _, s := range candidates { // the bridge's present one, if it has one
		for _, r := range routes {
			if r.Link == c.Bridge && r.Destination.String() == s {
				c.Subnets = []netip.Prefix{r.Destination}
				return c, nil
			}
		}
	}
	for i, s := range candidates {
		p := netip.MustParsePrefix(s)
		r, taken := overlap(p, routes, c.Bridge)
		if !taken {
			if i > 0 {
				c.Logger.Info("pods get addresses of another subnet than the default, which the host has a route for", "subnet", p)
			}
			c.Subnets = []netip.Prefix{p}
			return c, nil
		}
		c.Logger.Debug("a subnet is taken", "subnet", p, "route", r.Destination, "link", r.Link)
	}
	return c, errors.New("the host has routes for every subnet that pods could get by default: configure one that is free")
}

// overlap returns a route of the host that shares addresses with subnet. Default routes and those of the
// bridge itself don't count.
func overlap(subnet netip.Prefix, routes []rtnl.Route, bridge string) (rtnl.Route, bool) {
	for _, r := range routes {
		if r.Destination.Bits() > 0 && r.Link != bridge && r.Destination.Overlaps(subnet) {
			return r, true
		}
	}
	return rtnl.Route{}, false
}

// hostLink is the name of the host's end of a sandbox's link.
func (c Config) hostLink(id string) string {
	const digits = "0123456789abcdefghijklmnopqrstuvwxyz"
	h := fnv.New64a()
	h.Write([]byte(id))
	name := []byte(c.LinkPrefix)
	for sum := h.Sum64(); len(name) < maxLinkName; sum /= uint64(len(digits)) {
		name = append(name, digits[sum%uint64(len(digits))])
	}
	return string(name)
}

// alias is the text that a link carries to tell whose it is.
func (c Config) alias(id string) string { return c.Bridge + "/" + id }

// ownerOf is the inverse of alias.
func (c Config) ownerOf(alias string) (string, bool) {
	bridge, id, ok := strings.Cut(alias, "/")
	return id, ok && bridge == c.Bridge && netns.CheckID(id) == nil
}

// Hardware addresses of Berth begin so: locally administered, and told from other makers' by the rest.
var (
	podMAC    = []byte{0x0a, 0x58}
	bridgeMAC = []byte{0x0a, 0xbe}
)

// macOf is the hardware address of the pod with this address: the same address, the same hardware address,
// so that no neighbour's table is ever out of date.
func macOf(a netip.Addr) net.HardwareAddr {
	b := a.AsSlice()
	return append(net.HardwareAddr(nil), append(append([]byte(nil), podMAC...), b[len(b)-4:]...)...)
}

// bridgeMAC marks the bridge as made by the daemon with this run directory.
func (c Config) bridgeMAC() net.HardwareAddr {
	h := fnv.New32a()
	h.Write([]byte(c.RunDir + "\x00" + c.Bridge))
	return append(append(net.HardwareAddr(nil), bridgeMAC...), h.Sum(nil)...)
}

// gateways are the bridge's addresses in the subnets.
func gateways(subnets []netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range subnets {
		out = append(out, netip.PrefixFrom(book.Gateway(s), s.Bits()))
	}
	return out
}

// BootID names the present boot of the machine.
func BootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
