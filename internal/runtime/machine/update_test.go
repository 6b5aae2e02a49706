package machine_test

import (
	"context"
	"testing"
	"time"

	"github.com/11f9778f/berth/internal/runtime"
)

// Limits change in the kernel, are told as the kernel has them, survive a daemon, and a refused change
// changes nothing.
func TestUpdateResources(t *testing.T) {
	p := newPlace(t)
	d := p.open(t)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	spec := p.pod("limits", false)
	spec.Resources = &runtime.Resources{CPUQuota: 40_000, CPUPeriod: 100_000, MemoryLimit: 128 << 20}
	sb, err := d.rt.RunSandbox(ctx, spec)
	if err != nil {
		t.Fatal(err)
	}
	cs := shell("c", "sleep 1000")
	cs.Resources = runtime.Resources{CPUQuota: 20_000, CPUPeriod: 100_000, MemoryLimit: 64 << 20}
	c, err := d.start(ctx, sb, cs)
	if err != nil {
		t.Fatal(err)
	}
	expect := func(path string, told, want runtime.Resources) {
		t.Helper()
		have, err := d.kernel().Limits(ctx, path)
		if err != nil || have.CPUQuota != want.CPUQuota || have.CPUPeriod != want.CPUPeriod || have.MemoryLimit != want.MemoryLimit {
			t.Errorf("the kernel has %+v, %v; want %+v", have, err, want)
		}
		if told.CPUQuota != want.CPUQuota || told.CPUPeriod != want.CPUPeriod || told.MemoryLimit != want.MemoryLimit {
			t.Errorf("the status tells %+v; want %+v", told, want)
		}
	}
	pod := func() runtime.SandboxStatus { s, _ := d.rt.Sandbox(sb); return s }
	ctr := func() runtime.ContainerStatus { s, _ := d.rt.Container(c); return s }
	big := runtime.Resources{CPUQuota: 60_000, CPUPeriod: 100_000, MemoryLimit: 96 << 20}
	// Growing: the pod first.
	if err := d.rt.UpdateSandboxResources(ctx, sb, runtime.Resources{MemoryLimit: 64 << 20}, runtime.Resources{CPUQuota: 80_000, CPUPeriod: 100_000, MemoryLimit: 192 << 20}); err != nil {
		t.Fatal(err)
	}
	expect(pod().CgroupPath, *pod().Spec.Resources, runtime.Resources{CPUQuota: 80_000, CPUPeriod: 100_000, MemoryLimit: 256 << 20})
	if err := d.rt.UpdateResources(ctx, c, big); err != nil {
		t.Fatal(err)
	}
	expect(ctr().CgroupPath, ctr().Spec.Resources, big)
	// What the kernel refuses is taken back whole: a quota of a millisecond's tenth is too small.
	if err := d.rt.UpdateResources(ctx, c, runtime.Resources{MemoryLimit: 80 << 20, CPUQuota: 1}); err == nil {
		t.Error("a quota of 1 µs was taken")
	}
	expect(ctr().CgroupPath, ctr().Spec.Resources, big)
	d.close()
	d = p.open(t)
	expect(ctr().CgroupPath, ctr().Spec.Resources, big)
	if r := pod().Spec.Resources; r == nil || r.MemoryLimit != 256<<20 {
		t.Errorf("after a restart: %+v", r)
	}
	// Shrinking: the container first.
	small := runtime.Resources{CPUQuota: 10_000, CPUPeriod: 100_000, MemoryLimit: 32 << 20}
	if err := d.rt.UpdateResources(ctx, c, small); err != nil {
		t.Fatal(err)
	}
	expect(ctr().CgroupPath, ctr().Spec.Resources, small)
	if err := d.rt.UpdateSandboxResources(ctx, sb, runtime.Resources{}, runtime.Resources{CPUQuota: 20_000, MemoryLimit: 48 << 20}); err != nil {
		t.Fatal(err)
	}
	expect(pod().CgroupPath, *pod().Spec.Resources, runtime.Resources{CPUQuota: 20_000, CPUPeriod: 100_000, MemoryLimit: 48 << 20})
	if err := d.rt.RemoveSandbox(ctx, sb); err != nil {
		t.Fatal(err)
	}
	d.checkEmpty(t)
}
