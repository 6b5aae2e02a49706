package machine

import (
	"context"
	"fmt"
	"strconv"
	"sync"

	"github.com/11f9778f/berth/internal/runtime"
	"github.com/11f9778f/berth/internal/shim/client"
)

// Shims is runtime.Shims on the shims' manager.
func Shims(m *client.Manager) runtime.Shims {
	s := &shims{m: m, events: make(chan runtime.ShimEvent)}
	go s.translate()
	return s
}

type shims struct {
	m      *client.Manager
	events chan runtime.ShimEvent
	known  sync.Map // *client.Shim → *shim
}

func (s *shims) wrap(c *client.Shim) *shim {
	w, _ := s.known.LoadOrStore(c, &shim{c: c})
	return w.(*shim)
}

func (s *shims) Acquire(ctx context.Context, p runtime.Placement) (runtime.Shim, error) {
	c, err := s.m.Acquire(ctx, client.Placement{SandboxID: p.SandboxID, Tenant: p.Tenant, Handler: p.Handler})
	if err != nil {
		return nil, err
	}
	return s.wrap(c), nil
}

func (s *shims) Lookup(sandboxID string) (runtime.Shim, bool) {
	c, ok := s.m.Lookup(sandboxID)
	if !ok {
		return nil, false
	}
	return s.wrap(c), true
}

func (s *shims) Release(ctx context.Context, sandboxID string) error {
	c, ok := s.m.Lookup(sandboxID)
	if err := s.m.Release(ctx, sandboxID); err != nil {
		return err
	}
	if ok && !s.inUse(c.Group()) {
		s.known.Delete(c)
	}
	return nil
}

func (s *shims) inUse(group string) bool { return len(s.sandboxes(group)) > 0 }

func (s *shims) sandboxes(group string) []string {
	for _, g := range s.m.Inventory().Groups {
		if g.ID == group {
			return g.Sandboxes
		}
	}
	return nil
}

func (s *shims) Events() <-chan runtime.ShimEvent { return s.events }

// translate carries events over. An end of an exec is none of the runtime's concern, nor is the death
// of a shim that gets a successor.
func (s *shims) translate() {
	defer close(s.events)
	for e := range s.m.Events() {
		out := runtime.ShimEvent{ContainerID: e.ContainerID}
		switch {
		case e.Kind == client.EventExit && e.ExecID == "":
			out.Kind, out.Exit = runtime.ShimExit, exitOf(e.Exit)
		case e.Kind == client.EventOOM:
			out.Kind = runtime.ShimOOM
		case e.Kind == client.EventShimReplaced || e.Kind == client.EventShimAnswers:
			out.Kind, out.Sandboxes = runtime.ShimReplaced, s.sandboxes(e.Group)
		case e.Kind == client.EventShimLost && (e.Err != nil || s.foreign(e.Group)):
			out.Kind, out.Sandboxes = runtime.ShimLost, s.sandboxes(e.Group)
		default:
			continue
		}
		s.events <- out
	}
}

// foreign tells whether the group's shim is another project's, which has no successor.
func (s *shims) foreign(group string) bool {
	for _, id := range s.sandboxes(group) {
		if c, ok := s.m.Lookup(id); ok {
			return c.Berth() == nil
		}
	}
	return false
}

// Inventory lists a shim for every sandbox that has a place in it.
func (s *shims) Inventory(context.Context) ([]runtime.Resource, error) {
	inv := s.m.Inventory()
	var out []runtime.Resource
	for _, g := range inv.Groups {
		for _, id := range g.Sandboxes {
			out = append(out, runtime.Resource{Kind: "shim", Name: g.ID + " pid " + strconv.Itoa(g.Pid), Owner: id})
		}
	}
	for _, p := range inv.Unowned {
		out = append(out, runtime.Resource{Kind: "shim-file", Name: p})
	}
	return out, nil
}

var errNotBerth = fmt.Errorf("this runtime handler's shim can't do that")
