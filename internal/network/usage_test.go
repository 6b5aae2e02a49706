package network

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
)

// What the host's ends count is what the pods themselves see, the one side's received the other's sent.
func TestUsage(t *testing.T) {
	h := newHost(t, nil)
	ctx := context.Background()
	if all, err := h.Usage(ctx); err != nil || len(all) != 0 {
		t.Errorf("without a bridge: %v, %v", all, err)
	}
	a := h.pod("a")
	b := h.pod("b")
	h.Serve("b", "tcp", ":80", "b")
	h.Expect("a", "tcp", b.IPs[0].String()+":80", "b saw "+a.IPs[0].String())
	for _, id := range []string{"a", "b"} {
		before, err := h.Usage(ctx)
		if err != nil || len(before) != 2 {
			t.Fatalf("%v, %v", before, err)
		}
		inside := h.counters(id)
		after, err := h.Usage(ctx)
		if err != nil {
			t.Fatal(err)
		}
		low, high := before[id], after[id]
		if low.Interface != podInterface || low.RxPackets == 0 || low.TxBytes == 0 {
			t.Errorf("%s: %+v", id, low)
		}
		for i, bounds := range [][2]uint64{
			{low.RxBytes, high.RxBytes}, {low.RxPackets, high.RxPackets}, {low.TxBytes, high.TxBytes}, {low.TxPackets, high.TxPackets},
		} {
			if inside[i] < bounds[0] || inside[i] > bounds[1] {
				t.Errorf("%s sees %v, the host %+v and then %+v", id, inside, low, high)
			}
		}
	}
	h.Stop("a")
	if all, err := h.Usage(ctx); err != nil || all["b"].RxPackets == 0 {
		t.Errorf("after the other has gone: %v, %v", all, err)
	}
	h.pod("c")
	if all, err := h.Usage(ctx); err != nil || all["c"].Interface != podInterface || all["b"].RxPackets == 0 {
		t.Errorf("with another one: %v, %v", all, err)
	}
}

// counters are what a pod's interface has received and sent, in bytes and packets, as the pod sees it.
func (h *host) counters(id string) (n [4]uint64) {
	h.Helper()
	h.In(id, func() error {
		text, err := os.ReadFile("/proc/thread-self/net/dev")
		if err != nil {
			return err
		}
		_, line, _ := strings.Cut(string(text), podInterface+":")
		var skip uint64
		_, err = fmt.Sscan(line, &n[0], &n[1], &skip, &skip, &skip, &skip, &skip, &skip, &n[2], &n[3])
		return err
	})
	return n
}

// A pod without an IPv6 address from us has none at all, so that it does not announce itself to all others of the bridge.
func TestNoLinkLocal(t *testing.T) {
	h := newHost(t, nil)
	h.pod("a")
	h.In("a", func() error {
		text, err := os.ReadFile("/proc/thread-self/net/if_inet6")
		if err == nil && strings.Contains(string(text), podInterface) {
			t.Errorf("its addresses are\n%s", text)
		}
		if os.IsNotExist(err) { // no IPv6
			return nil
		}
		return err
	})
}
