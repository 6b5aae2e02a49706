package server

import (
	"runtime/debug"
	"sync"
	"time"

	"github.com/11f9778f/berth/internal/sys"
)

// What a shim weighs is decided by its garbage more than by what it keeps: Go's collector moves nothing, so what stays is
// spread over as many pages as the heap had while it was made. And each collection touches memory of its own, half a MiB
// in the first ones, that never goes back.
const (
	// idleAfter is how long after the last work memory is given back.
	idleAfter = 3 * time.Second
	// someContainers are so many that the engine prepares for more.
	someContainers = 3
	// fewContainers need no collection before the first rest, which is what the program sets the collector to.
	fewContainers = 8
	// gcMany is the collector's percentage for more: the heap begins to be collected at 4 MiB. At 50 a shim of 72 pods weighs
	// 15 KiB a pod less, collects after 4 starts, and a node starts a tenth fewer pods a second.
	gcMany = 100
)

// rest gives memory back to the kernel when the shim has had nothing to do for a while.
type rest struct {
	mu         sync.Mutex
	timer      *time.Timer
	some, many bool
	forget     sync.Once // at the first rest; later ones would make the next container fetch its pages again
}

func (r *rest) later() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.timer == nil {
		r.timer = time.AfterFunc(idleAfter, r.give)
		return
	}
	r.timer.Reset(idleAfter)
}

func (r *rest) give() {
	debug.FreeOSMemory()
	r.forget.Do(func() { _ = sys.ForgetText() }) // what can't be forgotten stays
}

// begun gives back what only the program's start needed of its file, when that is over. A spare shim has no other rest.
func (*rest) begun() {
	time.AfterFunc(idleAfter, func() { _ = sys.ForgetText() })
}

// keeps sets the collector to the number of containers, and calls prepare when there are some. It goes up once: an empty shim
// ends soon.
func (r *rest) keeps(containers int, prepare func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if containers >= someContainers && !r.some {
		r.some = true
		go prepare()
	}
	if containers > fewContainers && !r.many {
		r.many = true
		debug.SetGCPercent(gcMany)
	}
}

// idle notes that some work is done.
func (s *Server) idle() {
	s.mu.Lock()
	containers := len(s.containers)
	s.mu.Unlock()
	s.rest.keeps(containers, s.prepare)
	s.rest.later()
}

func (s *Server) prepare() {
	s.gate.join()
	defer s.gate.leave()
	if err := s.cfg.Engine.Prepare(); err != nil {
		s.log.Warn("containers start in copies of all the host's mounts", "err", err)
	}
}
