package runtime

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

// Execs wait for a checkpoint, a checkpoint for execs, and nobody for ever.
func TestGate(t *testing.T) {
	var g gate
	leave, err := g.enter(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := g.close(short); !errors.Is(err, context.DeadlineExceeded) || g.isShut() {
		t.Fatalf("close while somebody is inside: %v", err)
	}
	time.AfterFunc(10*time.Millisecond, leave)
	open, err := g.close(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.close(t.Context()); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("a second checkpoint: %v", err)
	}
	if _, err := g.enter(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("enter a shut gate: %v", err)
	}
	time.AfterFunc(10*time.Millisecond, open)
	leave, err = g.enter(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	leave()
	if open, err = g.close(t.Context()); err != nil {
		t.Fatal(err)
	}
	open()
}
