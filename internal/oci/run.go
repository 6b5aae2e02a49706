package oci

import (
	"context"
	"fmt"
)

// runContainer is create and start at once, and without --detach the wait for the end, and delete.
func (a *app) runContainer(ctx context.Context, args []string) (err error) {
	var m making
	f := a.flags("run")
	m.register(f)
	f.BoolVar(&m.detach, "detach", false, "leave the container running")
	f.alias("d", "detach")
	f.BoolVar(&m.keep, "keep", false, "do not delete the container when its program has ended")
	f.BoolVar(&m.noReaper, "no-subreaper", false, "not used: nobody is reaped but the container")
	if m.id, err = a.one(f, args); err != nil {
		return err
	}
	code, err := a.runMade(ctx, m)
	if err != nil {
		return fmt.Errorf("%s run failed: %w", a.Name, err)
	}
	return exitCode(code)
}

func (a *app) runMade(ctx context.Context, m making) (int, error) {
	c, err := a.prepare(ctx, m)
	if err != nil {
		return 0, err
	}
	fg, err := a.foreground(m.detach, c.spec.Process, c.Init())
	if err != nil {
		c.undo()
		return 0, err
	}
	addHome(c.spec.Process, c.Pid())
	err = c.entry.begin(ctx, c.Container)
	if err == nil {
		err = writePidFile(m.pidFile, c.Pid())
	}
	if err != nil {
		fg.end()
		c.undo()
		return 0, err
	}
	c.entry.release()
	if m.detach {
		return 0, nil
	}
	status, err := fg.wait(ctx, c.Init())
	if !m.keep {
		if derr := a.destroy(ctx, m.id); derr != nil {
			a.log.Warn("delete container", "id", m.id, "err", derr)
		}
	}
	return status.Code, err
}

// destroy deletes a container that this process has waited for.
func (a *app) destroy(ctx context.Context, id string) error {
	e, err := a.store().openLocked(ctx, id)
	if err == errNotExist { // somebody was faster
		return nil
	}
	if err != nil {
		return err
	}
	defer e.release()
	return e.delete(ctx)
}
