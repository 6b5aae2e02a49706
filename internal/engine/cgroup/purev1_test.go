package cgroup

import (
	"context"
	"errors"
	"os"
	"regexp"
	"testing"
	"time"
)

// A machine without any v2 hierarchy: this one's v1 hierarchies, with cgroup2 left out of the mount table.
func TestPureV1(t *testing.T) {
	top := parent(t)
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	hs, err := Discover(regexp.MustCompile(`(?m)^.* - cgroup2 .*\n`).ReplaceAll(table, nil))
	if err != nil {
		t.Skipf("no cgroup v1 here: %v", err)
	}
	defer hs.Close()
	g, err := hs.Load(top + "/c")
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Create(context.Background()); err != nil {
		t.Fatal(err)
	}
	if _, err := g.FD(); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("FD: %v", err)
	}
	if _, v2 := g.Paths()[""]; v2 {
		t.Error("there is a v2 path")
	}
	p := start(t, "bomb")
	if err := g.Join(p.Process.Pid); err != nil {
		t.Fatal(err)
	}
	bomb(t, g, p)
	ignorer := start(t, "ignore")
	if err := g.Join(ignorer.Process.Pid); err != nil {
		t.Fatal(err)
	}
	if err := g.Freeze(timeout(t, 10*time.Second)); err != nil {
		t.Fatal(err)
	}
	if err := g.Kill(timeout(t, 10*time.Second)); err != nil {
		t.Fatal(err)
	}
	if s, err := g.Stats(); err != nil || s.CPU.Pressure != nil || s.CPU.Usage == 0 {
		t.Errorf("%+v, %v", s, err)
	}
}
