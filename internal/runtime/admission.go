package runtime

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"
)

// Steps of a pod's start that wait for each other. A later step counts as having waited longer: of fifty pods that
// come at once the first then run while the last wait, where they would all be ready at the end otherwise.
const (
	admitSandbox = 0
	admitCreate  = 5 * time.Second
	admitStart   = 10 * time.Second
)

// admissionLease is how long a step keeps its place. One that takes longer (its disk, its shim or its network hangs)
// goes on, but holds up nobody.
const admissionLease = 100 * time.Millisecond

// admission lets few steps run at once, the one that waits longest first. More at once than the processors can do
// would end none of them sooner.
type admission struct {
	places int
	lease  time.Duration

	mu      sync.Mutex
	taken   int
	waiting []*waiter // by since, the oldest first
}

type waiter struct {
	since    time.Time
	admitted chan struct{} // closed once it has a place
}

func newAdmission() *admission {
	return &admission{places: 4 * runtime.GOMAXPROCS(0), lease: admissionLease}
}

// enter waits for a place, as one that has waited for headStart already. The caller must call leave.
func (a *admission) enter(ctx context.Context, headStart time.Duration) (leave func(), err error) {
	a.mu.Lock()
	if a.taken < a.places {
		a.taken++
		a.mu.Unlock()
		return a.leased(), nil
	}
	w := &waiter{since: time.Now().Add(-headStart), admitted: make(chan struct{})}
	at, _ := slices.BinarySearchFunc(a.waiting, w, func(old, w *waiter) int {
		if old.since.After(w.since) {
			return 1
		}
		return -1
	})
	a.waiting = slices.Insert(a.waiting, at, w)
	a.mu.Unlock()
	select {
	case <-w.admitted:
		return a.leased(), nil
	case <-ctx.Done():
	}
	a.mu.Lock()
	at = slices.Index(a.waiting, w)
	if at >= 0 {
		a.waiting = slices.Delete(a.waiting, at, at+1)
	}
	a.mu.Unlock()
	if at < 0 { // it was admitted meanwhile
		a.leave()
	}
	return nil, fmt.Errorf("wait for other starts: %w", ctx.Err())
}

// leased returns what gives the place back, once: the caller, or the end of the lease.
func (a *admission) leased() (leave func()) {
	var once sync.Once
	free := func() { once.Do(a.leave) }
	t := time.AfterFunc(a.lease, free)
	return func() { t.Stop(); free() }
}

func (a *admission) leave() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.waiting) == 0 {
		a.taken--
		return
	}
	w := a.waiting[0]
	a.waiting = slices.Delete(a.waiting, 0, 1)
	close(w.admitted)
}
