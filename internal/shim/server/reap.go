package server

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/11f9778f/berth/internal/sys"
)

// reapDelay is how long a dead child may stay: the engine takes its own within moments, so what is there later is an
// orphan.
const reapDelay = 5 * time.Second

// ReapOrphans makes the shim the parent of processes that a container in the host's pid namespace leaves behind, and
// buries them. It returns at once.
func (s *Server) ReapOrphans(ctx context.Context) {
	if err := sys.BecomeSubreaper(); err != nil {
		s.log.Warn("orphans of host-pid containers will not be reaped here", "err", err)
		return
	}
	died := make(chan os.Signal, 1)
	signal.Notify(died, syscall.SIGCHLD)
	go func() {
		defer signal.Stop(died)
		for {
			select {
			case <-died:
			case <-s.ended:
				return
			case <-ctx.Done():
				return
			}
			time.Sleep(reapDelay)
			s.reap()
		}
	}()
}

func (s *Server) reap() {
	if s.restores.Load() > 0 {
		return // the next child's end is a reason to look again
	}
	known := map[int]bool{}
	for _, t := range s.tasks() {
		t.mu.Lock()
		if t.main.p != nil {
			known[t.main.p.Pid()] = true
		}
		for _, p := range t.execs {
			if p.p != nil {
				known[p.p.Pid()] = true
			}
		}
		t.mu.Unlock()
	}
	for {
		_, ok, err := sys.ReapOrphan(func(pid int) bool { return known[pid] })
		if err != nil {
			s.log.Warn("reap orphans", "err", err)
		}
		if !ok {
			return
		}
	}
}
