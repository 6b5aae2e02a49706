package node

import (
	"context"
	"log/slog"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"

	"github.com/11f9778f/berth/internal/sys"
)

const (
	// gcPercent is the collector's percentage unless GOGC is set. Go's 100 takes more processor time of each pod's start; at
	// 200 the daemon weighs another MiB with 200 pods.
	gcPercent = 150
	// restLook is how often the daemon looks whether it is busy, restQuiet what it allocates at most in that time when it
	// is not, and restWorth what it must have allocated since the last time that memory is given back once more.
	restLook  = 5 * time.Second
	restQuiet = 1 << 20
	restWorth = 8 << 20
)

// rest gives memory back to the kernel after each busy time, until ctx ends. Go's runtime by itself keeps what a burst of
// pods needed for minutes, and part of it for good. The first time is when the daemon has begun: half of its file's pages
// were for that alone, and are forgotten. Later it forgets none, for the next pod would have to fetch them again.
func rest(ctx context.Context, log *slog.Logger) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	tick := time.NewTicker(restLook)
	defer tick.Stop()
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	last, freed, begun := sample[0].Value.Uint64(), uint64(0), false
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		metrics.Read(sample)
		now := sample[0].Value.Uint64()
		if now-last < restQuiet && (!begun || now-freed > restWorth) {
			debug.FreeOSMemory()
			freed = now
			if !begun {
				begun = true
				if err := sys.ForgetText(); err != nil {
					log.Warn("memory that only the start needed stays", "error", err)
				}
			}
		}
		last = now
	}
}
