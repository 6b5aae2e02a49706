package cgroup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Create makes the group and its parents in all hierarchies, ready to be joined: under v1 cpuset.cpus
// and cpuset.mems are those of the parent, under v2 all controllers are enabled.
func (g *Group) Create(ctx context.Context) error {
	if err := g.CreateV2(ctx); err != nil {
		return err
	}
	return g.CreateV1(ctx)
}

// CreateV2 makes the group in the v2 hierarchy only, if there is one: what FD opens.
func (g *Group) CreateV2(ctx context.Context) error { return g.create(ctx, true) }

// CreateV1 makes the group in the v1 hierarchies only.
func (g *Group) CreateV1(ctx context.Context) error { return g.create(ctx, false) }

func (g *Group) create(ctx context.Context, v2 bool) error {
	for _, h := range g.h.list {
		if h.V2 != v2 {
			continue
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("create cgroup %s: %w", g.Path(), err)
		}
		if err := g.createIn(h); err != nil {
			return fmt.Errorf("create cgroup: %w", err)
		}
	}
	return nil
}

func (g *Group) createIn(h *hierarchy) error {
	// The parent is there nearly always: try the last step first.
	err := h.mkdir(g.rel)
	if errors.Is(err, fs.ErrNotExist) {
		for i, c := range g.rel {
			if c == '/' && err != nil {
				if err := h.mkdir(g.rel[:i]); err != nil {
					return err
				}
			}
		}
		err = h.mkdir(g.rel)
	}
	if err != nil {
		return err
	}
	switch {
	case h.V2 && g.h.unified:
		return g.enable(h, h.Controllers)
	case !h.V2 && slices.Contains(h.Controllers, "cpuset"):
		return g.fillCpuset(h)
	}
	return nil
}

// mkdir makes one directory, or finds it. Under a v1 cpuset the top of our tree passes its CPUs and
// memory nodes on to all groups that are made below later; that saves four files a group.
func (h *hierarchy) mkdir(rel string) error {
	err := h.dir.Mkdir(rel, 0o755)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err == nil && !strings.Contains(rel, "/") && !h.V2 && slices.Contains(h.Controllers, "cpuset") {
		_, err = h.dir.Write(rel+"/cgroup.clone_children", "1")
	}
	return err
}

// fillCpuset gives groups without CPUs and memory nodes those of their parents, from the top. The
// mems come first: a group that has cpus is complete.
func (g *Group) fillCpuset(h *hierarchy) error {
	own, err := h.dir.Read(g.rel+"/cpuset.cpus", nil)
	if err != nil || len(bytes.TrimSpace(own)) > 0 {
		return err
	}
	parent := ""
	for i := 0; i <= len(g.rel); i++ {
		if i < len(g.rel) && g.rel[i] != '/' {
			continue
		}
		child := g.rel[:i] + "/"
		for _, file := range []string{"cpuset.mems", "cpuset.cpus"} {
			if err := h.inherit(parent+file, child+file); err != nil {
				return err
			}
		}
		parent = child
	}
	return nil
}

// inherit writes the parent's value to the child's file if that is empty.
func (h *hierarchy) inherit(parent, child string) error {
	have, err := h.dir.Read(child, nil)
	if err != nil || len(bytes.TrimSpace(have)) > 0 {
		return err
	}
	value, err := h.dir.Read(parent, nil)
	if err != nil {
		return err
	}
	_, err = h.dir.Write(child, strings.TrimSpace(string(value)))
	return err
}

// enable makes sure that the group has the controllers: they are added, from the root down, to each parent's
// cgroup.subtree_control. None is ever taken away.
func (g *Group) enable(h *hierarchy, controllers []string) error {
	have, err := h.dir.Read(g.rel+"/cgroup.controllers", nil)
	if err != nil {
		return err
	}
	if containsAll(have, controllers) {
		return nil
	}
	for i := 0; i < len(g.rel); i++ {
		dir := ""
		switch {
		case i > 0 && g.rel[i] == '/':
			dir = g.rel[:i] + "/"
		case i > 0:
			continue
		}
		file := dir + "cgroup.subtree_control"
		have, err := h.dir.Read(file, nil)
		if err != nil {
			return err
		}
		if containsAll(have, controllers) {
			continue
		}
		if err := h.addControllers(file, controllers); err != nil {
			return err
		}
	}
	return nil
}

// addControllers enables all at once, or else one by one, so that one which the kernel refuses (cpu while there are
// realtime processes, say) does not take the others along. A refused one is missing then, and Apply says so when a limit
// needs it; only if nothing at all can be enabled is that an error here.
func (h *hierarchy) addControllers(file string, controllers []string) error {
	_, err := h.dir.Write(file, "+"+strings.Join(controllers, " +"))
	if err == nil {
		return nil
	}
	some := false
	for _, c := range controllers {
		_, one := h.dir.Write(file, "+"+c)
		some = some || one == nil
	}
	if some {
		return nil
	}
	if errors.Is(err, syscall.EBUSY) {
		return fmt.Errorf("enable controllers %s: %w (processes in this very group forbid it)", strings.Join(controllers, " "), err)
	}
	return fmt.Errorf("enable controllers %s: %w", strings.Join(controllers, " "), err)
}

func containsAll(list []byte, want []string) bool {
	have := strings.Fields(string(list))
	return !slices.ContainsFunc(want, func(c string) bool { return !slices.Contains(have, c) })
}

// deleteTimeout bounds Delete where the caller's context does not: the kernel needs milliseconds at most
// to let go of processes that have exited.
const deleteTimeout = 5 * time.Second

// Delete removes the group and its children from all hierarchies. It waits while processes that are
// already dying keep it busy; it kills none. What is not there is no error.
func (g *Group) Delete(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, deleteTimeout)
	defer cancel()
	var errs []error
	for _, h := range g.h.list {
		if err := h.remove(ctx, g.rel); err != nil {
			errs = append(errs, fmt.Errorf("delete cgroup: %w", err))
		}
	}
	return errors.Join(errs...)
}

func (h *hierarchy) remove(ctx context.Context, rel string) error {
	wait := newBackoff()
	for {
		err := h.dir.Rmdir(rel)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if !errors.Is(err, syscall.EBUSY) && !errors.Is(err, syscall.ENOTEMPTY) {
			return err
		}
		children, listErr := h.dir.Subdirs(rel)
		if listErr != nil && !errors.Is(listErr, fs.ErrNotExist) {
			return listErr
		}
		for _, c := range children {
			if err := h.remove(ctx, rel+"/"+c); err != nil {
				return err
			}
		}
		if len(children) > 0 && ctx.Err() == nil {
			continue
		}
		if wait.sleep(ctx) != nil {
			return fmt.Errorf("%w (processes are still in it)", err)
		}
	}
}

// backoff sleeps for longer each time, from 50 µs to 10 ms.
type backoff struct{ next time.Duration }

func newBackoff() *backoff { return &backoff{next: 50 * time.Microsecond} }

func (b *backoff) sleep(ctx context.Context) error {
	t := time.NewTimer(b.next)
	defer t.Stop()
	b.next = min(2*b.next, 10*time.Millisecond)
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
