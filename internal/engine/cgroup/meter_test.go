package cgroup

import (
	"errors"
	"io/fs"
	"os"
	"testing"
)

// A meter and Stats tell the same.
func TestMeter(t *testing.T) {
	g := create(t, parent(t)+"/c")
	const limit = 64 << 20
	limitMemory(t, g, limit)
	p := start(t, "eat:10")
	if err := g.Join(p.Process.Pid); err != nil {
		t.Fatal(err)
	}
	m := g.Meter(true)
	defer m.Close()
	for range 2 {
		a, err := m.Read()
		if err != nil {
			t.Fatal(err)
		}
		b, err := g.Stats()
		if err != nil {
			t.Fatal(err)
		}
		if a.Pids.Current != b.Pids.Current || a.Memory.Limit != b.Memory.Limit || a.Memory.Usage == 0 != (b.Memory.Usage == 0) ||
			a.Memory.RSS == 0 != (b.Memory.RSS == 0) || (a.CPU.Pressure == nil) != (b.CPU.Pressure == nil) || a.CPU.Usage > b.CPU.Usage {
			t.Errorf("meter %+v\nstats %+v", a, b)
		}
		if a.Memory.Limit != limit || a.Pids.Current == 0 {
			t.Errorf("%+v", a)
		}
	}
	if err := g.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.Wait()
	if err := g.Delete(t.Context()); err != nil {
		t.Fatalf("an open meter keeps the group: %v", err)
	}
	if _, err := m.Read(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("meter of a removed group: %v", err)
	}
	if _, err := g.Meter(true).Read(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("new meter of a removed group: %v", err)
	}
	m.Close()
	if _, err := m.Read(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("closed meter: %v", err)
	}
}

func BenchmarkMeter(b *testing.B) {
	m := benchGroup(b, "metered").Meter(true)
	defer m.Close()
	for b.Loop() {
		if _, err := m.Read(); err != nil {
			b.Fatal(err)
		}
	}
}
