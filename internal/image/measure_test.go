package image

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestKnownUsage(t *testing.T) {
	s := openStore(t, nil)
	ctx := t.Context()
	r, err := s.Prepare(ctx, "c1", put(t, s, simple(t)))
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string, size int) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(r.Upper, name), make([]byte, size), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("a", 100_000)
	u, at, err := s.KnownUsage(ctx, "c1") // waits for the first time
	if err != nil || at.IsZero() || u.Bytes < 100_000 || u.Bytes > 200_000 || u.Inodes < 2 {
		t.Fatalf("%+v %v %v", u, at, err)
	}
	write("b", 1_000_000)
	if u2, at2, err := s.KnownUsage(ctx, "c1"); err != nil || u2 != u || !at2.Equal(at) {
		t.Errorf("measured again at once: %+v %v %v", u2, at2, err)
	}
	s.mu.Lock()
	s.snaps["c1"].measure.at = time.Now().Add(-2 * freshFor)
	s.mu.Unlock()
	if u2, _, err := s.KnownUsage(ctx, "c1"); err != nil || u2 != u {
		t.Errorf("a stale answer is an answer: %+v %v", u2, err)
	}
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(5 * time.Millisecond) {
		if u, _, _ := s.KnownUsage(ctx, "c1"); u.Bytes > 1_000_000 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("it was not measured again")
		}
	}
	if _, _, err := s.KnownUsage(ctx, "ghost"); !errors.Is(err, ErrNotFound) {
		t.Errorf("%v", err)
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := s.Prepare(ctx, "c2", put(t, s, simple(t))); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.KnownUsage(gone, "c2"); err != nil {
		t.Errorf("who can't wait gets no answer yet, and no error: %v", err)
	}
}
