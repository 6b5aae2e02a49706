package image

import (
	"context"
	"testing"
)

// What was removed counts as used until its bytes are gone, over a restart too.
func TestTrashCounts(t *testing.T) {
	ctx, root := context.Background(), t.TempDir()
	s := openAt(t, root, nil)
	img := put(t, s, randomImage(t, 100_000, 2))
	if _, err := s.Prepare(ctx, "c", img); err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	s.snaps["c"].measure.usage = Usage{Bytes: 4096, Inodes: 2} // as if somebody had asked
	s.mu.Unlock()
	s.Close() // nobody sweeps now

	s, err := newStore(Config{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.load(); err != nil {
		t.Fatal(err)
	}
	used := func() (Usage, Usage) {
		t.Helper()
		s.mu.Lock() // there is nobody to measure it
		for _, sn := range s.snaps {
			sn.measure = measure{usage: Usage{Bytes: 4096, Inodes: 2}, queued: true, done: make(chan struct{})}
		}
		s.mu.Unlock()
		images, snapshots, err := s.FSInfo(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return images.Used, snapshots.Used
	}
	images, snapshots := used()
	if images.Bytes < 200_000 || images.Inodes < 4 || snapshots.Bytes != 4096 {
		t.Fatalf("%+v, %+v", images, snapshots)
	}
	if err := s.RemoveRootfs(ctx, "c"); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(ctx, img.ID.String()); err != nil {
		t.Fatal(err)
	}
	if err := s.collect(); err != nil {
		t.Fatal(err)
	}
	if i, c := used(); i != images || c != snapshots {
		t.Errorf("removed, not deleted: %+v, %+v; before %+v, %+v", i, c, images, snapshots)
	}
	s.Close()

	if s, err = newStore(Config{Root: root}); err != nil {
		t.Fatal(err)
	}
	if err := s.load(); err != nil {
		t.Fatal(err)
	}
	if i, _ := used(); i != images {
		t.Errorf("after a restart: %+v, before %+v", i, images)
	}
	for _, dir := range []string{s.trash, s.snapTrash} {
		if err := s.emptyDir(dir); err != nil {
			t.Fatal(err)
		}
	}
	if i, c := used(); i != (Usage{}) || c != (Usage{}) {
		t.Errorf("deleted: %+v, %+v", i, c)
	}
	s.Close()
}
