// Package systemdtest is a systemd for tests: slices and scopes alone, on a bus of the test's own.
//
// It makes the cgroups of its units as systemd does: a slice's is where its name says, a scope's is in its slice and takes
// the processes that it is started with, and both are gone when the unit has been stopped. It knows no dependencies but
// these, and no timers.
package systemdtest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	godbus "github.com/godbus/dbus/v5"

	"github.com/11f9778f/berth/internal/engine/cgroup"
)

const (
	errPrefix   = "org.freedesktop.systemd1."
	managerPath = godbus.ObjectPath("/org/freedesktop/systemd1")
	managerName = errPrefix + "Manager"
)

// Manager is the systemd.
type Manager struct {
	// PlainUnits have no cgroups: nobody looks at them.
	PlainUnits bool

	mu     sync.Mutex
	conns  map[*godbus.Conn]bool
	units  map[string]map[string]any
	failed map[string]bool
	jobs   uint32
	result string
}

// New starts a Manager on a bus that the test, and processes that it starts, take for the system's. It
// ends with the test.
func New(t testing.TB) *Manager {
	t.Helper()
	m := &Manager{conns: map[*godbus.Conn]bool{}, units: map[string]map[string]any{}, failed: map[string]bool{}, result: "done"}
	address, stop, err := listen(t.TempDir(), m)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", address)
	return m
}

// Units lists the units that are there.
func (m *Manager) Units() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Sorted(maps.Keys(m.units))
}

// Property is what a unit was given.
func (m *Manager) Property(unit, name string) any {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.units[unit][name]
}

// Fail has a unit be one that has failed, which systemd keeps until somebody resets it.
func (m *Manager) Fail(unit string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.units, unit)
	m.failed[unit] = true
}

// EndJobsAs sets the result of the jobs to come; "done" is success, and with "" nobody hears of their end.
func (m *Manager) EndJobsAs(result string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.result = result
}

// Disconnect ends all connections, as a restarted bus does.
func (m *Manager) Disconnect() {
	m.mu.Lock()
	conns := m.conns
	m.conns = map[*godbus.Conn]bool{}
	m.mu.Unlock()
	for c := range conns {
		c.Close()
	}
}

// path is the cgroup of a unit.
func (m *Manager) path(name string, properties map[string]any) (string, error) {
	if cgroup.IsSlice(name) {
		return cgroup.SlicePath(name)
	}
	slice, _ := properties["Slice"].(string)
	parent, err := cgroup.SlicePath(slice)
	return parent + "/" + name, err
}

// start makes a unit's cgroup.
func (m *Manager) start(name string, properties map[string]any) error {
	if m.PlainUnits {
		return nil
	}
	path, err := m.path(name, properties)
	if err != nil {
		return err
	}
	g, err := cgroup.Load(path)
	if err != nil {
		return err
	}
	if err := g.Create(context.Background()); err != nil {
		return err
	}
	pids, _ := properties["PIDs"].([]uint32)
	for _, pid := range pids {
		if err := g.Join(int(pid)); err != nil {
			return err
		}
	}
	return nil
}

// stop ends what is in a unit and removes its cgroup, and the units in it.
func (m *Manager) stop(name string) error {
	properties := m.units[name]
	delete(m.units, name)
	if cgroup.IsSlice(name) {
		for unit, p := range m.units {
			if p["Slice"] == name || strings.HasPrefix(unit, strings.TrimSuffix(name, ".slice")+"-") {
				if err := m.stop(unit); err != nil {
					return err
				}
			}
		}
	}
	if m.PlainUnits {
		return nil
	}
	path, err := m.path(name, properties)
	if err != nil {
		return err
	}
	g, err := cgroup.Load(path)
	if err != nil {
		return err
	}
	if err := g.Kill(context.Background()); err != nil {
		return err
	}
	return g.Delete(context.Background())
}

// job tells everybody, a moment later, that a job has ended.
func (m *Manager) job(unit string) godbus.ObjectPath {
	m.jobs++
	path := godbus.ObjectPath(fmt.Sprintf("%s/job/%d", managerPath, m.jobs))
	id, result, conns := m.jobs, m.result, slices.Collect(maps.Keys(m.conns))
	if result == "" {
		return path
	}
	go func() {
		for _, c := range conns {
			c.Emit(managerPath, managerName+".JobRemoved", id, path, unit, result)
		}
	}()
	return path
}
