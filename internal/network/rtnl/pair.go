package rtnl

import (
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"

	"github.com/vishvananda/netlink/nl"
)

// Attributes of if_link.h that package syscall does not name.
const (
	iflaIfAlias     = 20
	iflaAfSpec      = 26
	iflaNetNSFD     = 28
	iflaExtMask     = 29
	skipStats       = 8 // RTEXT_FILTER_SKIP_STATS
	iflaNumTxQueues = 31
	iflaNumRxQueues = 32
	inet6AddrGen    = 8 // IFLA_INET6_ADDR_GEN_MODE
	addrGenNone     = 1 // IN6_ADDR_GEN_MODE_NONE
	ifaFlags        = 8 // IFA_FLAGS
	ifaNoDAD        = 2 // IFA_F_NODAD
	protocolStatic  = 4 // RTPROT_STATIC
)

// Pair is a veth pair: one end on the host in a bridge, the other in a pod's namespace.
type Pair struct {
	// Host is the name of the host's end, Alias a text kept with it, Bridge the index of its bridge.
	Host, Alias string
	Bridge      int
	// Pod is the name of the other end in the namespace NetNS, with the hardware address MAC.
	Pod   string
	NetNS *os.File
	MAC   net.HardwareAddr
	MTU   int
	// Spare leaves the host's end down, for TakePair.
	Spare bool
}

// TakePair gives a spare pair, whose host's end has the index, its names, and brings that end up. IsExisting is
// true of the error where another link has the name.
func (c *Conn) TakePair(index int, p Pair) error {
	name := linkRequest(0, 0)
	add(name, syscall.IFLA_IFNAME, nl.ZeroTerminated(p.Host)) // while it is down: an older kernel wants it so
	alias := linkRequest(0, 0)
	add(alias, iflaIfAlias, []byte(p.Alias))
	add(alias, syscall.IFLA_MASTER, nl.Uint32Attr(uint32(p.Bridge))) // where it is; an error if that is gone
	up := linkRequest(0, syscall.IFF_UP)
	var msgs []message
	for _, req := range []*nl.NetlinkRequest{name, alias, up} {
		req.Data[0].(*nl.IfInfomsg).Index = int32(index)
		msgs = append(msgs, message{what: "take link for " + p.Host, req: req})
	}
	return c.do(msgs...)
}

// CreatePair makes the pair and brings the host's end up, with hairpin on and without an IPv6 address of its
// own. An error for which IsExisting is true means that a link of the host's name was there
// before; it has then got the alias and the other settings, but may lead elsewhere.
func (c *Conn) CreatePair(p Pair) error {
	host := nl.ZeroTerminated(p.Host)
	mtu := nl.Uint32Attr(uint32(p.MTU))
	one := nl.Uint32Attr(1) // one queue: the default is one for each CPU, in memory for each pod

	create := linkRequest(syscall.NLM_F_CREATE|syscall.NLM_F_EXCL, 0)
	add(create, syscall.IFLA_IFNAME, host)
	add(create, syscall.IFLA_MTU, mtu)
	add(create, iflaNumTxQueues, one)
	add(create, iflaNumRxQueues, one)
	add(create, syscall.IFLA_MASTER, nl.Uint32Attr(uint32(p.Bridge)))
	info := nl.NewRtAttr(syscall.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("veth"))
	peer := info.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(nl.VETH_INFO_PEER, nil)
	nl.NewIfInfomsgChild(peer, syscall.AF_UNSPEC) // not up: the kernel refuses, for it has no other end yet
	peer.AddRtAttr(syscall.IFLA_IFNAME, nl.ZeroTerminated(p.Pod))
	if p.MAC != nil {
		peer.AddRtAttr(syscall.IFLA_ADDRESS, p.MAC)
	}
	peer.AddRtAttr(syscall.IFLA_MTU, mtu)
	peer.AddRtAttr(iflaNumTxQueues, one)
	peer.AddRtAttr(iflaNumRxQueues, one)
	peer.AddRtAttr(iflaNetNSFD, nl.Uint32Attr(uint32(p.NetNS.Fd())))
	create.AddData(info)

	set := linkRequest(0, 0)
	add(set, syscall.IFLA_IFNAME, host)
	add(set, iflaIfAlias, []byte(p.Alias))
	port := nl.NewRtAttr(syscall.IFLA_LINKINFO, nil)
	port.AddRtAttr(nl.IFLA_INFO_SLAVE_KIND, nl.NonZeroTerminated("bridge"))
	port.AddRtAttr(nl.IFLA_INFO_SLAVE_DATA, nil).AddRtAttr(nl.IFLA_BRPORT_MODE, nl.Uint8Attr(1))
	set.AddData(port)
	set.AddData(noAddrGen())

	if p.Spare {
		return c.do(
			message{what: "create link " + p.Host, req: create},
			message{what: "set up link " + p.Host, req: set},
		)
	}
	up := linkRequest(0, syscall.IFF_UP) // after the others, so that no IPv6 address is made
	add(up, syscall.IFLA_IFNAME, host)

	return c.do(
		message{what: "create link " + p.Host, req: create},
		message{what: "set up link " + p.Host, req: set},
		message{what: "bring up link " + p.Host, req: up},
	)
}

// ConfigurePod brings the pod's end up and gives it its hardware address, if mac is not nil, its addresses and a
// default route by each gateway. Without an IPv6 address among them it gets no link-local one either: to announce and
// to probe that, the kernel would send every pod of the bridge a handful of packets at each start. What is there already stays. IsMissing is true of the error where there is no such end in this namespace.
func (c *Conn) ConfigurePod(name string, mac net.HardwareAddr, addrs []netip.Prefix, gateways []netip.Addr) error {
	index, err := c.Index(name)
	if err != nil {
		return err
	}
	up := linkUp(index)
	if mac != nil {
		add(up.req, syscall.IFLA_ADDRESS, mac)
	}
	var msgs []message
	if !slices.ContainsFunc(addrs, func(a netip.Prefix) bool { return a.Addr().Is6() }) {
		msgs = append(msgs, noLinkLocal(index))
	}
	msgs = append(msgs, up)
	for _, a := range addrs {
		msgs = append(msgs, newAddress(index, a))
	}
	for _, gw := range gateways {
		msgs = append(msgs, defaultRoute(index, gw))
	}
	return c.do(msgs...)
}

// noLinkLocal keeps the kernel from giving a link an IPv6 address of its own; the link is not up yet. A kernel without
// IPv6 gives none anyway.
func noLinkLocal(index int) message {
	req := linkRequest(0, 0)
	req.Data[0].(*nl.IfInfomsg).Index = int32(index)
	req.AddData(noAddrGen())
	return message{what: "set up link", req: req, ok: []syscall.Errno{syscall.EAFNOSUPPORT, syscall.EOPNOTSUPP}}
}

func noAddrGen() *nl.RtAttr {
	spec := nl.NewRtAttr(iflaAfSpec, nil)
	spec.AddRtAttr(syscall.AF_INET6, nil).AddRtAttr(inet6AddrGen, nl.Uint8Attr(addrGenNone))
	return spec
}

// ForgetPod takes the addresses from the pod's end, so that it no longer answers for them. No such end, or no
// such addresses, is success.
func (c *Conn) ForgetPod(name string, addrs []netip.Prefix) error {
	index, err := c.Index(name)
	if IsMissing(err) {
		return nil
	}
	if err != nil {
		return err
	}
	var msgs []message
	for _, a := range addrs {
		m := newAddress(index, a)
		m.what = "remove address " + a.String()
		m.req.Type, m.req.Flags = syscall.RTM_DELADDR, syscall.NLM_F_REQUEST
		m.ok = []syscall.Errno{syscall.EADDRNOTAVAIL, syscall.ENODEV}
		msgs = append(msgs, m)
	}
	return c.do(msgs...)
}

// Index returns the index of a link. IsMissing is true of the error where there is none of that name.
func (c *Conn) Index(name string) (int, error) {
	if err := c.do(getLink(name)); err != nil {
		return 0, err
	}
	return c.found, nil
}

func getLink(name string) message {
	req := nl.NewNetlinkRequest(syscall.RTM_GETLINK, 0)
	req.AddData(nl.NewIfInfomsg(syscall.AF_UNSPEC))
	add(req, syscall.IFLA_IFNAME, nl.ZeroTerminated(name))
	add(req, iflaExtMask, nl.Uint32Attr(skipStats))
	return message{what: "find link " + name, req: req}
}

// Settle makes the kernel act at once on the carrier that the links, in this order, have just got. Otherwise
// it does so when its link watch comes round, once a second, and until then sends nothing by a bridge that
// has got its first port. The kernel does it for whoever asks for the link (6.8 and later).
func (c *Conn) Settle(names ...string) error {
	var msgs []message
	for _, n := range names {
		msgs = append(msgs, getLink(n))
	}
	return c.do(msgs...)
}

// LinkUp brings the link with the given index up. Index 1 is lo.
func (c *Conn) LinkUp(index int) error { return c.do(linkUp(index)) }

func linkUp(index int) message {
	req := nl.NewNetlinkRequest(syscall.RTM_NEWLINK, 0)
	head := nl.NewIfInfomsg(syscall.AF_UNSPEC)
	head.Index, head.Flags, head.Change = int32(index), syscall.IFF_UP, syscall.IFF_UP
	req.AddData(head)
	return message{what: "bring link up", req: req}
}

// DeleteLink removes a link by name, and with it its other end. A missing link is success. Removal waits
// for a grace period of the kernel, some tens of milliseconds.
func (c *Conn) DeleteLink(name string) error {
	req := nl.NewNetlinkRequest(syscall.RTM_DELLINK, 0)
	req.AddData(nl.NewIfInfomsg(syscall.AF_UNSPEC))
	add(req, syscall.IFLA_IFNAME, nl.ZeroTerminated(name))
	return c.do(message{what: "delete link " + name, req: req, ok: []syscall.Errno{syscall.ENODEV}})
}

func linkRequest(flags int, set uint32) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(syscall.RTM_NEWLINK, flags)
	head := nl.NewIfInfomsg(syscall.AF_UNSPEC)
	head.Flags, head.Change = set, set
	req.AddData(head)
	return req
}

func add(req *nl.NetlinkRequest, kind int, value []byte) { req.AddData(nl.NewRtAttr(kind, value)) }

func family(a netip.Addr) int {
	if a.Is4() {
		return syscall.AF_INET
	}
	return syscall.AF_INET6
}

// newAddress adds an address to a link; one that is there is left alone.
func newAddress(index int, p netip.Prefix) message {
	req := nl.NewNetlinkRequest(syscall.RTM_NEWADDR, syscall.NLM_F_CREATE|syscall.NLM_F_EXCL)
	head := nl.NewIfAddrmsg(family(p.Addr()))
	head.Prefixlen, head.Index = uint8(p.Bits()), uint32(index)
	req.AddData(head)
	add(req, syscall.IFA_LOCAL, p.Addr().AsSlice())
	add(req, syscall.IFA_ADDRESS, p.Addr().AsSlice())
	switch {
	case p.Addr().Is6():
		// The book gives no address twice: looking for duplicates would only cost a second.
		add(req, ifaFlags, nl.Uint32Attr(ifaNoDAD))
	case p.Bits() < 31:
		add(req, syscall.IFA_BROADCAST, Last(p).AsSlice())
	}
	return message{what: "add address " + p.String(), req: req, ok: []syscall.Errno{syscall.EEXIST}}
}

func defaultRoute(index int, gateway netip.Addr) message {
	req := nl.NewNetlinkRequest(syscall.RTM_NEWROUTE, syscall.NLM_F_CREATE|syscall.NLM_F_EXCL)
	head := nl.NewRtMsg()
	head.Family, head.Protocol = uint8(family(gateway)), protocolStatic
	req.AddData(head)
	add(req, syscall.RTA_GATEWAY, gateway.AsSlice())
	add(req, syscall.RTA_OIF, nl.Uint32Attr(uint32(index)))
	return message{what: "add default route by " + gateway.String(), req: req, ok: []syscall.Errno{syscall.EEXIST}}
}

// Last returns the last address of a prefix.
func Last(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	last, _ := netip.AddrFromSlice(b)
	return last
}
