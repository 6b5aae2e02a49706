package client

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/11f9778f/berth/internal/shim/api"
)

// Size is a terminal's size in characters.
type Size struct{ Width, Height uint16 }

// Streams are the caller's ends of an Exec or Attach; nil means that the stream is not wanted.
type Streams struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Resize delivers sizes of the caller's terminal.
	Resize <-chan Size
}

// ExecSync runs a process in a container and returns its output and exit. timeout 0 means none, limit 0
// the most that is possible (16 MiB a stream).
func (s *Shim) ExecSync(ctx context.Context, id string, p *specs.Process, timeout time.Duration, limit int64) (*api.ExecSyncResponse, error) {
	return nil, errors.ErrUnsupported
}

// Exec runs a process in a container with the caller's streams, and returns when it has ended. When ctx
// ends first, the process is killed.
func (s *Shim) Exec(ctx context.Context, id, execID string, p *specs.Process, streams Streams) (*api.Exit, error) {
	return nil, errors.ErrUnsupported
}

// Attach connects the caller's streams to the container's main process, until that ends (the exit is
// returned) or ctx does.
func (s *Shim) Attach(ctx context.Context, id string, streams Streams) (*api.Exit, error) {
	return nil, errors.ErrUnsupported
}
