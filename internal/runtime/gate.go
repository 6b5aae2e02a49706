package runtime

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"
)

// gatePatience is how long a checkpoint waits for the execs that run in the container. A probe's has ended by then; a
// person's shell has not.
const gatePatience = 10 * time.Second

// gate keeps the execs and the checkpoints of a container apart: a process of exec is no child of the container's own,
// and CRIU can't write it.
type gate struct {
	mu     sync.Mutex
	inside int
	shut   chan struct{} // not nil while shut; closed when it opens
	empty  chan struct{} // not nil while shut waits; closed when nobody is inside
}

// enter waits until the gate is open, and leaves it when leave is called.
func (g *gate) enter(ctx context.Context) (leave func(), err error) {
	for {
		g.mu.Lock()
		shut := g.shut
		if shut == nil {
			g.inside++
			g.mu.Unlock()
			return g.leave, nil
		}
		g.mu.Unlock()
		select {
		case <-shut:
		case <-ctx.Done():
			return nil, fmt.Errorf("a checkpoint of the container is being made: %w", ctx.Err())
		}
	}
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside--
	if g.inside == 0 && g.empty != nil {
		close(g.empty)
		g.empty = nil
	}
}

// close lets nobody in any more and waits until nobody is inside, but not for long. open opens the gate again.
func (g *gate) close(ctx context.Context) (open func(), err error) {
	g.mu.Lock()
	if g.shut != nil {
		g.mu.Unlock()
		return nil, fmt.Errorf("another checkpoint of it is being made: %w", errdefs.ErrFailedPrecondition)
	}
	g.shut = make(chan struct{})
	var empty chan struct{}
	if g.inside > 0 {
		empty = make(chan struct{})
		g.empty = empty
	}
	g.mu.Unlock()
	if empty == nil {
		return g.open, nil
	}
	late := time.NewTimer(gatePatience)
	defer late.Stop()
	select {
	case <-empty:
		return g.open, nil
	case <-ctx.Done():
		err = ctx.Err()
	case <-late.C:
		err = fmt.Errorf("commands of exec run in it: end them first: %w", errdefs.ErrFailedPrecondition)
	}
	g.open()
	return nil, err
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.shut)
	g.shut, g.empty = nil, nil
}

func (g *gate) isShut() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.shut != nil
}
