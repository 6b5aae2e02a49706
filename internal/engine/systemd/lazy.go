package systemd

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/11f9778f/berth/internal/engine"
	"github.com/11f9778f/berth/internal/engine/cgroup"
)

// patience is how long systemd may take for what it is asked, where the caller does not say it.
const patience = 2 * time.Minute

// Lazy is a Driver that connects when it is used first, and again when the connection was lost: buses are restarted, too.
// A systemd that does not answer holds up each caller until its context ends, or for two minutes.
type Lazy struct {
	once   sync.Once
	turn   chan struct{} // who has put his token in has driver
	driver *Driver
}

var _ engine.Scopes = (*Lazy)(nil)

// with calls f with the driver.
func (l *Lazy) with(ctx context.Context, f func(context.Context, *Driver) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	d, err := l.connect(ctx)
	if err != nil {
		return err
	}
	return f(ctx, d)
}

func (l *Lazy) connect(ctx context.Context) (*Driver, error) {
	l.once.Do(func() { l.turn = make(chan struct{}, 1) })
	select {
	case l.turn <- struct{}{}:
		defer func() { <-l.turn }()
	case <-ctx.Done():
		return nil, fmt.Errorf("connect to systemd: %w", ctx.Err())
	}
	if l.driver != nil && l.driver.Lost() {
		l.driver.Close()
		l.driver = nil
	}
	if l.driver == nil {
		h, err := cgroup.Local()
		if err != nil {
			return nil, err
		}
		if l.driver, err = connectIn(ctx, h.Unified()); err != nil {
			return nil, err
		}
	}
	return l.driver, nil
}

// connectIn is Connect for a connection that outlives ctx, which bounds only how long that may take.
func connectIn(ctx context.Context, unified bool) (*Driver, error) {
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, end)
	d, err := Connect(life, unified)
	if !stop() && err == nil { // ctx has just ended, and takes the connection with it
		d.Close()
		err = errors.New("connect to systemd: there was no time left")
	}
	if err != nil {
		end()
		return nil, errors.Join(ctx.Err(), err)
	}
	return d, nil
}

// Start implements engine.Scopes.
func (l *Lazy) Start(ctx context.Context, s engine.Scope) error {
	return l.with(ctx, func(ctx context.Context, d *Driver) error { return d.Start(ctx, s) })
}

// StartSlice is Driver.StartSlice.
func (l *Lazy) StartSlice(ctx context.Context, name string, r *specs.LinuxResources) error {
	return l.with(ctx, func(ctx context.Context, d *Driver) error { return d.StartSlice(ctx, name, r) })
}

// Update implements engine.Scopes.
func (l *Lazy) Update(ctx context.Context, name string, r *specs.LinuxResources) error {
	return l.with(ctx, func(ctx context.Context, d *Driver) error { return d.Update(ctx, name, r) })
}

// Stop implements engine.Scopes.
func (l *Lazy) Stop(ctx context.Context, name string) error {
	return l.with(ctx, func(ctx context.Context, d *Driver) error { return d.Stop(ctx, name) })
}
