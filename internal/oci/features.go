package oci

import (
	"context"
	"encoding/json"

	"github.com/11f9778f/berth/internal/engine"
)

// features prints what this runtime can do, as runtime-spec's features.md wants it.
func (a *app) features(_ context.Context, args []string) error {
	if _, err := a.arguments(a.flags("features"), args, true, 0, 0); err != nil {
		return err
	}
	f := engine.Features()
	f.Annotations = map[string]string{"io.berth.version": a.Version}
	enc := json.NewEncoder(a.Out)
	enc.SetIndent("", "    ")
	return enc.Encode(f)
}
