package oci

import (
	"context"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/11f9778f/berth/internal/engine"
)

// pause stops all processes of a container.
func (a *app) pause(ctx context.Context, args []string) error {
	return a.change(ctx, "pause", args, func(c *engine.Container, s specs.ContainerState) error {
		if s != specs.StateRunning && s != specs.StateCreated {
			return errNotRunning
		}
		return c.Pause(ctx)
	})
}

// resume lets them run again.
func (a *app) resume(ctx context.Context, args []string) error {
	return a.change(ctx, "resume", args, func(c *engine.Container, s specs.ContainerState) error {
		if s != engine.StatusPaused {
			return errNotPaused
		}
		return c.Resume(ctx)
	})
}

// change does something to a container that has no other flag or argument, under its lock.
func (a *app) change(ctx context.Context, command string, args []string, do func(*engine.Container, specs.ContainerState) error) error {
	id, err := a.one(a.flags(command), args)
	if err != nil {
		return err
	}
	e, status, err := a.store().openWithStatus(ctx, id)
	if err != nil {
		return err
	}
	defer e.release()
	c, err := e.adopt(ctx)
	if err != nil {
		return err
	}
	return do(c, status)
}
