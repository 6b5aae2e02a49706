package network

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/11f9778f/berth/internal/network/nettest"
)

// BenchmarkPod measures what a pod's start and stop wait for: namespace, attach, detach, unpin. The removal
// of links by the kernel goes on beside it, and is in the way of the next pod, as it is on a node.
func BenchmarkPod(b *testing.B) {
	for _, spares := range []int{0, 2} {
		ports := spares
		b.Run(fmt.Sprintf("ports=%d,spares=%d", ports, spares), func(b *testing.B) {
			h := newHost(b, func(c *Config) { c.Spares = spares })
			h.pod("first") // bridge and table are there
			var mappings []PortMapping
			for i := range ports {
				mappings = append(mappings, PortMapping{HostPort: uint16(9000 + i), ContainerPort: 80})
			}
			var parts [4]time.Duration
			n := 0
			for b.Loop() {
				if spares > 0 { // between pods that come one by one there is time
					nettest.Await(b, "there are spares", func() bool { return !h.spares.missing() })
				}
				id := fmt.Sprintf("pod-%d", n)
				n++
				h.measure(&parts, id, mappings)
			}
			for i, name := range []string{"netns", "attach", "detach", "unpin"} {
				b.ReportMetric(float64(parts[i].Microseconds())/float64(n), name+"-µs/op")
			}
		})
	}
}

func (h *host) measure(parts *[4]time.Duration, id string, mappings []PortMapping) {
	ctx, last := context.Background(), time.Now()
	lap := func(i int, err error) {
		if err != nil {
			h.Fatal(err)
		}
		parts[i] += time.Since(last)
		last = time.Now()
	}
	path, err := h.CreateNetNS(ctx, id, nil)
	lap(0, err)
	_, err = h.Attach(ctx, Request{SandboxID: id, NetNS: path, PortMappings: mappings})
	lap(1, err)
	lap(2, h.Detach(ctx, id))
	lap(3, h.RemoveNetNS(ctx, id))
}
