package image

import (
	"context"
	"os"
	"path/filepath"
	"testing"
)

// unstarted is a store with an image of one layer and without anybody who works in the background.
func unstarted(t *testing.T) (*Store, *Image) {
	t.Helper()
	s, err := newStore(Config{Root: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	if err := s.load(); err != nil {
		t.Fatal(err)
	}
	return s, put(t, s, randomImage(t, 1000, 1))
}

func isMarked(s *Store, img *Image) bool {
	return exists(filepath.Join(s.layer(img.Layers[0].DiffID), syncedFileName))
}

// A kernel tells once that it has lost what was written: a sync that succeeds later makes such a layer no better.
func TestFailedSyncIsRemembered(t *testing.T) {
	needRoot(t)
	s, img := unstarted(t)
	s.doubt(s.unsynced())
	if err := s.syncLayers(); err != nil || isMarked(s, img) {
		t.Errorf("%v; marked: %v", err, isMarked(s, img))
	}
}

// A layer that is made anew while the old one is synced is not on the disk by that.
func TestSyncOfAnotherLayer(t *testing.T) {
	needRoot(t)
	s, img := unstarted(t)
	d := img.Layers[0].DiffID
	old := s.unsynced()[d]
	s.mu.Lock()
	anew := *old
	s.layerRecs[d] = &anew
	s.mu.Unlock()
	if err := s.markSynced(d, old); err != nil || isMarked(s, img) {
		t.Fatalf("%v; marked: %v", err, isMarked(s, img))
	}
	if err := s.syncLayers(); err != nil || !isMarked(s, img) || len(s.unsynced()) > 0 {
		t.Errorf("%v; marked: %v", err, isMarked(s, img))
	}
}

// A call that is refused a key leaves it to the one that has it and is still unpacking.
func TestRefusedKeyStaysClaimed(t *testing.T) {
	needRoot(t)
	s, img := unstarted(t)
	moby := in(t, s, "moby")
	if _, err := moby.claim(context.Background(), "key", img); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Prepare(context.Background(), "key", img); err == nil {
		t.Error("a key of another namespace was given out")
	}
	if users := moby.Users(img.ID); len(users) != 1 {
		t.Errorf("the key's users are %v", users)
	}
}

// What a pull has put into place and not told yet, when the check came by, is not thrown away by the repair.
func TestRepairSparesWhatCame(t *testing.T) {
	needRoot(t)
	s, img := unstarted(t)
	l := img.Layers[0]
	c := &check{s: s, o: FsckOptions{Repair: true}, report: &FsckReport{}}
	c.addBad(s.blob(l.Blob.Digest), s.trash, "", 1, unknown, l.Blob.Digest, true)
	c.addBad(s.layer(l.DiffID), s.trash, "", 1, unknown, l.DiffID, false)
	if err := c.repair(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(img.ID.String()); err != nil || len(c.report.Problems()) > 0 {
		t.Errorf("%v; %v", err, c.report.Items)
	}
	for _, path := range []string{s.blob(l.Blob.Digest), s.layer(l.DiffID)} {
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	}
}
