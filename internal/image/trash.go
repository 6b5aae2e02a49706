package image

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/11f9778f/berth/internal/failpoint"
	"github.com/11f9778f/berth/internal/sys"
)

// discard moves path into the trash, where it is deleted at leisure. What is known of its size counts until then.
func (c *core) discard(path, trash string) error {
	return c.discardSized(path, trash, c.weigh(path, trash))
}

// discardSized is discard of something whose size the caller knows.
func (c *core) discardSized(path, trash string, u Usage) error {
	if err := failpoint.Here("image/discard/before"); err != nil {
		return err
	}
	to := c.unique(trash, filepath.Base(path))
	c.mu.Lock()
	c.trashed[to] = u
	c.mu.Unlock()
	if err := os.Rename(path, to); err != nil {
		c.forget(to)
		if !os.IsNotExist(err) {
			return err
		}
	}
	return failpoint.Here("image/discard/after")
}

// forget says that something is not in the trash any more.
func (c *core) forget(path string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.trashed, path)
}

// weigh is what is known of the size of a blob, an unpacked layer or a snapshot without a walk through it.
func (c *core) weigh(path, trash string) Usage {
	if trash == c.snapTrash {
		if u, ok := c.counted(c.project(path)); ok {
			return u
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if sn, ok := c.snaps[filepath.Base(path)]; ok {
			return sn.measure.usage
		}
		return Usage{}
	}
	fi, err := os.Lstat(path)
	if err != nil {
		return Usage{}
	}
	if !fi.IsDir() {
		return Usage{Bytes: fi.Size(), Inodes: 1}
	}
	var f layerFile
	if err := readJSON(filepath.Join(path, layerFileName), &f); err != nil {
		return Usage{} // it is half made
	}
	return Usage{Bytes: f.Bytes, Inodes: f.Inodes}
}

// loadTrash weighs what an earlier process has left in the trash.
func (c *core) loadTrash() error {
	for _, dir := range []string{c.trash, c.snapTrash} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			c.trashed[path] = c.weigh(path, dir)
		}
	}
	return nil
}

// inTrash sums up what is in one of the trashes. The caller holds mu.
func (c *core) inTrash(trash string) (u Usage) {
	for path, item := range c.trashed {
		if filepath.Dir(path) == trash {
			u.add(item)
		}
	}
	return u
}

// sweeper deletes what is in the trash.
func (s *Store) sweeper() {
	for {
		for _, dir := range []string{s.snapTrash, s.trash} {
			if err := s.emptyDir(dir); err != nil && s.life.Err() == nil {
				s.log.Warn("could not delete everything; the next start tries again", "path", dir, "err", err)
			}
		}
		select {
		case <-s.life.Done():
			return
		case <-s.sweep:
		}
	}
}

// emptyDir deletes what is in a directory.
func (s *Store) emptyDir(path string) error {
	dir, err := sys.OpenFolder(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	names, err := dir.Names(-1)
	if err != nil {
		return err
	}
	var errs []error
	for _, n := range names {
		item := filepath.Join(path, n)
		if path == s.snapTrash && s.keepBlank(dir, n) {
			s.forget(item)
			continue
		}
		project := uint32(0)
		if path == s.snapTrash {
			project = s.leave(item)
		}
		if err := dir.RemoveAll(s.life, n); err != nil {
			errs = append(errs, fmt.Errorf("delete %s: %w", item, err))
			continue
		}
		if project != 0 {
			s.quota.Release(project)
		}
		s.forget(item)
	}
	return errors.Join(errs...)
}
