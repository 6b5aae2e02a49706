package rtnl

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
)

// ErrNotBridge says that a link has the bridge's name and is something else.
var ErrNotBridge = errors.New("a link of this name exists and is not a bridge")

// CreateBridge makes the bridge name, or takes the one that is there, gives it the addresses and brings it
// up. It returns its index.
func (c *Conn) CreateBridge(ns *os.File, name string, mac net.HardwareAddr, mtu int, addrs []netip.Prefix) (int, error) {
	create := linkRequest(syscall.NLM_F_CREATE|syscall.NLM_F_EXCL, syscall.IFF_UP)
	add(create, syscall.IFLA_IFNAME, nl.ZeroTerminated(name))
	add(create, syscall.IFLA_MTU, nl.Uint32Attr(uint32(mtu)))
	// An address of its own: otherwise the bridge takes the lowest of its ports', and changes it with them.
	add(create, syscall.IFLA_ADDRESS, mac)
	info := nl.NewRtAttr(syscall.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("bridge"))
	create.AddData(info)
	err := c.do(message{what: "create bridge " + name, req: create, ok: []syscall.Errno{syscall.EEXIST}})
	if err != nil {
		return 0, err
	}
	h, err := handle(ns)
	if err != nil {
		return 0, err
	}
	defer h.Close()
	link, err := h.LinkByName(name)
	if err != nil {
		return 0, fmt.Errorf("find bridge %s: %w", name, err)
	}
	if link.Type() != "bridge" {
		return 0, fmt.Errorf("create bridge %s: %w (%s)", name, ErrNotBridge, link.Type())
	}
	index := link.Attrs().Index
	if err := c.LinkUp(index); err != nil {
		return 0, err
	}
	var msgs []message
	for _, a := range addrs {
		msgs = append(msgs, newAddress(index, a))
	}
	if len(msgs) == 0 {
		return index, nil
	}
	return index, c.do(msgs...)
}

// Link is what List tells of a link.
type Link struct {
	Name, Alias, Kind string
	Index, Master     int
	MAC               net.HardwareAddr
}

// List returns all links of the namespace ns, or of the thread's where ns is nil.
func List(ns *os.File) ([]Link, error) {
	h, err := handle(ns)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	var all []netlink.Link
	err = untorn(func() error { all, err = h.LinkList(); return err })
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	var out []Link
	for _, l := range all {
		a := l.Attrs()
		out = append(out, Link{Name: a.Name, Alias: a.Alias, Kind: l.Type(), Index: a.Index, Master: a.MasterIndex, MAC: a.HardwareAddr})
	}
	return out, nil
}

// Route is a destination that the namespace has a route for, and the name of the link that it leads to.
type Route struct {
	Destination netip.Prefix
	Link        string
	MTU         int // of the link
}

// Routes returns the unicast routes of all tables, default routes with a zero-length destination.
func Routes(ns *os.File) ([]Route, error) {
	h, err := handle(ns)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	var links []netlink.Link
	if err := untorn(func() error { links, err = h.LinkList(); return err }); err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	byIndex := map[int]*netlink.LinkAttrs{}
	for _, l := range links {
		byIndex[l.Attrs().Index] = l.Attrs()
	}
	var out []Route
	for _, fam := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		var routes []netlink.Route
		err := untorn(func() error {
			routes, err = h.RouteListFiltered(fam, &netlink.Route{Table: 0}, netlink.RT_FILTER_TABLE)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("list routes: %w", err)
		}
		for _, r := range routes {
			if dst, ok := destination(r, fam); ok {
				out = append(out, describe(dst, byIndex[r.LinkIndex]))
			}
		}
	}
	return out, nil
}

func describe(dst netip.Prefix, link *netlink.LinkAttrs) Route {
	if link == nil {
		return Route{Destination: dst}
	}
	return Route{Destination: dst, Link: link.Name, MTU: link.MTU}
}

func destination(r netlink.Route, fam int) (netip.Prefix, bool) {
	if r.Dst == nil {
		if fam == netlink.FAMILY_V4 {
			return netip.PrefixFrom(netip.IPv4Unspecified(), 0), true
		}
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0), true
	}
	ip, ok := netip.AddrFromSlice(r.Dst.IP)
	ones, _ := r.Dst.Mask.Size()
	return netip.PrefixFrom(ip.Unmap(), ones), ok
}

// ForgetFlows makes connection tracking forget UDP flows that match, so that a new rule counts for them.
// A kernel that cannot is left alone: its entries run out by themselves.
func ForgetFlows(ns *os.File, v6 bool, match func(protocol uint8, originalPort uint16, replySource netip.Addr) bool) error {
	h, err := handle(ns, syscall.NETLINK_NETFILTER)
	if err != nil {
		return err
	}
	defer h.Close()
	fam := netlink.InetFamily(netlink.FAMILY_V4)
	if v6 {
		fam = netlink.FAMILY_V6
	}
	_, err = h.ConntrackDeleteFilters(netlink.ConntrackTable, fam, flowFilter(match))
	if errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.EINVAL) {
		return nil
	}
	return err
}

type flowFilter func(uint8, uint16, netip.Addr) bool

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (f flowFilter) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	reply, _ := netip.AddrFromSlice(flow.Reverse.SrcIP)
	return f(flow.Forward.Protocol, flow.Forward.DstPort, reply.Unmap())
}

func handle(ns *os.File, families ...int) (*netlink.Handle, error) {
	if len(families) == 0 {
		families = []int{syscall.NETLINK_ROUTE}
	}
	at := netns.None()
	if ns != nil {
		at = netns.NsHandle(int(ns.Fd()))
	}
	h, err := netlink.NewHandleAt(at, families...)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	return h, nil
}

// untorn repeats a dump that the kernel says was changed while it was read.
func untorn(dump func() error) error {
	var err error
	for range 10 {
		if err = dump(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return err
		}
	}
	return err
}
