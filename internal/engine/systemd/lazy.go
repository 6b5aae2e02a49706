package systemd

import (
	"context"
	"sync"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/11f9778f/berth/internal/engine"
	"github.com/11f9778f/berth/internal/engine/cgroup"
)

// Lazy is a Driver that connects when it is used first, and again when the connection was lost: buses are restarted, too.
type Lazy struct {
	mu     sync.Mutex
	driver *Driver
}

var _ engine.Scopes = (*Lazy)(nil)

func (l *Lazy) connect(ctx context.Context) (*Driver, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.driver != nil && l.driver.Lost() {
		l.driver.Close()
		l.driver = nil
	}
	if l.driver == nil {
		h, err := cgroup.Local()
		if err != nil {
			return nil, err
		}
		d, err := Connect(context.WithoutCancel(ctx), h.Unified())
		if err != nil {
			return nil, err
		}
		l.driver = d
	}
	return l.driver, nil
}

// Start implements engine.Scopes.
func (l *Lazy) Start(ctx context.Context, s engine.Scope) error {
	d, err := l.connect(ctx)
	if err != nil {
		return err
	}
	return d.Start(ctx, s)
}

// StartSlice is Driver.StartSlice.
func (l *Lazy) StartSlice(ctx context.Context, name string, r *specs.LinuxResources) error {
	d, err := l.connect(ctx)
	if err != nil {
		return err
	}
	return d.StartSlice(ctx, name, r)
}

// Update implements engine.Scopes.
func (l *Lazy) Update(ctx context.Context, name string, r *specs.LinuxResources) error {
	d, err := l.connect(ctx)
	if err != nil {
		return err
	}
	return d.Update(ctx, name, r)
}

// Stop implements engine.Scopes.
func (l *Lazy) Stop(ctx context.Context, name string) error {
	d, err := l.connect(ctx)
	if err != nil {
		return err
	}
	return d.Stop(ctx, name)
}
