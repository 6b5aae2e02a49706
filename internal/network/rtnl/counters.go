package rtnl

import (
	"encoding/binary"
	"fmt"
	"syscall"

	"github.com/vishvananda/netlink/nl"
)

// Counters are what went through one link since it was made, as its own namespace sees it.
type Counters struct {
	Index                                   int
	RxPackets, RxBytes, RxErrors, RxDropped uint64
	TxPackets, TxBytes, TxErrors, TxDropped uint64
}

// Of linux/if_link.h and linux/rtnetlink.h.
const (
	rtmNewStats      = 92
	rtmGetStats      = 94
	sizeofIfStatsMsg = 12
	iflaStatsLink64  = 1 // a struct rtnl_link_stats64
)

// ifStatsMsg asks for one kind of counters (struct if_stats_msg).
type ifStatsMsg struct{ filter uint32 }

func (ifStatsMsg) Len() int { return sizeofIfStatsMsg }
func (m ifStatsMsg) Serialize() []byte {
	return binary.NativeEndian.AppendUint32(make([]byte, 8, sizeofIfStatsMsg), m.filter)
}

// LinkCounters reads the counters of all links of the namespace at one request, and of each link nothing else: for a pair
// the kernel would look through all namespaces that it knows for that of the other end. A link that comes or goes meanwhile may be
// missing.
func (c *Conn) LinkCounters() ([]Counters, error) {
	req := nl.NewNetlinkRequest(rtmGetStats, syscall.NLM_F_DUMP)
	req.AddData(ifStatsMsg{filter: 1 << (iflaStatsLink64 - 1)})
	var out []Counters
	err := c.dump(message{what: "read counters of links", req: req}, rtmNewStats, func(b []byte) {
		if len(b) < sizeofIfStatsMsg {
			return
		}
		n := Counters{Index: int(binary.NativeEndian.Uint32(b[4:]))}
		attributes(b[sizeofIfStatsMsg:], func(kind uint16, value []byte) {
			if kind != iflaStatsLink64 || len(value) < 8*8 {
				return
			}
			for i, to := range []*uint64{&n.RxPackets, &n.TxPackets, &n.RxBytes, &n.TxBytes, &n.RxErrors, &n.TxErrors, &n.RxDropped, &n.TxDropped} {
				*to = binary.NativeEndian.Uint64(value[8*i:])
			}
			out = append(out, n)
		})
	})
	return out, err
}

// PortAliases reads the texts kept with the ports of the bridge with the given index, by their indexes.
func (c *Conn) PortAliases(bridge int) (map[int]string, error) {
	req := nl.NewNetlinkRequest(syscall.RTM_GETLINK, syscall.NLM_F_DUMP)
	req.AddData(nl.NewIfInfomsg(syscall.AF_UNSPEC))
	add(req, syscall.IFLA_MASTER, nl.Uint32Attr(uint32(bridge)))
	out := map[int]string{}
	err := c.dump(message{what: "list a bridge's ports", req: req}, syscall.RTM_NEWLINK, func(b []byte) {
		if len(b) < syscall.SizeofIfInfomsg {
			return
		}
		alias, ours := "", false // a kernel that knows no filter by bridge sends all links
		attributes(b[syscall.SizeofIfInfomsg:], func(kind uint16, value []byte) {
			switch {
			case kind == iflaIfAlias:
				alias = nl.BytesToString(value)
			case kind == syscall.IFLA_MASTER && len(value) >= 4:
				ours = int(binary.NativeEndian.Uint32(value)) == bridge
			}
		})
		if ours {
			out[int(nl.DeserializeIfInfomsg(b).Index)] = alias
		}
	})
	return out, err
}

// dump sends a request and calls f with each answer of the given type until the last.
func (c *Conn) dump(m message, kind uint16, f func(data []byte)) error {
	if err := c.sock.Send(m.req.Serialize()); err != nil {
		return fmt.Errorf("%s: %w", m.what, err)
	}
	buf := rooms.Get().(*[16 << 10]byte)
	defer rooms.Put(buf)
	for {
		n, err := c.sock.Receive(buf[:])
		if err != nil {
			return fmt.Errorf("%s: %w", m.what, err)
		}
		answers, err := syscall.ParseNetlinkMessage(buf[:n])
		if err != nil {
			return fmt.Errorf("%s: %w", m.what, err)
		}
		for _, a := range answers {
			switch {
			case a.Header.Seq != m.req.Seq: // of an earlier batch that was given up
			case a.Header.Type == syscall.NLMSG_DONE:
				return nil
			case a.Header.Type == syscall.NLMSG_ERROR:
				return failure(m, a)
			case a.Header.Type == kind:
				f(a.Data)
			}
		}
	}
}

// attributes calls f with each attribute of a message, up to the first that does not fit.
func attributes(b []byte, f func(kind uint16, value []byte)) {
	for len(b) >= syscall.SizeofRtAttr {
		size, kind := int(binary.NativeEndian.Uint16(b)), binary.NativeEndian.Uint16(b[2:])
		if size < syscall.SizeofRtAttr || size > len(b) {
			return
		}
		f(kind, b[syscall.SizeofRtAttr:size])
		b = b[min(len(b), (size+syscall.RTA_ALIGNTO-1)&^(syscall.RTA_ALIGNTO-1)):]
	}
}
