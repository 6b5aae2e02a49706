package rtnl

import (
	"encoding/binary"
	"fmt"
	"syscall"

	"github.com/vishvananda/netlink/nl"
)

// Counters are what went through one link since it was made, as its own namespace sees it.
type Counters struct {
	Alias                                   string
	RxPackets, RxBytes, RxErrors, RxDropped uint64
	TxPackets, TxBytes, TxErrors, TxDropped uint64
}

// iflaStats64 is IFLA_STATS64, a struct rtnl_link_stats64.
const iflaStats64 = 23

// PortCounters reads the counters of all ports of the bridge with the given index, at one request. A port that comes or
// goes meanwhile may be missing.
func (c *Conn) PortCounters(bridge int) ([]Counters, error) {
	fail := func(err error) ([]Counters, error) {
		return nil, fmt.Errorf("read counters of a bridge's ports: %w", err)
	}
	req := nl.NewNetlinkRequest(syscall.RTM_GETLINK, syscall.NLM_F_DUMP)
	req.AddData(nl.NewIfInfomsg(syscall.AF_UNSPEC))
	add(req, syscall.IFLA_MASTER, nl.Uint32Attr(uint32(bridge)))
	if err := c.sock.Send(req.Serialize()); err != nil {
		return fail(err)
	}
	var out []Counters
	for {
		n, err := c.sock.Receive(c.buf)
		if err != nil {
			return fail(err)
		}
		answers, err := syscall.ParseNetlinkMessage(c.buf[:n])
		if err != nil {
			return fail(err)
		}
		for _, a := range answers {
			switch {
			case a.Header.Seq != req.Seq: // of an earlier batch that was given up
			case a.Header.Type == syscall.NLMSG_DONE:
				return out, nil
			case a.Header.Type == syscall.NLMSG_ERROR:
				if err := failure(message{what: "list links", req: req}, a); err != nil {
					return fail(err)
				}
			case a.Header.Type == syscall.RTM_NEWLINK:
				if p, ok := portOf(a.Data, bridge); ok {
					out = append(out, p)
				}
			}
		}
	}
}

// portOf reads a link's message. A kernel that knows no filter by bridge sends all links.
func portOf(b []byte, bridge int) (p Counters, ok bool) {
	if len(b) < syscall.SizeofIfInfomsg {
		return p, false
	}
	counted := false
	for b = b[syscall.SizeofIfInfomsg:]; len(b) >= syscall.SizeofRtAttr; {
		size, kind := int(binary.NativeEndian.Uint16(b)), binary.NativeEndian.Uint16(b[2:])
		if size < syscall.SizeofRtAttr || size > len(b) {
			return p, false
		}
		value := b[syscall.SizeofRtAttr:size]
		switch {
		case kind == iflaIfAlias:
			p.Alias = nl.BytesToString(value)
		case kind == syscall.IFLA_MASTER && len(value) >= 4:
			ok = int(binary.NativeEndian.Uint32(value)) == bridge
		case kind == iflaStats64 && len(value) >= 8*8:
			counted = true
			for i, to := range []*uint64{&p.RxPackets, &p.TxPackets, &p.RxBytes, &p.TxBytes, &p.RxErrors, &p.TxErrors, &p.RxDropped, &p.TxDropped} {
				*to = binary.NativeEndian.Uint64(value[8*i:])
			}
		}
		b = b[min(len(b), (size+syscall.RTA_ALIGNTO-1)&^(syscall.RTA_ALIGNTO-1)):]
	}
	return p, ok && counted
}
