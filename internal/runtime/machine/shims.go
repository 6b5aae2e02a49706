package machine

import (
	"context"
	"errors"
	"strconv"
	"strings"
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
	ends   sync.WaitGroup // ends of containers of foreign shims that wait for their output
	known  sync.Map       // *client.Shim → runtime.Shim
	// foreigners are the containers of foreign shims: ID → *foreign.
	foreigners sync.Map
}

// beside is the place in one of Berth's own shims of a sandbox that a foreign one keeps.
func beside(sandboxID string) string { return sandboxID + besideSuffix }

const besideSuffix = ".io"

func (s *shims) wrap(c, own *client.Shim) runtime.Shim {
	if w, ok := s.known.Load(c); ok {
		return w.(runtime.Shim)
	}
	var w runtime.Shim = &shim{c: c}
	if own != nil {
		w = &foreign{shim: shim{c: c}, own: shim{c: own}, s: s}
	}
	v, _ := s.known.LoadOrStore(c, w)
	return v.(runtime.Shim)
}

func (s *shims) Acquire(ctx context.Context, p runtime.Placement) (runtime.Shim, error) {
	c, err := s.m.Acquire(ctx, client.Placement{SandboxID: p.SandboxID, Tenant: p.Tenant, Handler: p.Handler, Bundle: p.Bundle})
	if err != nil {
		return nil, err
	}
	var own *client.Shim
	if c.IsForeign() {
		if own, err = s.m.Acquire(ctx, client.Placement{SandboxID: beside(p.SandboxID), Tenant: p.Tenant}); err != nil {
			return nil, err // what was acquired is released with the sandbox
		}
	}
	return s.wrap(c, own), nil
}

func (s *shims) Lookup(sandboxID string) (runtime.Shim, bool) {
	c, ok := s.m.Lookup(sandboxID)
	if !ok {
		return nil, false
	}
	var own *client.Shim
	if c.IsForeign() {
		if own, ok = s.m.Lookup(beside(sandboxID)); !ok {
			return nil, false
		}
	}
	return s.wrap(c, own), true
}

func (s *shims) Release(ctx context.Context, sandboxID string) error {
	c, ok := s.m.Lookup(sandboxID)
	err := errors.Join(s.m.Release(ctx, sandboxID), s.m.Release(ctx, beside(sandboxID)))
	if err != nil {
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
	defer s.ends.Wait()
	for e := range s.m.Events() {
		out := runtime.ShimEvent{ContainerID: e.ContainerID}
		switch {
		case e.Kind == client.EventExit && e.ExecID == "":
			out.Kind = runtime.ShimExit
			if f, ok := s.foreigners.Load(e.ContainerID); ok {
				s.ends.Go(func() {
					out.Exit = f.(*foreign).ended(context.Background(), e.ContainerID, e.Exit)
					s.events <- out
				})
				continue
			}
			out.Exit = exitOf(e.Exit)
		case e.Kind == client.EventOOM:
			out.Kind, out.Exit.Reason = runtime.ShimOOM, oomReason(e.Victims)
		case e.Kind == client.EventShimReplaced || e.Kind == client.EventShimAnswers:
			out.Kind, out.Sandboxes = runtime.ShimReplaced, s.owners(e.Group)
		case e.Kind == client.EventShimLost && (e.Err != nil || s.foreign(e.Group)):
			out.Kind, out.Sandboxes = runtime.ShimLost, s.owners(e.Group)
		default:
			continue
		}
		s.events <- out
	}
}

// owners are the sandboxes that have a place in the group's shim, be it beside a foreign one.
func (s *shims) owners(group string) []string {
	var out []string
	for _, id := range s.sandboxes(group) {
		out = append(out, strings.TrimSuffix(id, besideSuffix))
	}
	return out
}

// foreign tells whether the group's shim is another project's, which has no successor.
func (s *shims) foreign(group string) bool {
	for _, id := range s.sandboxes(group) {
		if c, ok := s.m.Lookup(id); ok {
			return c.IsForeign()
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
			out = append(out, runtime.Resource{Kind: "shim", Name: g.ID + " pid " + strconv.Itoa(g.Pid), Owner: strings.TrimSuffix(id, besideSuffix)})
		}
	}
	for _, p := range inv.Unowned {
		out = append(out, runtime.Resource{Kind: "shim-file", Name: p})
	}
	return out, nil
}
