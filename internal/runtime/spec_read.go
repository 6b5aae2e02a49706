package runtime

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// maxSpec bounds a bundle's config.json, in bytes.
const maxSpec = 16 << 20

// OCISpec returns the OCI runtime spec, as JSON, that a container was made from; of a sandbox, that of the
// process that keeps its PID namespace. The error wraps fs.ErrNotExist where there is none.
func (r *Runtime) OCISpec(id string) (json.RawMessage, error) {
	if r.container(id) == nil && r.sandbox(id) == nil {
		return nil, fmt.Errorf("spec of %q: %w", id, os.ErrNotExist)
	}
	f, err := os.Open(filepath.Join(r.store.bundle(id), "config.json"))
	if err != nil {
		return nil, fmt.Errorf("spec of %s: %w", short(id), err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSpec))
	if err != nil {
		return nil, fmt.Errorf("spec of %s: %w", short(id), err)
	}
	return b, nil
}

// SpecOf is OCISpec, decoded.
func (r *Runtime) SpecOf(id string) (*specs.Spec, error) {
	b, err := r.OCISpec(id)
	if err != nil {
		return nil, err
	}
	var s specs.Spec
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, fmt.Errorf("spec of %s: %w", short(id), err)
	}
	return &s, nil
}
