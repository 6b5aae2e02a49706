package server

import (
	"runtime/debug"
	"sync"
	"time"
)

// idleAfter is how long after the last work memory is given back.
const idleAfter = 3 * time.Second

// rest gives memory back to the kernel when the shim has had nothing to do for a while.
type rest struct {
	mu    sync.Mutex
	timer *time.Timer
}

func (r *rest) later() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.timer == nil {
		r.timer = time.AfterFunc(idleAfter, debug.FreeOSMemory)
		return
	}
	r.timer.Reset(idleAfter)
}

// idle notes that some work is done.
func (s *Server) idle() { s.rest.later() }
