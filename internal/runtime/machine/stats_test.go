package machine_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/11f9778f/berth/internal/runtime"
	"github.com/11f9778f/berth/internal/runtime/machine"
)

// What statistics say follows what a pod does: it computes, writes a file, uses memory and the network.
func TestStats(t *testing.T) {
	p := newPlace(t)
	d := p.open(t)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	sb, err := d.rt.RunSandbox(ctx, p.pod("stats", false))
	if err != nil {
		t.Fatal(err)
	}
	spec := shell("busy", "dd if=/dev/zero of=/tmp/file bs=1048576 count=3 2>/dev/null; while :; do :; done")
	spec.Resources.MemoryLimit = 64 << 20
	c, err := d.start(ctx, sb, spec)
	if err != nil {
		t.Fatal(err)
	}
	gone, err := d.start(ctx, sb, shell("gone", "exit 0"))
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the short one ends", func() bool { st, _ := d.rt.Container(gone); return st.State == runtime.ContainerExited })

	first, err := d.rt.ContainerStats(ctx, c)
	if err != nil || first.Disk.At.IsZero() || first.Disk.Inodes == 0 {
		t.Fatalf("%+v, %v", first, err)
	}
	eventually(t, "CPU is used", func() bool {
		s, err := d.rt.ContainerStats(ctx, c)
		return err == nil && s.Cgroup.CPUNanos > first.Cgroup.CPUNanos+1e8 && s.Cgroup.CPURate > 1e7
	})
	s, err := d.rt.ContainerStats(ctx, c)
	if err != nil || s.Cgroup.MemoryLimit != 64<<20 || s.Cgroup.MemoryUsage == 0 || s.Cgroup.MemoryWorkingSet == 0 {
		t.Errorf("%+v, %v", s.Cgroup, err)
	}
	if _, err := os.Stat("/sys/fs/cgroup/unified/cpu.pressure"); err == nil && s.Cgroup.CPUPressure == nil {
		t.Error("the kernel tells pressures, and the statistics don't")
	}
	d.checkSandboxStats(t, ctx, sb, c)
	if all := d.allContainerStats(ctx); len(all) != 1 || all[0].Container.ID != c {
		t.Errorf("statistics of all running containers: %+v", all)
	}
	if s, err := d.rt.ContainerStats(ctx, gone); err != nil || s.Cgroup.CPUNanos != 0 {
		t.Errorf("of an ended container: %+v, %v", s, err)
	}
	eventually(t, "the file is seen", func() bool { s, _ := d.rt.ContainerStats(ctx, c); return s.Disk.Bytes >= 3<<20 })
	if err := d.rt.StopSandbox(ctx, sb); err != nil {
		t.Fatal(err)
	}
	if s, err := d.rt.SandboxStats(ctx, sb); err != nil || len(s.Containers) != 0 || s.Network != nil {
		t.Errorf("of a stopped pod: %+v, %v", s, err)
	}
	if err := d.rt.RemoveSandbox(ctx, sb); err != nil {
		t.Fatal(err)
	}
	d.checkEmpty(t)
}

func (d *daemon) checkSandboxStats(t *testing.T, ctx context.Context, sb, c string) {
	t.Helper()
	before, err := d.rt.SandboxStats(ctx, sb)
	if err != nil || len(before.Network) != 1 || before.Network[0].Name != "eth0" || len(before.Containers) != 1 || before.Cgroup.Pids == 0 {
		t.Fatalf("%+v, %v", before, err)
	}
	// The pod refuses the connection, which is something that it sends.
	if conn, err := net.DialTimeout("tcp", net.JoinHostPort(before.Sandbox.IPs[0].String(), "9"), 10*time.Second); err == nil {
		conn.Close()
	}
	after, err := d.rt.SandboxStats(ctx, sb)
	if err != nil || after.Network[0].TxBytes <= before.Network[0].TxBytes || after.Network[0].TxPackets <= before.Network[0].TxPackets {
		t.Errorf("nothing was sent: %+v, then %+v, %v", before.Network, after.Network, err)
	}
	// The network tells of all pods at once what the pod itself says.
	one, err := d.rt.SandboxStats(ctx, sb)
	all := d.allSandboxStats(ctx)
	if err != nil || len(all) != 1 || len(all[0].Network) != 1 || all[0].Network[0].Name != "eth0" ||
		all[0].Network[0].TxPackets < one.Network[0].TxPackets || all[0].Network[0].RxPackets < one.Network[0].RxPackets {
		t.Errorf("of all pods: %+v, of the one: %+v, %v", all, one.Network, err)
	}
	// With no process in the pod the namespace itself is asked.
	k := d.kernel()
	direct, err := k.NetworkUsage(ctx, 0, after.Sandbox.NetNS)
	if err != nil || len(direct) != 1 || direct[0].TxBytes < after.Network[0].TxBytes {
		t.Errorf("from the namespace: %+v, %v", direct, err)
	}
	if other, err := k.NetworkUsage(ctx, os.Getpid(), after.Sandbox.NetNS); err != nil || len(other) != 1 || other[0].Name != "eth0" {
		t.Errorf("another process's namespace was believed: %+v, %v", other, err)
	}
	procs, err := k.ProcessUsage(ctx, after.Sandbox.CgroupPath)
	if err != nil || procs.Processes == 0 || procs.Threads == 0 || procs.FileDescriptors == 0 || procs.OpenFilesLimit == 0 {
		t.Errorf("%+v, %v", procs, err)
	}
	if n, err := k.Counters(ctx, after.Sandbox.CgroupPath); err != nil || n.CPU.Usage == 0 || n.Memory.Usage == 0 {
		t.Errorf("%+v, %v", n, err)
	}
}

func (d *daemon) allContainerStats(ctx context.Context) (out []runtime.ContainerStats) {
	var mu sync.Mutex
	d.rt.VisitContainerStats(ctx, func(*runtime.ContainerStatus) bool { return true }, func() func(*runtime.ContainerStats) {
		return func(s *runtime.ContainerStats) {
			mu.Lock()
			defer mu.Unlock()
			out = append(out, *s)
		}
	})
	return out
}

func (d *daemon) allSandboxStats(ctx context.Context) (out []runtime.SandboxStats) {
	var mu sync.Mutex
	d.rt.VisitSandboxStats(ctx, func(*runtime.SandboxStatus) bool { return true }, func() func(*runtime.SandboxStats) {
		return func(s *runtime.SandboxStats) {
			mu.Lock()
			defer mu.Unlock()
			own := *s
			own.Network, own.Containers = slices.Clone(s.Network), slices.Clone(s.Containers)
			out = append(out, own)
		}
	})
	return out
}

// kernel is what the daemon's runtime asks.
func (d *daemon) kernel() runtime.Kernel { return machine.Kernel{} }

// BenchmarkStats lists the statistics of 50 pods with one container each.
func BenchmarkStats(b *testing.B) {
	p := newPlace(b)
	d := p.open(b)
	ctx := context.Background()
	for i := range 50 {
		sb, err := d.rt.RunSandbox(ctx, p.pod(fmt.Sprintf("p%d", i), false))
		if err != nil {
			b.Fatal(err)
		}
		defer d.rt.RemoveSandbox(ctx, sb)
		if _, err := d.start(ctx, sb, shell("c", "sleep 1000")); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("containers", func(b *testing.B) {
		for b.Loop() {
			if n := len(d.allContainerStats(ctx)); n != 50 {
				b.Fatal(n)
			}
		}
	})
	b.Run("pods", func(b *testing.B) {
		for b.Loop() {
			if n := len(d.allSandboxStats(ctx)); n != 50 {
				b.Fatal(n)
			}
		}
	})
}
