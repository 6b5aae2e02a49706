package node

import (
	"context"
	"errors"
)

// Run is the daemon.
func Run(ctx context.Context, cfg Config, version string) error { return errors.New("not wired yet") }
