package runtime

import (
	"context"
	"sync"
)

// actor runs operations one after the other, in the order in which they came. It has a goroutine
// while there is something to do and none otherwise.
type actor struct {
	mu    sync.Mutex
	queue []func()
	busy  bool
	// joins holds the operations in flight by name.
	joins map[string]*operation
}

// operation is something in flight that any number of callers may wait for.
type operation struct {
	done chan struct{}
	err  error
}

// wait returns the operation's result, or the context's error if that ends first; the operation
// goes on.
func (o *operation) wait(ctx context.Context) error {
	select {
	case <-o.done:
		return o.err
	default:
	}
	select {
	case <-o.done:
		return o.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// join returns the operation called name that is in flight, or queues f as a new one.
func (a *actor) join(name string, f func() error) *operation {
	a.mu.Lock()
	defer a.mu.Unlock()
	if o := a.joins[name]; o != nil {
		return o
	}
	o := &operation{done: make(chan struct{})}
	if a.joins == nil {
		a.joins = map[string]*operation{}
	}
	a.joins[name] = o
	a.push(func() {
		err := f()
		a.mu.Lock()
		if delete(a.joins, name); len(a.joins) == 0 {
			a.joins = nil
		}
		a.mu.Unlock()
		o.err = err
		close(o.done)
	})
	return o
}

// do queues f as an operation that nobody joins.
func (a *actor) do(f func() error) *operation {
	o := &operation{done: make(chan struct{})}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.push(func() {
		o.err = f()
		close(o.done)
	})
	return o
}

func (a *actor) push(f func()) {
	a.queue = append(a.queue, f)
	if !a.busy {
		a.busy = true
		go a.work()
	}
}

func (a *actor) work() {
	for {
		a.mu.Lock()
		if len(a.queue) == 0 {
			a.queue, a.busy = nil, false
			a.mu.Unlock()
			return
		}
		f := a.queue[0]
		a.queue[0] = nil // what it holds, as its caller's context, goes with it
		a.queue = a.queue[1:]
		a.mu.Unlock()
		f()
	}
}
