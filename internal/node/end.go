package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/11f9778f/berth/internal/runtime"
)

// ours are the folders that a node makes in its run directory.
var ours = []string{"runtime", "bundles", "shims", "netns", "network"}

// close closes the rooms, the highest first. Pods run on. A node without any removes all that it made
// on the machine.
func (n *Node) close() error {
	var errs []error
	add := func(what string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("close %s: %w", what, err))
		}
	}
	for _, l := range n.sockets {
		l.remove()
	}
	if n.cri != nil {
		add("the CRI server", n.cri.Close())
	}
	if n.tracer != nil {
		add("the tracer", n.tracer.Close())
	}
	// A node that could not even open its rooms, where there was none before it, has nothing either.
	empty := n.runtime == nil && n.fresh || n.runtime != nil && n.spotless()
	if n.runtime != nil {
		add("the runtime", n.runtime.Close())
	}
	if n.plugins != nil {
		n.plugins.Close()
	}
	if n.shims != nil {
		add("the shims' client", n.shims.Close())
	}
	if n.network != nil {
		add("the network", n.network.Close())
	}
	if n.store != nil {
		add("the image store", n.store.Close())
	}
	if empty {
		add("the node's folders", n.tidy())
	}
	if n.lock != nil {
		if empty {
			add("the node's lock", os.Remove(lockPath(n.cfg.Run)))
		}
		add("the node's lock", n.lock.Close())
	}
	if empty {
		os.Remove(n.cfg.Run) // if nobody else keeps something in it
	}
	return errors.Join(errs...)
}

// idle tells that there is no sandbox, whoever made it.
func (n *Node) idle() bool { return len(n.runtime.Sandboxes()) == 0 }

// spotless tells that nothing has an owner, nor is without one: the run directory may go. Links vanish
// a moment after the last process of their namespace, so it waits a little.
func (n *Node) spotless() bool {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	for n.idle() {
		rep, err := n.runtime.Fsck(ctx, false)
		if err == nil && len(rep.Owned) == 0 && len(rep.Pending) == 0 && rep.Clean() {
			return true
		}
		select {
		case <-ctx.Done():
			n.cfg.Log.Warn("something is left of this node: berth fsck shows it", "error", err)
			return false
		case <-time.After(5 * time.Millisecond):
		}
	}
	return false
}

// tidy removes the node's cgroup and what is in the run directory.
func (n *Node) tidy() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	errs := []error{n.kernel.RemoveCgroup(ctx, n.cfg.Names.CgroupParent)}
	for _, name := range ours {
		errs = append(errs, os.RemoveAll(filepath.Join(n.cfg.Run, name)))
	}
	return errors.Join(errs...)
}

// inventory is the runtime's balance of journal and machine, with names that a person knows.
func (n *Node) inventory(ctx context.Context, repair bool) ([]Item, error) {
	rep, err := n.runtime.Fsck(ctx, repair)
	if err != nil {
		return nil, err
	}
	items := []Item{}
	if !repair {
		for _, group := range []struct {
			of   map[string][]runtime.Resource
			note string
		}{{rep.Owned, ""}, {rep.Pending, "being made or unmade"}} {
			for owner, things := range group.of {
				for _, r := range things {
					items = append(items, Item{Kind: r.Kind, Name: r.Name, Owner: n.ownerName(owner), Note: group.note})
				}
			}
		}
	}
	for _, f := range rep.Orphans {
		items = append(items, Item{Kind: f.Kind, Name: f.Name, Note: f.Error, Orphan: true})
	}
	return sorted(items), nil
}

// ownerName is who an ID belongs to: "pod default/hello", "container web of pod default/hello".
func (n *Node) ownerName(id string) string {
	if sb, err := n.runtime.Sandbox(id); err == nil {
		return "pod " + sb.Spec.Namespace + "/" + sb.Spec.Name
	}
	if c, err := n.runtime.Container(id); err == nil {
		return "container " + c.Spec.Name + " of " + n.ownerName(c.SandboxID)
	}
	return id
}

// sorted puts what has no owner first, then one owner after the other.
func sorted(items []Item) []Item {
	slices.SortFunc(items, func(a, b Item) int {
		return cmp.Or(cmp.Compare(a.Owner, b.Owner), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
	})
	return items
}
