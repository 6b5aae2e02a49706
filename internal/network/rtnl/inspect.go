package rtnl

import (
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
)

// Inside is what Inspect tells of a link.
type Inside struct {
	Index, Master, MTU int
	// Up is the administrator's switch.
	Up        bool
	MAC       net.HardwareAddr
	Addresses []netip.Prefix // without link-local ones
	Gateways  []netip.Addr   // of the default routes that lead out by the link
}

// Inspect looks at a link of the namespace ns, or of the thread's where ns is nil. IsMissing is true of the
// error where there is none of that name.
func Inspect(ns *os.File, name string) (Inside, error) {
	h, err := handle(ns)
	if err != nil {
		return Inside{}, err
	}
	defer h.Close()
	link, err := h.LinkByName(name)
	if err != nil {
		return Inside{}, missing(name, err)
	}
	a := link.Attrs()
	in := Inside{Index: a.Index, Master: a.MasterIndex, MTU: a.MTU, Up: a.Flags&net.FlagUp != 0, MAC: a.HardwareAddr}
	var addrs []netlink.Addr
	if err := untorn(func() error { addrs, err = h.AddrList(link, netlink.FAMILY_ALL); return err }); err != nil {
		return in, fmt.Errorf("list addresses of %s: %w", name, err)
	}
	for _, x := range addrs {
		ip, ok := netip.AddrFromSlice(x.IP)
		bits, _ := x.Mask.Size()
		if ip = ip.Unmap(); ok && !ip.IsLinkLocalUnicast() {
			in.Addresses = append(in.Addresses, netip.PrefixFrom(ip, bits))
		}
	}
	var routes []netlink.Route
	if err := untorn(func() error { routes, err = h.RouteList(link, netlink.FAMILY_ALL); return err }); err != nil {
		return in, fmt.Errorf("list routes by %s: %w", name, err)
	}
	for _, r := range routes {
		gw, ok := netip.AddrFromSlice(r.Gw)
		if ones, _ := size(r.Dst); ok && ones == 0 {
			in.Gateways = append(in.Gateways, gw.Unmap())
		}
	}
	return in, nil
}

func size(n *net.IPNet) (ones, bits int) {
	if n == nil {
		return 0, 0
	}
	return n.Mask.Size()
}

// missing gives a link that is not there the error that IsMissing knows.
func missing(name string, err error) error {
	if _, ok := err.(netlink.LinkNotFoundError); ok {
		return fmt.Errorf("find link %s: %w", name, os.ErrNotExist)
	}
	return fmt.Errorf("find link %s: %w", name, err)
}
