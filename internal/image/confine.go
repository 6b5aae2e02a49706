package image

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/11f9778f/berth/internal/image/kind"
	"github.com/11f9778f/berth/internal/image/quota"
	"github.com/11f9778f/berth/internal/sys"
)

// Where the snapshots' filesystem has project quota, each snapshot is a project of its own: it is limited by the kernel, and
// what it takes is one question. A snapshot's folder carries its project's id, from before anything is in it until the
// sweeper has deleted it. Those of a time without quota have none, and are measured by walking.

// openQuota finds out whether there is project quota. It must be there if a limit is configured.
func (s *Store) openQuota() error {
	open := s.cfg.openQuota
	if open == nil {
		open = quota.Open
	}
	book, err := open(s.snapshots)
	if err != nil && !errors.Is(err, quota.ErrUnsupported) {
		return err
	}
	s.quota, s.noLimit = book, err
	if book != nil && !book.Enforces() {
		s.noLimit = fmt.Errorf("%w at %s: projects are counted there and not held to limits", quota.ErrUnsupported, s.snapshots)
	}
	switch {
	case s.noLimit == nil:
	case s.cfg.WritableLimit.IsZero():
		s.log.Debug("writable layers can't be limited", "err", s.noLimit)
	default:
		s.closeQuota()
		return s.cantLimit("take images.writable_limit_mib and images.writable_limit_inodes out of the configuration")
	}
	return nil
}

func (s *Store) closeQuota() error {
	if s.quota == nil {
		return nil
	}
	return s.quota.Close()
}

// cantLimit says why a writable layer can't have a limit, and what to do.
func (s *Store) cantLimit(orElse string) error {
	return kind.Errorf(ErrNoLimit, "writable layers can't be limited: %w; use ext4 with the features project and quota that is mounted with prjquota, "+
		"or XFS that is mounted with pquota, or %s", s.noLimit, orElse)
}

// learnProjects takes note of the projects that the snapshots of earlier processes have, and takes away the limits of those
// that are gone.
func (s *Store) learnProjects() error {
	if s.quota == nil {
		return nil
	}
	for _, dir := range []string{s.snapshots, s.snapTrash} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			if path == s.snapTrash || !e.IsDir() {
				continue
			}
			if err := s.quota.Learn(path); err != nil { // its id is not given to another, as it has files
				s.log.Warn("the quota of a writable layer is not known", "path", path, "err", err)
			}
		}
	}
	stray, err := s.quota.Stray()
	for _, id := range stray {
		_, e := s.clearStray(id)
		err = errors.Join(err, e)
	}
	if err != nil {
		s.log.Warn("limits of containers that are gone could not be taken away", "err", err)
	}
	return nil
}

// clearStray takes a limit away that no folder has, and says whether it has: somebody may have taken the project since.
func (s *Store) clearStray(id uint32) (bool, error) {
	scratch := s.unique(s.snapshots, ".new-scratch")
	if err := os.Mkdir(scratch, 0o700); err != nil {
		return false, err
	}
	cleared, err := s.quota.ClearStray(id, scratch)
	return cleared, errors.Join(err, os.Remove(scratch))
}

// project is the id of a snapshot's folder, 0 if it has none.
func (c *core) project(path string) uint32 {
	if c.quota == nil {
		return 0
	}
	id, err := c.quota.Of(path)
	if err != nil {
		return 0 // it is gone
	}
	return id
}

// leave prepares the snapshot at path for its deletion, after which its project, if it has one, is to be released.
func (s *Store) leave(path string) uint32 {
	id := s.project(path)
	if id == 0 {
		return 0
	}
	if err := s.quota.Lift(id); err != nil {
		s.log.Warn("the limit of a container that is gone could not be taken away yet", "err", err)
	}
	return id
}

// counts says whether what is written into the snapshot at path is counted, as far as the filesystem can do that. It is not
// in one of a time without quota, nor where the container has given its root directory to another project: root may, if it
// has no user namespace; nor where the filesystem's quota is damaged.
func (s *Store) counts(path string) bool {
	if s.quota == nil {
		return true
	}
	id := s.project(path)
	_, ok := s.counted(id)
	return ok && s.project(filepath.Join(path, "upper")) == id && s.project(filepath.Join(path, "work")) == id
}

// ownProject makes the new, empty folder at path a project. Without one it is measured by walking.
func (s *Store) ownProject(path string) {
	if s.quota == nil {
		return
	}
	if _, err := s.quota.Give(path); err != nil {
		s.log.Warn("a writable layer has no quota", "err", err)
	}
}

// confine sets the limit of a new snapshot: what may be written into it beside what it holds already, which is something
// only in a copy of an image.
func (s *Store) confine(path string, limit Limit, copied bool) error {
	limit = s.cfg.WritableLimit.Lower(limit)
	if !limit.IsZero() && s.noLimit != nil {
		return s.cantLimit("ask for no limit")
	}
	id := s.project(path)
	if id == 0 {
		if limit.IsZero() {
			return nil
		}
		return kind.Errorf(ErrNoLimit, "the writable layer could not be made a project of its own, to limit it; the log says why")
	}
	now, err := s.quota.Usage(id)
	if err != nil {
		return err
	}
	if copied && limit.Bytes > 0 {
		limit.Bytes += now.Bytes
	}
	if copied && limit.Inodes > 0 {
		limit.Inodes += now.Inodes
	}
	if limit == (Limit{Bytes: now.MaxBytes, Inodes: now.MaxInodes}) {
		return nil // a blank one that was limited before
	}
	return s.quota.Limit(id, limit)
}

// counted is what the kernel counts for a snapshot's project.
func (c *core) counted(id uint32) (Usage, bool) {
	if id == 0 || c.quota == nil {
		return Usage{}, false
	}
	q, err := c.quota.Usage(id)
	if err != nil {
		return Usage{}, false
	}
	return Usage{Bytes: q.Bytes, Inodes: q.Inodes, MaxBytes: q.MaxBytes, MaxInodes: q.MaxInodes}, true
}

// full adds to an error of writing into a writable layer what its limit is, if that is why. (ext4 says EDQUOT, XFS ENOSPC.)
func (s *Store) full(key string, err error) error {
	if !errors.Is(err, sys.ErrQuota) && !errors.Is(err, sys.ErrNoSpace) {
		return err
	}
	u, ok := s.counted(s.project(s.snapshot(key)))
	if !ok || u.MaxBytes == 0 && u.MaxInodes == 0 {
		return err
	}
	return kind.Errorf(errRemedied, "its writable layer has %d of at most %d bytes and %d of at most %d inodes (0 is no limit): %w", u.Bytes, u.MaxBytes, u.Inodes, u.MaxInodes, err)
}
