// Package systemd makes the cgroups of containers as scopes of systemd, and those of pods as slices, through its D-Bus interface: the "systemd cgroup driver"
// of container runtimes, for hosts where systemd is to be the only one who makes cgroups.
//
// A scope gets the container's first process, the limits that systemd itself keeps (memory, CPU, tasks), so that it does not
// reset them, and is delegated: what else is limited is written by package cgroup.
//
// It promises that Start and Stop have happened when they return; a Stop of what is not there is done. It never reads
// configuration, and never starts a service.
package systemd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/11f9778f/berth/internal/engine"
)

// Errors of systemd's.
const (
	unitExists = "org.freedesktop.systemd1.UnitExists"
	noSuchUnit = "org.freedesktop.systemd1.NoSuchUnit"
)

// Driver talks to one systemd. Its methods may be called from several goroutines.
type Driver struct {
	conn    *dbus.Conn
	unified bool
}

// Runs tells whether systemd is this machine's service manager (sd_booted(3)).
func Runs() bool {
	info, err := os.Lstat("/run/systemd/system")
	return err == nil && info.IsDir()
}

var _ engine.Scopes = (*Driver)(nil)

// Connect opens the system's bus, or, where none runs, systemd's own socket. unified tells that the host has cgroup
// v2 alone: property names differ. Close closes it.
func Connect(ctx context.Context, unified bool) (*Driver, error) {
	conn, err := dbus.NewSystemConnectionContext(ctx)
	if err != nil {
		var direct error
		if conn, direct = dbus.NewSystemdConnectionContext(ctx); direct != nil {
			return nil, fmt.Errorf("connect to systemd (does it run here?): %w", errors.Join(err, direct))
		}
	}
	return &Driver{conn: conn, unified: unified}, nil
}

// Lost tells that systemd, or the bus, has ended the connection.
func (d *Driver) Lost() bool { return !d.conn.Connected() }

// Close ends the connection.
func (d *Driver) Close() { d.conn.Close() }

// Start implements engine.Scopes.
func (d *Driver) Start(ctx context.Context, s engine.Scope) error {
	properties := []dbus.Property{
		dbus.PropDescription("container " + s.ID),
		dbus.PropSlice(s.Slice),
		dbus.PropPids(uint32(s.PID)),
		property("Delegate", true),
		property("DefaultDependencies", false),
		property("MemoryAccounting", true),
		property("CPUAccounting", true),
		property("TasksAccounting", true),
	}
	properties = append(properties, d.limits(s.Resources)...)
	err := d.wait(ctx, func(done chan<- string) error {
		_, err := d.conn.StartTransientUnitContext(ctx, s.Name, "replace", properties, done)
		return err
	})
	if is(err, unitExists) { // one that failed, and was not forgotten
		if d.conn.ResetFailedUnitContext(ctx, s.Name) == nil {
			err = d.wait(ctx, func(done chan<- string) error {
				_, err := d.conn.StartTransientUnitContext(ctx, s.Name, "replace", properties, done)
				return err
			})
		}
	}
	if err != nil {
		return fmt.Errorf("start systemd scope %s in %s: %w", s.Name, s.Slice, err)
	}
	return nil
}

// StartSlice makes a slice with its limits, and those that its name says it is in. One that is there gets the limits.
func (d *Driver) StartSlice(ctx context.Context, name string, r *specs.LinuxResources) error {
	properties := append([]dbus.Property{
		dbus.PropDescription("pod slice " + name),
		property("DefaultDependencies", false),
		property("MemoryAccounting", true),
		property("CPUAccounting", true),
		property("TasksAccounting", true),
	}, d.limits(r)...)
	err := d.wait(ctx, func(done chan<- string) error {
		_, err := d.conn.StartTransientUnitContext(ctx, name, "replace", properties, done)
		return err
	})
	if is(err, unitExists) {
		return d.Update(ctx, name, r)
	}
	if err != nil {
		return fmt.Errorf("start systemd slice %s: %w", name, err)
	}
	return nil
}

// Update implements engine.Scopes; it does the same for slices.
func (d *Driver) Update(ctx context.Context, name string, r *specs.LinuxResources) error {
	limits := d.limits(r)
	if len(limits) == 0 {
		return nil
	}
	if err := d.conn.SetUnitPropertiesContext(ctx, name, true, limits...); err != nil {
		return fmt.Errorf("update %s of systemd: %w", name, err)
	}
	return nil
}

// Stop implements engine.Scopes; it does the same for slices.
func (d *Driver) Stop(ctx context.Context, name string) error {
	err := d.wait(ctx, func(done chan<- string) error {
		_, err := d.conn.StopUnitContext(ctx, name, "replace", done)
		return err
	})
	if err != nil && !is(err, noSuchUnit) {
		return fmt.Errorf("stop %s of systemd: %w", name, err)
	}
	// A scope whose processes were killed has failed, and stays listed until somebody has seen it.
	if err := d.conn.ResetFailedUnitContext(ctx, name); err != nil && !is(err, noSuchUnit) {
		return fmt.Errorf("forget %s of systemd: %w", name, err)
	}
	return nil
}

// wait starts a job and waits for its result.
func (d *Driver) wait(ctx context.Context, start func(chan<- string) error) error {
	done := make(chan string, 1)
	if err := start(done); err != nil {
		return err
	}
	look := time.NewTicker(time.Second)
	defer look.Stop()
	for {
		select {
		case result := <-done:
			if result != "done" {
				return fmt.Errorf("systemd's job ended as %q", result)
			}
			return nil
		case <-look.C: // nobody tells how a job ended while there was no connection
			if d.Lost() {
				return errors.New("the connection was lost before systemd's job ended")
			}
		case <-ctx.Done():
			return fmt.Errorf("wait for systemd's job: %w", ctx.Err())
		}
	}
}

func is(err error, name string) bool {
	var e godbus.Error
	return errors.As(err, &e) && e.Name == name
}

func property(name string, value any) dbus.Property {
	return dbus.Property{Name: name, Value: godbus.MakeVariant(value)}
}

// limits are what systemd keeps of the resources, systemd.resource-control(5). The rest is written directly.
func (d *Driver) limits(r *specs.LinuxResources) []dbus.Property {
	const unlimited = ^uint64(0)
	value := func(n int64) uint64 {
		if n < 0 {
			return unlimited
		}
		return uint64(n)
	}
	var list []dbus.Property
	if r == nil {
		return nil
	}
	if m := r.Memory; m != nil && m.Limit != nil && *m.Limit != 0 {
		name := "MemoryLimit"
		if d.unified {
			name = "MemoryMax"
		}
		list = append(list, property(name, value(*m.Limit)))
	}
	if p := r.Pids; p != nil && p.Limit != nil {
		list = append(list, property("TasksMax", max(value(*p.Limit), 1))) // 0 is refused; it, too, lets nobody fork
	}
	c := r.CPU
	if c == nil {
		return list
	}
	if c.Shares != nil && *c.Shares != 0 {
		if d.unified {
			list = append(list, property("CPUWeight", engine.CPUWeight(*c.Shares)))
		} else {
			list = append(list, property("CPUShares", *c.Shares))
		}
	}
	if c.Quota != nil && *c.Quota != 0 {
		quota := unlimited
		if *c.Quota > 0 {
			period := uint64(100000)
			if c.Period != nil && *c.Period != 0 {
				period = *c.Period
			}
			// systemd counts in whole per cents of a CPU, 10 ms a second.
			quota = (uint64(*c.Quota)*1000000/period + 9999) / 10000 * 10000
		}
		list = append(list, property("CPUQuotaPerSecUSec", quota))
	}
	return list
}
