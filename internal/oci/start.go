package oci

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/11f9778f/berth/internal/engine"
)

// start runs the program of a created container.
func (a *app) start(ctx context.Context, args []string) error {
	id, err := a.one(a.flags("start"), args)
	if err != nil {
		return err
	}
	e, status, err := a.store().openWithStatus(ctx, id)
	if err != nil {
		return err
	}
	defer e.release()
	switch status {
	case specs.StateCreated:
	case specs.StateStopped:
		return errors.New("cannot start a container that has stopped")
	case specs.StateRunning:
		return errors.New("cannot start an already running container")
	default:
		return fmt.Errorf("cannot start a container in the %s state", status)
	}
	spec, err := e.spec()
	if err != nil {
		return err
	}
	addHome(spec.Process, e.rec.Engine.Pid)
	c, err := e.adoptWhole(ctx, spec, true)
	if err != nil {
		return err
	}
	return e.begin(ctx, c)
}

// begin starts the program and notes that nobody waits at the socket any more.
func (e *entry) begin(ctx context.Context, c *engine.Container) error {
	err := c.Start(ctx)
	os.Remove(e.socket())
	if err != nil {
		return err
	}
	e.rec.Engine = c.State()
	return e.save()
}
