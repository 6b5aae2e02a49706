package cgroup

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
)

// ErrUnsupported is wrapped by errors about what this machine's cgroups can't do: a missing controller
// or file, or an operation of v2 under v1. Such an error is an errors.ErrUnsupported too.
var ErrUnsupported error = unsupported{}

type unsupported struct{}

func (unsupported) Error() string        { return "not supported by this machine's cgroups" }
func (unsupported) Is(target error) bool { return target == errors.ErrUnsupported }

// Group is one control group in all hierarchies. It is a name: it may exist or not. Its methods may be
// called from several goroutines.
type Group struct {
	h   *Hierarchies
	rel string // "berth/pod1/web": what the kernel resolves below a hierarchy's root
}

// Load names the group at path ("/berth/poduid/cid") relative to the roots of this machine's hierarchies.
// It makes nothing, and costs no system call after the first time.
func Load(path string) (*Group, error) {
	hs, err := Local()
	if err != nil {
		return nil, err
	}
	return hs.Load(path)
}

// Load names a group of these hierarchies; see the function Load.
func (hs *Hierarchies) Load(path string) (*Group, error) {
	rel, err := clean(path)
	if err != nil {
		return nil, err
	}
	return &Group{h: hs, rel: rel}, nil
}

func clean(p string) (string, error) {
	bad := func(why string) (string, error) { return "", fmt.Errorf("cgroup path %q: %s", p, why) }
	if len(p) > 3000 {
		return "", fmt.Errorf("cgroup path of %d bytes: too long", len(p))
	}
	rel := strings.Trim(path.Clean("/"+p), "/")
	if rel == "" {
		return bad("names the root")
	}
	for part := range strings.SplitSeq(p, "/") {
		switch {
		case part == "..":
			return bad(`".." is not allowed`)
		case len(part) > 255:
			return bad("a name is longer than 255 bytes")
		case strings.ContainsAny(part, "\x00\n"):
			return bad("contains a line break or NUL")
		}
	}
	return rel, nil
}

// Path is the group's path relative to the hierarchies' roots, cleaned, as "/berth/pod1/web".
func (g *Group) Path() string { return "/" + g.rel }

// Paths returns the group's absolute directories: for each v1 controller ("memory"), for each named v1
// hierarchy ("name=systemd"), and under "" in the v2 hierarchy, pure or a hybrid's.
func (g *Group) Paths() map[string]string {
	paths := map[string]string{}
	for _, h := range g.h.list {
		dir := h.dir.Path(g.rel)
		switch {
		case h.V2:
			paths[""] = dir
			continue
		case h.Name != "":
			paths["name="+h.Name] = dir
		}
		for _, c := range h.Controllers {
			paths[c] = dir
		}
	}
	return paths
}

// Exists tells whether the group exists in any hierarchy.
func (g *Group) Exists() bool {
	return slices.ContainsFunc(g.h.list, func(h *hierarchy) bool { return h.dir.Exists(g.rel) })
}

// FD opens the group's v2 directory for CLONE_INTO_CGROUP, which costs no RCU wait. Under pure v2 the child is
// in the group then. On a hybrid machine it is in the group's v2 part only, which brings it cgroup.kill and
// pressure counters, and still has to join the v1 hierarchies (Join, Entries). Without any v2 hierarchy the error wraps
// ErrUnsupported.
func (g *Group) FD() (*os.File, error) {
	if g.h.v2 == nil {
		return nil, fmt.Errorf("open cgroup %s for clone: %w: no cgroup v2", g.Path(), ErrUnsupported)
	}
	f, err := g.h.v2.dir.Open(g.rel, syscall.O_RDONLY|syscall.O_DIRECTORY)
	if err != nil {
		return nil, fmt.Errorf("open cgroup for clone: %w", err)
	}
	return f, nil
}

// Children lists the groups directly below parent, in any hierarchy. A missing parent has none.
func Children(parent string) ([]string, error) {
	hs, err := Local()
	if err != nil {
		return nil, err
	}
	return hs.Children(parent)
}

// Children lists groups of these hierarchies; see the function Children.
func (hs *Hierarchies) Children(parent string) ([]string, error) {
	rel, err := clean(parent)
	if err != nil {
		return nil, err
	}
	found := map[string]bool{}
	for _, h := range hs.list {
		children, err := h.dir.Subdirs(rel)
		if err != nil && !gone(err) {
			return nil, fmt.Errorf("list cgroups: %w", err)
		}
		for _, name := range children {
			found["/"+path.Join(rel, name)] = true
		}
	}
	return slices.Sorted(maps.Keys(found)), nil
}

// walk calls f for dir and all directories below, a parent before its children. What vanishes
// meanwhile, or was never there, is passed over.
func (h *hierarchy) walk(dir string, f func(dir string, children []string) error) error {
	children, err := h.dir.Subdirs(dir)
	if gone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := f(dir, children); err != nil {
		return err
	}
	for _, c := range children {
		if err := h.walk(dir+"/"+c, f); err != nil {
			return err
		}
	}
	return nil
}
