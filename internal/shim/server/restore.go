package server

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/containerd/errdefs"

	"github.com/11f9778f/berth/internal/engine"
	"github.com/11f9778f/berth/internal/engine/criu"
)

// restoreTimeout bounds a restore, whoever asks for it: a CRIU that hangs must not keep the container for ever.
const restoreTimeout = 5 * time.Minute

// restore lets a created container become what its checkpoint says. op is held. While it runs no orphan is reaped: a
// restored process may end before anybody could know it.
func (t *task) restore(ctx context.Context, c Container) (Container, error) {
	tool, err := criu.Find(ctx, t.rec.CRIU)
	if err != nil {
		return nil, fmt.Errorf("start container %s: %w: %w", t.rec.ID, err, errdefs.ErrFailedPrecondition)
	}
	dir := t.s.path("restore", t.rec.ID)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeout(ctx, restoreTimeout)
	defer cancel()
	t.s.restores.Add(1)
	defer t.s.restores.Add(-1)
	restored, err := c.Restore(ctx, engine.RestoreOptions{Tool: tool, Images: t.rec.Checkpoint, WorkDir: dir})
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	t.c, t.main.p = restored, restored.Init()
	t.mu.Unlock()
	t.s.keeper.Put(t.rec.ID+"/pidfd", restored.Init().PidFD())
	return restored, nil
}

// first is the container's first process: another one once it has been restored.
func (t *task) first() Process {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.main.p
}
