package server

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/11f9778f/berth/internal/shim/crilog"
	"github.com/11f9778f/berth/internal/shim/state"
)

// Discard ends and removes what a dead shim left of one container in a group's directory. What is not there is no error.
func Discard(ctx context.Context, e Engine, dir, id string) error {
	file := filepath.Join(dir, "containers", id+".json")
	var rec record
	if err := state.Load(file, &rec); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	for _, path := range []string{rec.Engine.CgroupPath, rec.Cgroup} {
		if path == "" {
			continue
		}
		if err := e.Abandon(ctx, path); err != nil {
			return err
		}
	}
	for _, name := range []string{"stdin", crilog.Stdout, crilog.Stderr} {
		os.Remove(filepath.Join(rec.Bundle, name))
		os.Remove(filepath.Join(dir, "io", id+"."+name))
	}
	return remove(file)
}

// Keeps tells whether a shim's directory has a record of the container in the bundle.
func Keeps(dir, id, bundle string) (bool, error) {
	var rec record
	err := state.Load(filepath.Join(dir, "containers", id+".json"), &rec)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && rec.Bundle == bundle, err
}

// DiscardSandboxes releases the namespaces that a dead shim left in a group's directory.
func DiscardSandboxes(e Engine, dir string) error {
	pods, err := os.ReadDir(filepath.Join(dir, "pods"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var errs []error
	for _, p := range pods {
		errs = append(errs, e.UnpinNamespaces(state.Namespaces(dir, p.Name())))
	}
	return errors.Join(errs...)
}

// Sweep ends and removes what shims that died have left below a state directory, of containers whose bundles are gone too:
// nobody will ask for them any more. What is in use or still wanted it does not touch. alive tells of a directory whether
// its shim lives.
func Sweep(ctx context.Context, e Engine, stateDir string, alive func(dir string) bool) error {
	groups, err := os.ReadDir(stateDir)
	if err != nil {
		return err
	}
	var errs []error
	for _, g := range groups {
		dir := filepath.Join(stateDir, g.Name())
		if !g.IsDir() || alive(dir) {
			continue
		}
		errs = append(errs, sweepGroup(ctx, e, dir))
	}
	return errors.Join(errs...)
}

func sweepGroup(ctx context.Context, e Engine, dir string) error {
	ids, err := state.Names(filepath.Join(dir, "containers"))
	if err != nil || len(ids) == 0 {
		return err // nothing yet: it may be about to start
	}
	for _, id := range ids {
		var rec record
		if err := state.Load(filepath.Join(dir, "containers", id+".json"), &rec); err != nil {
			return err
		}
		if _, err := os.Stat(rec.Bundle); !errors.Is(err, fs.ErrNotExist) {
			return nil
		}
	}
	for _, id := range ids {
		if err := Discard(ctx, e, dir, id); err != nil {
			return err
		}
	}
	return errors.Join(DiscardSandboxes(e, dir), os.RemoveAll(dir))
}
