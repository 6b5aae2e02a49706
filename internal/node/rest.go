package node

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// restLook is how often the daemon looks whether it is busy, restQuiet what it allocates at most in that time when it
	// is not, and restWorth what it must have allocated since the last time that memory is given back once more.
	restLook  = 5 * time.Second
	restQuiet = 1 << 20
	restWorth = 8 << 20
)

// rest gives memory back to the kernel after each busy time, until ctx ends. Go's runtime by itself keeps what a burst of
// pods needed for minutes, and part of it for good.
func rest(ctx context.Context) {
	tick := time.NewTicker(restLook)
	defer tick.Stop()
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	var freed, last uint64
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		metrics.Read(sample)
		now := sample[0].Value.Uint64()
		if now-last < restQuiet && now-freed > restWorth {
			debug.FreeOSMemory()
			freed = now
		}
		last = now
	}
}
