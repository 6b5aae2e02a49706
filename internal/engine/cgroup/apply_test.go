package cgroup

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func ptr[T any](v T) *T { return &v }

func itoa(n int) string { return strconv.Itoa(n) }

func limitMemory(t *testing.T, g *Group, n int64) {
	t.Helper()
	r := &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(n), Swap: ptr(n)}}
	if err := g.Apply(r); errors.Is(err, ErrUnsupported) {
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	}
}

func limitPids(t *testing.T, g *Group, n int64) {
	t.Helper()
	if err := g.Apply(&specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(n)}}); errors.Is(err, ErrUnsupported) {
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	}
}

func TestApplyCPU(t *testing.T) {
	g := create(t, parent(t)+"/c")
	steps := []struct {
		cpu              specs.LinuxCPU
		v1file, v1, v2fl string
		v2               string
	}{
		{specs.LinuxCPU{Shares: ptr(uint64(512))}, "cpu.shares", "512", "cpu.weight", "59"},
		{specs.LinuxCPU{Quota: ptr(int64(50000)), Period: ptr(uint64(100000))}, "cpu.cfs_quota_us", "50000", "cpu.max", "50000 100000"},
		{specs.LinuxCPU{Burst: ptr(uint64(40000))}, "cpu.cfs_burst_us", "40000", "cpu.max.burst", "40000"},
		// A quota below the old burst, with a smaller burst: the order must turn round.
		{specs.LinuxCPU{Quota: ptr(int64(20000)), Burst: ptr(uint64(10000))}, "cpu.cfs_quota_us", "20000", "cpu.max", "20000 100000"},
		{specs.LinuxCPU{Period: ptr(uint64(200000))}, "cpu.cfs_period_us", "200000", "cpu.max", "20000 200000"},
		{specs.LinuxCPU{Burst: ptr(uint64(0))}, "cpu.cfs_burst_us", "0", "cpu.max.burst", "0"},
		{specs.LinuxCPU{Quota: ptr(int64(-1))}, "cpu.cfs_quota_us", "-1", "cpu.max", "max 200000"},
		{specs.LinuxCPU{Idle: ptr(int64(1))}, "cpu.idle", "1", "cpu.idle", "1"},
		{specs.LinuxCPU{Idle: ptr(int64(0)), Shares: ptr(uint64(2048))}, "cpu.shares", "2048", "cpu.weight", "174"},
		{specs.LinuxCPU{Shares: ptr(uint64(0)), Quota: ptr(int64(0))}, "cpu.shares", "2048", "cpu.weight", "174"},
	}
	for _, s := range steps {
		path := file(t, g, s.v1file, s.v2fl)
		if err := g.Apply(&specs.LinuxResources{CPU: &s.cpu}); err != nil {
			t.Fatal(err)
		}
		want := s.v1
		if g.h.unified {
			want = s.v2
		}
		if got := content(t, path); got != want {
			t.Errorf("%s is %q, want %q", path, got, want)
		}
	}
}

func TestApplyMemoryGrowsAndShrinks(t *testing.T) {
	g := create(t, parent(t)+"/c")
	path := file(t, g, "memory.limit_in_bytes", "memory.max")
	for _, mib := range []int64{64, 256, 32, 128} {
		limitMemory(t, g, mib<<20)
		if got := content(t, path); got != strconv.FormatInt(mib<<20, 10) {
			t.Errorf("limit is %s, want %d MiB", got, mib)
		}
		if s, err := g.Stats(); err != nil || s.Memory.Limit != uint64(mib)<<20 || s.Memory.SwapLimit != 0 {
			t.Errorf("stats: %+v, %v", s.Memory, err)
		}
	}
	for _, m := range []specs.LinuxMemory{
		{Limit: ptr(int64(64 << 20)), Swap: ptr(int64(96 << 20)), Reservation: ptr(int64(32 << 20)), Kernel: ptr(int64(1))},
		{Limit: ptr(int64(0))},
	} {
		if err := g.Apply(&specs.LinuxResources{Memory: &m}); err != nil {
			t.Fatal(err)
		}
		if s, err := g.Stats(); err != nil || s.Memory.Limit != 64<<20 || s.Memory.SwapLimit != 32<<20 {
			t.Errorf("stats: %+v, %v", s.Memory, err)
		}
	}
	if err := g.Apply(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(-1))}}); err != nil {
		t.Fatal(err)
	}
	if s, err := g.Stats(); err != nil || s.Memory.Limit != Unlimited || s.Memory.SwapLimit != Unlimited {
		t.Errorf("stats: %+v, %v", s.Memory, err)
	}
}

func TestApplyNamesFileValueAndReason(t *testing.T) {
	g := create(t, parent(t)+"/c")
	path := file(t, g, "cpuset.cpus", "cpuset.cpus")
	err := g.Apply(&specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "4000-4001"}})
	for _, want := range []string{path, `"4000-4001"`, g.Path()} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v lacks %s", err, want)
		}
	}
}

func TestApplyRefusesWhatTheMachineLacks(t *testing.T) {
	g := create(t, parent(t)+"/c")
	for name, r := range map[string]*specs.LinuxResources{
		"net_cls": {Network: &specs.LinuxNetwork{ClassID: ptr(uint32(1))}},
		"rdma":    {Rdma: map[string]specs.LinuxRdma{"mlx5_1": {HcaHandles: ptr(uint32(1))}}},
		"memory":  {Unified: map[string]string{"memory.high": "1000000"}},
	} {
		if h := g.h.byController[name]; h != nil && (name != "memory" || h.V2) {
			continue
		}
		if err := g.Apply(r); !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, r := range []*specs.LinuxResources{nil, {}, {CPU: &specs.LinuxCPU{}, Memory: &specs.LinuxMemory{}, Pids: &specs.LinuxPids{},
		BlockIO: &specs.LinuxBlockIO{}, Network: &specs.LinuxNetwork{}}} {
		if err := g.Apply(r); err != nil {
			t.Errorf("nothing asked: %v", err)
		}
	}
	for _, name := range []string{"cgroup.procs/../x", "nodot", ".x", "/memory.max"} {
		if err := g.Apply(&specs.LinuxResources{Unified: map[string]string{name: "1"}}); err == nil {
			t.Errorf("unified %q was taken", name)
		}
	}
}

func TestApplyHugepages(t *testing.T) {
	top := parent(t)
	g := create(t, top+"/c")
	path := file(t, g, "hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.max")
	if h := g.h.byController["hugetlb"]; h.V2 && !g.h.unified {
		// A hybrid's root gets the controller for this test alone.
		if root := h.dir.Path("cgroup.subtree_control"); !strings.Contains(content(t, root), "hugetlb") {
			t.Cleanup(func() {
				above, _ := Load(top)
				above.Delete(timeout(t, 10*time.Second))
				os.WriteFile(root, []byte("-hugetlb"), 0)
			})
		}
	}
	r := &specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 4 << 20}}}
	if err := g.Apply(r); err != nil {
		t.Fatal(err)
	}
	if got := content(t, path); got != "4194304" {
		t.Errorf("limit is %s", got)
	}
	if pages, err := g.HugePages(); err != nil || pages["2MB"].Limit != 4<<20 || pages["2MB"].Usage != 0 {
		t.Errorf("counters %+v, %v", pages, err)
	}
	r.HugepageLimits[0].Pagesize = "3XB"
	if err := g.Apply(r); !errors.Is(err, ErrUnsupported) {
		t.Errorf("a page size that is none: %v", err)
	}
}

func TestWeightOfShares(t *testing.T) {
	for shares, want := range map[uint64]uint64{1: 1, 2: 1, 1024: 100, 262144: 10000, 1 << 40: 10000, 512: 59, 2048: 174, 10: 4} {
		if got := WeightOfShares(shares); got != want {
			t.Errorf("%d shares are weight %d, want %d", shares, got, want)
		}
	}
	last := uint64(0)
	for s := uint64(2); s <= 262144; s++ {
		w := WeightOfShares(s)
		if w < last || w < 1 || w > 10000 {
			t.Fatalf("weight %d at %d shares after %d", w, s, last)
		}
		last = w
	}
}
