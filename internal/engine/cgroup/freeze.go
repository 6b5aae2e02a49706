package cgroup

import (
	"bytes"
	"context"
	"fmt"
)

// Freeze stops all processes of the group and its children, and returns when they stand still. A process that
// sleeps in the kernel uninterruptibly (on a dead disk, say) stands still only after it wakes: then ctx
// ends the wait, with the group thawed again.
func (g *Group) Freeze(ctx context.Context) error {
	h, err := g.freezer()
	if err != nil {
		return fmt.Errorf("freeze cgroup: %w", err)
	}
	wait := newBackoff()
	for {
		if err := g.setFreezer(h, true); err != nil {
			return fmt.Errorf("freeze cgroup: %w", err)
		}
		done, err := g.still(h)
		if err != nil {
			return fmt.Errorf("freeze cgroup: %w", err)
		}
		if done {
			return nil
		}
		if err := wait.sleep(ctx); err != nil {
			g.setFreezer(h, false)
			return fmt.Errorf("freeze cgroup %s: some process does not stop: %w", g.Path(), err)
		}
	}
}

// Thaw lets them run again.
func (g *Group) Thaw(ctx context.Context) error {
	h, err := g.freezer()
	if err == nil {
		err = g.setFreezer(h, false)
	}
	if err != nil {
		return fmt.Errorf("thaw cgroup: %w", err)
	}
	return nil
}

// Frozen tells whether Freeze was called for the group itself and Thaw was not.
func (g *Group) Frozen() (bool, error) {
	h, err := g.freezer()
	if err != nil {
		return false, fmt.Errorf("read the freezer's state: %w", err)
	}
	file, one := "/freezer.self_freezing", "1"
	if h.V2 {
		file = "/cgroup.freeze"
	}
	text, err := h.dir.Read(g.rel+file, nil)
	if err != nil {
		return false, fmt.Errorf("read the freezer's state: %w", err)
	}
	return string(bytes.TrimSpace(text)) == one, nil
}

// freezer is the hierarchy that freezes: the v1 controller, or v2, which needs none.
func (g *Group) freezer() (*hierarchy, error) {
	if h := g.h.find("freezer"); h != nil {
		return h, nil
	}
	if g.h.v2 != nil {
		return g.h.v2, nil
	}
	return nil, fmt.Errorf("%w: no freezer controller is mounted", ErrUnsupported)
}

func (g *Group) setFreezer(h *hierarchy, frozen bool) error { return h.setFreezer(g.rel, frozen) }

func (h *hierarchy) setFreezer(rel string, frozen bool) error {
	file, value := "/freezer.state", "THAWED"
	switch {
	case h.V2 && frozen:
		file, value = "/cgroup.freeze", "1"
	case h.V2:
		file, value = "/cgroup.freeze", "0"
	case frozen:
		value = "FROZEN"
	}
	_, err := h.dir.Write(rel+file, value)
	return err
}

// still tells whether all processes of the subtree have stopped. Reading freezer.state makes v1 look again.
func (g *Group) still(h *hierarchy) (bool, error) {
	file, want := "/freezer.state", "FROZEN"
	if h.V2 {
		file, want = "/cgroup.events", "frozen 1"
	}
	text, err := h.dir.Read(g.rel+file, nil)
	return bytes.Contains(text, []byte(want)), err
}
