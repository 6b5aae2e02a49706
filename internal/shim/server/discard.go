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

// DiscardSandboxes releases the namespaces that a dead shim left in a group's directory.
func DiscardSandboxes(e Engine, dir string) error {
	pods, err := os.ReadDir(filepath.Join(dir, "pods"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var errs []error
	for _, p := range pods {
		errs = append(errs, e.UnpinNamespaces(filepath.Join(dir, "pods", p.Name(), "ns")))
	}
	return errors.Join(errs...)
}
