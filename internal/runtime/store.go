package runtime

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/11f9778f/berth/internal/shim/state"
)

// store is the folder <run>/runtime.
type store struct {
	dir     string // <run>/runtime
	bundles string // <run>/bundles
}

func newStore(run string) (*store, error) {
	s := &store{dir: filepath.Join(run, "runtime"), bundles: filepath.Join(run, "bundles")}
	for _, d := range []string{run, s.dir, s.bundles, s.path("journal"), s.path("sandboxes"), s.path("containers"), s.path("pods"), s.path("volumes"), s.path("userns")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("make runtime state folder: %w", err)
		}
	}
	return s, nil
}

func (s *store) path(elem ...string) string {
	return filepath.Join(append([]string{s.dir}, elem...)...)
}

func (s *store) journal(sandbox string) string { return s.path("journal", sandbox) }
func (s *store) podDir(sandbox string) string  { return s.path("pods", sandbox) }
func (s *store) userNS(sandbox string) string  { return s.path("userns", sandbox) }
func (s *store) volumes(container string) string {
	return s.path("volumes", container)
}
func (s *store) bundle(container string) string {
	return filepath.Join(s.bundles, container)
}

func (s *store) save(kind, id string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode record of %s: %w", short(id), err)
	}
	if err := state.Write(s.path(kind, id+".json"), b); err != nil {
		return fmt.Errorf("write record: %w", err)
	}
	return nil
}

func (s *store) drop(kind, id string) error {
	if err := os.Remove(s.path(kind, id+".json")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove record: %w", err)
	}
	return nil
}

// load reads all records of a kind. A file that a crash left half-written has another name, or is empty, and goes.
func load[T any](s *store, kind string) (map[string]T, error) {
	dir, err := os.ReadDir(s.path(kind))
	if err != nil {
		return nil, fmt.Errorf("read records: %w", err)
	}
	out := map[string]T{}
	for _, d := range dir {
		id, ok := strings.CutSuffix(d.Name(), ".json")
		if !ok {
			os.Remove(s.path(kind, d.Name()))
			continue
		}
		b, err := os.ReadFile(s.path(kind, d.Name()))
		if err != nil {
			return nil, fmt.Errorf("read record: %w", err)
		}
		if len(b) == 0 {
			os.Remove(s.path(kind, d.Name()))
			continue
		}
		var v T
		if err := json.Unmarshal(b, &v); err != nil {
			return nil, fmt.Errorf("read record %s: %w", d.Name(), err)
		}
		out[id] = v
	}
	return out, nil
}
