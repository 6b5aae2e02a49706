package image

import (
	"context"
	"sync"
)

// flights lets several callers share one piece of work. The work runs on while anybody waits for it: a
// caller that goes away takes nobody else's work with it, the last one to go cancels it.
type flights struct {
	mu sync.Mutex
	m  map[string]*flight
}

type flight struct {
	waiters int // Invariant: > 0 while the flight is in the map.
	cancel  context.CancelFunc
	done    chan struct{}
	err     error // set before done is closed
	state   *layerState
}

// join returns the flight called key, and whether the caller has started it by that. The caller must
// call wait. base is the life of the work; work runs in a goroutine of its own.
func (f *flights) join(base context.Context, key string, state *layerState, work func(context.Context, *layerState) error) (*flight, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if fl, ok := f.m[key]; ok {
		fl.waiters++
		return fl, false
	}
	ctx, cancel := context.WithCancel(base)
	fl := &flight{waiters: 1, cancel: cancel, done: make(chan struct{}), state: state}
	if f.m == nil {
		f.m = map[string]*flight{}
	}
	f.m[key] = fl
	go func() {
		defer cancel()
		fl.err = work(ctx, state)
		f.forget(key, fl)
		close(fl.done)
	}()
	return fl, true
}

// any says whether there is work under way that somebody waits for.
func (f *flights) any() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.m) > 0
}

func (f *flights) forget(key string, fl *flight) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.m[key] == fl {
		delete(f.m, key)
	}
}

// wait returns the work's error, or ctx's when that ends first. The last caller to leave cancels the work
// and sees it end, so that nothing of it is left when it returns.
func (f *flights) wait(ctx context.Context, key string, fl *flight) error {
	select {
	case <-fl.done:
		return fl.err
	case <-ctx.Done():
	}
	f.mu.Lock()
	fl.waiters--
	last := fl.waiters == 0
	if last && f.m[key] == fl {
		delete(f.m, key) // who comes now starts anew
	}
	f.mu.Unlock()
	if last {
		fl.cancel()
		<-fl.done
	}
	return context.Cause(ctx)
}
