package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/11f9778f/berth/internal/failpoint"
	"github.com/11f9778f/berth/internal/sys"
)

// Remove removes the image that refOrID means, with all its names. Its blobs and layers go in the background, unless
// another namespace has them, and those that a snapshot lies on when that goes. Where there is no such image the error
// is ErrNotFound.
func (s *Store) Remove(ctx context.Context, refOrID string) error {
	if err := s.gate.enter(); err != nil {
		return err
	}
	defer s.gate.calls.Done()
	s.mu.Lock()
	id, err := s.find(refOrID)
	var c change
	for d, m := range s.own().manifests {
		if err == nil && m.config.Digest == id {
			c.remove = append(c.remove, d)
		}
	}
	s.mu.Unlock()
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := s.commit(c); err != nil {
		return fmt.Errorf("remove the image %s: %w", refOrID, err)
	}
	return nil
}

// used returns the blobs and layers that something wants. The caller holds mu.
func (s *Store) used(now time.Time) (blobs, layers map[digest.Digest]bool) {
	blobs, layers = map[digest.Digest]bool{}, map[digest.Digest]bool{}
	for d, m := range s.everybodys() {
		blobs[d], blobs[m.config.Digest] = true, true
		for _, l := range m.layers {
			blobs[l.Blob.Digest], layers[l.DiffID] = true, true
		}
	}
	for d := range s.leases { // a digest is either, and never both by accident
		blobs[d], layers[d] = true, true
	}
	for d, until := range s.keep {
		if now.After(until) {
			delete(s.keep, d)
			continue
		}
		blobs[d], layers[d] = true, true
	}
	for _, sn := range s.snaps {
		for _, d := range sn.layers {
			layers[d] = true
		}
	}
	return blobs, layers
}

// collect moves what nobody wants into the trash.
func (s *Store) collect() error {
	s.disk.Lock()
	defer s.disk.Unlock()
	var paths []string
	s.mu.Lock()
	blobs, layers := s.used(time.Now())
	for d := range s.blobs {
		if !blobs[d] {
			delete(s.blobs, d)
			paths = append(paths, s.blob(d))
		}
	}
	for d := range s.layerRecs {
		if !layers[d] {
			delete(s.layerRecs, d)
			paths = append(paths, s.layer(d))
		}
	}
	s.mu.Unlock()
	errs := []error{s.dropSignatures()}
	for _, p := range paths {
		errs = append(errs, s.discard(p, s.trash))
	}
	if len(paths) > 0 {
		wake(s.sweep)
	}
	return errors.Join(errs...)
}

// keepForRetry spares the whole parts of a pull that failed for a passing reason from collection.
func (s *Store) keepForRetry(c *contents, err error) {
	if s.tunable.Load().KeepForRetry <= 0 || !isCancel(err) && !errors.Is(err, ErrUnavailable) {
		return
	}
	until := time.Now().Add(s.tunable.Load().KeepForRetry)
	s.mu.Lock()
	for _, d := range c.digests() {
		s.keep[d] = until
	}
	s.mu.Unlock()
	time.AfterFunc(s.tunable.Load().KeepForRetry+time.Second, func() { wake(s.settle) })
}

const (
	// syncPause is how long it must have been quiet before layers are synced: what follows a pull, as a container's
	// start, has the disk to itself.
	syncPause = 5 * time.Second
	// syncPatience is how long layers wait for that at most.
	syncPatience = time.Minute
)

// settler collects what nobody wants, and syncs layers when no pull is under way any more.
func (s *Store) settler() {
	pause := time.NewTimer(syncPause)
	defer pause.Stop()
	var waiting time.Time // since when layers wait, or zero
	for {
		select {
		case <-s.life.Done():
			return
		case <-s.settle:
			if err := s.collect(); err != nil {
				s.log.Warn("could not collect unused layers", "err", err)
			}
			if waiting.IsZero() {
				waiting = time.Now()
			}
			if time.Since(waiting) < syncPatience {
				pause.Reset(syncPause)
			}
			continue
		case <-pause.C:
		}
		if s.flights.any() && time.Since(waiting) < syncPatience {
			pause.Reset(syncPause)
			continue
		}
		waiting = time.Time{}
		if err := s.syncLayers(); err != nil {
			s.log.Warn("could not sync layers; they would be unpacked again after a power cut", "err", err)
		}
	}
}

// syncLayers writes unpacked layers to the disk and marks them.
func (s *Store) syncLayers() error {
	todo := s.unsynced()
	if len(todo) == 0 {
		return nil
	}
	if err := s.syncFilesystem(); err != nil {
		s.doubt(todo)
		return err
	}
	for d, l := range todo {
		if err := failpoint.Here("image/synced/before"); err != nil {
			return err
		}
		if err := s.markSynced(d, l); err != nil {
			return err
		}
	}
	return nil
}

// unsynced are the layers that a sync could make safe.
func (s *Store) unsynced() map[digest.Digest]*layerRec {
	s.mu.Lock()
	defer s.mu.Unlock()
	todo := map[digest.Digest]*layerRec{}
	for d, l := range s.layerRecs {
		if !l.synced && !l.doubtful {
			todo[d] = l
		}
	}
	return todo
}

func (s *Store) syncFilesystem() error {
	dir, err := sys.OpenFolder(s.layers())
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := failpoint.Here("image/syncfs/before"); err != nil {
		return err
	}
	return dir.Syncfs()
}

// doubt notes that layers may not have reached the disk. A kernel tells of a write that failed once and forgets it:
// the next sync that succeeds says nothing about them.
func (s *Store) doubt(layers map[digest.Digest]*layerRec) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range layers {
		l.doubtful = true
	}
}

// markSynced notes that a layer is on the disk, unless it was thrown away since the sync and perhaps made anew.
func (s *Store) markSynced(d digest.Digest, l *layerRec) error {
	s.disk.Lock()
	defer s.disk.Unlock()
	s.mu.Lock()
	here := s.layerRecs[d] == l
	s.mu.Unlock()
	if !here {
		return nil
	}
	f, err := os.OpenFile(filepath.Join(s.layer(d), syncedFileName), os.O_CREATE|os.O_WRONLY, 0o600)
	if isNotExist(err) {
		return nil // somebody has deleted it by hand; fsck says so
	}
	if err != nil {
		return err
	}
	f.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	l.synced = true
	return nil
}
