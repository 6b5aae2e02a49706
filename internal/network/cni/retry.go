package cni

import (
	"context"
	"errors"
	"io/fs"
	"sync"
	"time"
)

// retry asks for DEL again where it was refused, and for sandboxes of an earlier boot, which nobody else knows.
type retry struct {
	poke chan struct{}
	// first is closed when what an earlier daemon or boot left was asked for once, and GC too.
	first chan struct{}
	stop  context.CancelFunc
	done  sync.WaitGroup
}

func (r *retry) wake() {
	select {
	case r.poke <- struct{}{}:
	default:
	}
}

func (r *retry) end() {
	r.stop()
	r.done.Wait()
}

func (n *Network) startRetry() {
	ctx, stop := context.WithCancel(context.Background())
	n.retry = retry{poke: make(chan struct{}, 1), first: make(chan struct{}), stop: stop}
	n.retry.done.Go(func() { n.keepTrying(ctx) })
}

// keepTrying runs until ctx ends: at once for what the last daemon or boot left, then with growing pauses while
// something is owed.
func (n *Network) keepTrying(ctx context.Context) {
	const first, longest = time.Second, time.Minute
	pause, owed := first, n.payDebts(ctx)
	if err := n.collect(ctx); err != nil && ctx.Err() == nil {
		n.log.Warn("the CNI plugins could not be told which pods there are (GC)", "error", err)
	}
	close(n.retry.first)
	for {
		var again <-chan time.Time
		if owed {
			again = time.After(pause)
		}
		select {
		case <-ctx.Done():
			return
		case <-n.retry.poke: // whoever was refused has been told, and may ask again himself
			pause, owed = first, true
			continue
		case <-again:
		}
		owed = n.payDebts(ctx)
		pause = min(2*pause, longest)
	}
}

// payDebts asks for the DELs that are owed, and tells whether some still are.
func (n *Network) payDebts(ctx context.Context) (owed bool) {
	all, _, err := n.records.list()
	if err != nil {
		n.log.Warn("the records of CNI attachments can not be read", "error", err)
		return true
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	places := make(chan struct{}, 4) // plugins that hang take that many at most
	for _, a := range all {
		if a.State != detaching && a.Boot == n.boot {
			continue // it lives, or whoever attaches it still does
		}
		wg.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			if err := n.payDebt(ctx, a.ID); err != nil && ctx.Err() == nil {
				n.log.Warn("a pod is gone, and the CNI plugins refuse DEL: it is asked for again", "sandbox", a.ID, "network", a.Network.Name, "error", err)
				mu.Lock()
				owed = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return owed
}

// payDebt looks again when nobody else works on the sandbox.
func (n *Network) payDebt(ctx context.Context, id string) error {
	unlock, err := n.Lock(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	a, err := n.records.read(id)
	if errors.Is(err, fs.ErrNotExist) || err == nil && a.State != detaching && a.Boot == n.boot {
		return nil
	}
	if err != nil {
		return err
	}
	return n.remove(ctx, a)
}
