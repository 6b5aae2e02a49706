package sys

import (
	"context"
	"io"
	"strconv"

	"golang.org/x/sys/unix"
)

// maxOpenDepth bounds the directories that a walk holds open at once, however deep the tree is.
const maxOpenDepth = 64

// RemoveAll removes name and all below it, never following a symbolic link. A tree of any depth takes a
// bounded number of descriptors: what lies too deep is moved up into d first (as "<name>.deep-<n>"), so d
// must be a directory of the caller's own on the same filesystem. What is not there is no error.
func (d *Folder) RemoveAll(ctx context.Context, name string) error {
	r := remover{ctx: ctx, top: d, prefix: name + ".deep-"}
	queue := []string{name}
	for len(queue) > 0 {
		if err := r.remove(d, queue[0], 0); err != nil {
			return err
		}
		queue = append(queue[1:], r.deep...)
		r.deep = nil
	}
	return nil
}

type remover struct {
	ctx    context.Context
	top    *Folder
	prefix string
	next   int
	deep   []string // what was moved up into top
}

func (r *remover) remove(parent *Folder, name string, depth int) error {
	switch err := parent.Unlink(name); err {
	case nil, unix.ENOENT:
		return nil
	case unix.EISDIR, unix.EPERM: // EPERM is POSIX's word for a directory; some filesystems keep to it
	default:
		return err
	}
	if depth >= maxOpenDepth {
		r.next++
		up := r.prefix + strconv.Itoa(r.next)
		if err := parent.Rename(name, r.top, up); err != nil {
			return err
		}
		r.deep = append(r.deep, up)
		return nil
	}
	if err := r.empty(parent, name, depth); err != nil {
		return err
	}
	if err := parent.Rmdir(name); err != nil && err != unix.ENOENT {
		return err
	}
	return nil
}

func (r *remover) empty(parent *Folder, name string, depth int) error {
	sub, err := parent.Sub(name)
	if err == unix.ENOENT {
		return nil
	}
	if err != nil {
		return err
	}
	defer sub.Close()
	for {
		names, err := sub.Names(1024)
		if len(names) == 0 {
			return ignoreEOF(err)
		}
		for _, n := range names {
			if err := r.ctx.Err(); err != nil {
				return err
			}
			if err := r.remove(sub, n, depth+1); err != nil {
				return err
			}
		}
	}
}

// DiskUsage adds up what the directory and all below it take on its filesystem: bytes of disk and
// inodes, hard links once. It follows no link and leaves the filesystem out that is mounted below.
// What changes meanwhile is counted as it is met. The depth of the tree does not matter.
func (d *Folder) DiskUsage(ctx context.Context) (bytes, inodes int64, err error) {
	self, err := d.Stat()
	if err != nil {
		return 0, 0, err
	}
	w := usageWalk{ctx: ctx, dev: self.Dev, seen: map[uint64]struct{}{}, bytes: self.Blocks * 512, inodes: 1}
	if err := w.walk(d, nil, 0); err != nil {
		return 0, 0, err
	}
	for len(w.deep) > 0 {
		path := w.deep[0]
		w.deep = w.deep[1:]
		if err := w.walkDeep(d, path); err != nil {
			return 0, 0, err
		}
	}
	return w.bytes, w.inodes, nil
}

type usageWalk struct {
	ctx           context.Context
	dev           uint64
	seen          map[uint64]struct{} // inodes with several names
	bytes, inodes int64
	deep          [][]string // paths of directories that were counted but not entered
}

func (w *usageWalk) walk(d *Folder, path []string, depth int) error {
	names, err := d.Names(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := w.ctx.Err(); err != nil {
			return err
		}
		st, err := d.Lstat(name)
		if err != nil || st.Dev != w.dev {
			continue
		}
		if !st.Mode.IsDir() && st.Nlink > 1 {
			if _, ok := w.seen[st.Ino]; ok {
				continue
			}
			w.seen[st.Ino] = struct{}{}
		}
		w.bytes += st.Blocks * 512
		w.inodes++
		if !st.Mode.IsDir() {
			continue
		}
		// The full slice expression makes append copy: siblings must not share a tail.
		if err := w.enter(d, append(path[:len(path):len(path)], name), depth); err != nil {
			return err
		}
	}
	return nil
}

func (w *usageWalk) enter(d *Folder, path []string, depth int) error {
	if depth+1 >= maxOpenDepth {
		w.deep = append(w.deep, path)
		return nil
	}
	sub, err := d.Sub(path[len(path)-1])
	if err != nil {
		return nil // it is gone, or no directory any more
	}
	defer sub.Close()
	return w.walk(sub, path, depth+1)
}

func (w *usageWalk) walkDeep(root *Folder, path []string) error {
	d, err := root.Sub(".")
	if err != nil {
		return err
	}
	for _, name := range path {
		sub, err := d.Sub(name)
		d.Close()
		if err != nil {
			return nil
		}
		d = sub
	}
	defer d.Close()
	return w.walk(d, path, 0)
}

func ignoreEOF(err error) error {
	if err == io.EOF {
		return nil
	}
	return err
}
