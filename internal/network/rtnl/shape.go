package rtnl

import (
	"fmt"
	"os"

	"github.com/vishvananda/netlink"
)

// latency is how long a packet may wait for its turn before it is dropped.
const latencySeconds = 0.025

// Shape delays what is sent by a link of the namespace ns (nil is the thread's) to rate bits a second, with burst
// bits at once (tc-tbf(8)). What was set before is replaced.
func Shape(ns *os.File, name string, rate, burst uint64) error {
	h, err := handle(ns)
	if err != nil {
		return err
	}
	defer h.Close()
	link, err := h.LinkByName(name)
	if err != nil {
		return missing(name, err)
	}
	bytes, bucket := rate/8, float64(burst)/8
	err = h.QdiscReplace(&netlink.Tbf{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
		Rate:       bytes,
		Buffer:     netlink.Xmittime(bytes, uint32(bucket)),
		Limit:      uint32(min(float64(bytes)*latencySeconds+bucket, 1<<32-1)),
	})
	if err != nil {
		return fmt.Errorf("limit %s to %d bits a second: %w", name, rate, err)
	}
	return nil
}

// Shaped returns the rate that Shape has set, in bits a second; 0 is none.
func Shaped(ns *os.File, name string) (uint64, error) {
	h, err := handle(ns)
	if err != nil {
		return 0, err
	}
	defer h.Close()
	link, err := h.LinkByName(name)
	if err != nil {
		return 0, missing(name, err)
	}
	qdiscs, err := h.QdiscList(link)
	if err != nil {
		return 0, fmt.Errorf("list queues of %s: %w", name, err)
	}
	for _, q := range qdiscs {
		if tbf, ok := q.(*netlink.Tbf); ok {
			return tbf.Rate * 8, nil
		}
	}
	return 0, nil
}
