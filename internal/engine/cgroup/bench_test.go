package cgroup

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func benchGroup(b *testing.B, name string) *Group {
	if os.Geteuid() != 0 {
		b.Skip("needs root: writes to /sys/fs/cgroup")
	}
	top, err := Load(fmt.Sprintf("/berth-test-%d", os.Getpid()))
	if err != nil {
		b.Skip(err)
	}
	g, err := Load(top.Path() + "/" + name)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		top.Kill(context.Background())
		if err := top.Delete(context.Background()); err != nil {
			b.Error(err)
		}
	})
	if err := g.Create(context.Background()); err != nil {
		b.Fatal(err)
	}
	return g
}

func BenchmarkCreateDelete(b *testing.B) {
	pod := benchGroup(b, "pod")
	g, _ := Load(pod.Path() + "/c")
	var made time.Duration
	for b.Loop() {
		began := time.Now()
		if err := g.Create(context.Background()); err != nil {
			b.Fatal(err)
		}
		made += time.Since(began)
		if err := g.Delete(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(made.Nanoseconds())/float64(b.N), "create-ns/op")
}

func BenchmarkApplyContainer(b *testing.B) {
	pod := benchGroup(b, "pod")
	g, _ := Load(pod.Path() + "/c")
	r := &specs.LinuxResources{
		Devices: containerRules(),
		CPU:     &specs.LinuxCPU{Shares: ptr(uint64(512)), Quota: ptr(int64(50000)), Period: ptr(uint64(100000))},
		Memory:  &specs.LinuxMemory{Limit: ptr(int64(64 << 20)), Swap: ptr(int64(64 << 20))},
		Pids:    &specs.LinuxPids{Limit: ptr(int64(100))},
	}
	for b.Loop() {
		b.StopTimer()
		g.Delete(context.Background())
		g.Create(context.Background())
		b.StartTimer()
		if err := g.Apply(r); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkStats(b *testing.B) {
	g := benchGroup(b, "c")
	for b.Loop() {
		if _, err := g.Stats(); err != nil {
			b.Fatal(err)
		}
	}
}

func benchSleeper(b *testing.B) *exec.Cmd {
	c := exec.Command("/bin/sleep", "60")
	if err := c.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.Process.Kill(); c.Wait() })
	return c
}

// BenchmarkJoin is the join of a busy node; after 50 ms of rest, the first write waits some 5 ms more.
func BenchmarkJoin(b *testing.B) {
	g, other := benchGroup(b, "a"), benchGroup(b, "b")
	c := benchSleeper(b)
	for i := 0; b.Loop(); i++ {
		if err := []*Group{g, other}[i%2].Join(c.Process.Pid); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkKill(b *testing.B) {
	g := benchGroup(b, "a")
	for b.Loop() {
		b.StopTimer()
		c := exec.Command("/bin/sleep", "60")
		if err := c.Start(); err != nil {
			b.Fatal(err)
		}
		if err := g.Join(c.Process.Pid); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		if err := g.Kill(context.Background()); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		c.Wait()
		b.StartTimer()
	}
}
