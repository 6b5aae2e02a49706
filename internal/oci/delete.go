package oci

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// delete removes what a container holds: processes that are left, its cgroup, its state.
func (a *app) delete(ctx context.Context, args []string) error {
	f := a.flags("delete")
	force := f.Bool("force", false, "kill the container if it is still running")
	f.alias("f", "force")
	id, err := a.one(f, args)
	if err != nil {
		return err
	}
	e, err := a.store().openLocked(ctx, id)
	if errors.Is(err, errNotExist) {
		return a.deleteNameless(ctx, id, *force)
	}
	if err != nil {
		return err
	}
	defer e.release()
	if !*force {
		status, err := e.status()
		if err != nil {
			return err
		}
		if status != specs.StateStopped && status != specs.StateCreated {
			return fmt.Errorf("cannot delete container %s that is not stopped: %s", id, status)
		}
	}
	return e.delete(ctx)
}

// deleteNameless removes the directory of a create that died before it had written anything.
func (a *app) deleteNameless(ctx context.Context, id string, force bool) error {
	e := &entry{store: a.store(), dir: filepath.Join(a.root, id)}
	if _, err := os.Lstat(e.dir); err == nil {
		if err := e.acquire(ctx); err != nil {
			return err
		}
		defer e.release()
		if err := e.load(); err == nil { // it was being made just now
			return fmt.Errorf("cannot delete container %s: it is being created", id)
		}
		if err := os.RemoveAll(e.dir); err != nil {
			return err
		}
	}
	if force {
		return nil
	}
	return errNotExist
}

func (e *entry) delete(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, undoTimeout)
	defer cancel()
	c, err := e.adopt(ctx)
	if err != nil {
		return err
	}
	if err := c.Delete(ctx); err != nil {
		return err
	}
	return os.RemoveAll(e.dir)
}
