package image

import (
	"cmp"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/11f9778f/berth/internal/sys"
)

// Most containers write nothing into their root filesystem. The directories of such a one are kept for the next: making
// inodes and deleting them is what an overlay costs most, above all on a filesystem where many were just deleted.

// manyBlanks is how many are kept where nothing else is said.
const manyBlanks = 64

const blankPrefix = ".blank-"

// makeBlank makes the directories of a snapshot.
func (s *Store) makeBlank(path string) error {
	if err := os.Mkdir(path, 0o700); err != nil {
		return err
	}
	s.ownProject(path)                                                   // what is made in it belongs to that as well
	if err := makeDir(filepath.Join(path, "upper"), 0o755); err != nil { // what the container sees as "/"
		return err
	}
	return os.Mkdir(filepath.Join(path, "work"), 0o700)
}

// takeBlank moves a blank snapshot to path, if there is one that can be used.
func (s *Store) takeBlank(path string) bool {
	s.mu.Lock()
	name := ""
	if n := len(s.blanks); n > 0 {
		name, s.blanks = s.blanks[n-1], s.blanks[:n-1]
	}
	s.mu.Unlock()
	if name == "" {
		return false
	}
	if !s.counts(s.snapshot(name)) {
		s.abandon(s.snapshot(name))
		return false
	}
	return os.Rename(s.snapshot(name), path) == nil
}

// dropBlanks deletes all of them. What it can't delete, the next start does.
func (s *Store) dropBlanks() {
	s.mu.Lock()
	blanks := s.blanks
	s.blanks = nil
	s.mu.Unlock()
	for _, name := range blanks {
		project := s.leave(s.snapshot(name))
		if err := os.RemoveAll(s.snapshot(name)); err != nil {
			s.log.Warn("a blank snapshot stays until the next start", "name", name, "err", err)
		} else if project != 0 {
			s.quota.Release(project)
		}
	}
}

// isBlank tells whether name is that of a blank snapshot that is kept.
func (s *Store) isBlank(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Contains(s.blanks, name)
}

// keepBlank takes the snapshot called name out of the trash if it can be used again.
func (s *Store) keepBlank(trash *sys.Folder, name string) bool {
	s.mu.Lock()
	room := len(s.blanks) < cmp.Or(s.cfg.Blanks, manyBlanks)
	s.mu.Unlock()
	if !room || !s.counts(filepath.Join(s.snapTrash, name)) || !blanked(trash, name) {
		return false
	}
	to := s.unique(s.snapshots, blankPrefix+"n")
	if os.Rename(filepath.Join(s.snapTrash, name), to) != nil {
		return false
	}
	s.mu.Lock()
	s.blanks = append(s.blanks, filepath.Base(to))
	s.mu.Unlock()
	return true
}

// blanked makes a snapshot as it was before it was used, and tells whether it is: nothing may have been written into it.
func blanked(trash *sys.Folder, name string) bool {
	dir, err := trash.Sub(name)
	if err != nil {
		return false
	}
	defer dir.Close()
	return hasOnly(dir, "upper", "work", snapshotFileName) && within(dir, "upper", blankedUpper) && within(dir, "work", blankedWork)
}

// within calls f for a directory that must be there.
func within(parent *sys.Folder, name string, f func(*sys.Folder) bool) bool {
	dir, err := parent.Sub(name)
	if err != nil {
		return false
	}
	defer dir.Close()
	return f(dir)
}

func hasOnly(dir *sys.Folder, want ...string) bool {
	names, err := dir.Names(len(want) + 1)
	return (err == nil || len(names) == 0) && !slices.ContainsFunc(names, func(n string) bool { return !slices.Contains(want, n) })
}

// blankedUpper: the container may have changed its "/" itself. What overlayfs notes there goes; what anybody else
// has set makes the directory unfit.
func blankedUpper(dir *sys.Folder) bool {
	names, err := dir.Xattrs()
	if err != nil || !hasOnly(dir) {
		return false
	}
	for _, n := range names {
		if !strings.HasPrefix(n, "trusted.overlay.") || dir.RemoveXattr(n) != nil {
			return false
		}
	}
	now := time.Now()
	return dir.Chown(0, 0) == nil && dir.Chmod(0o755) == nil && dir.Utimes(now, now) == nil
}

// blankedWork removes what overlayfs has for itself, which it makes anew at each mount.
func blankedWork(dir *sys.Folder) bool {
	return hasOnly(dir, "work") && dir.RemoveAll(context.Background(), "work") == nil
}
