package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func TestCgroupMounts(t *testing.T) {
	const table = `22 1 8:1 / / rw,relatime - ext4 /dev/root rw
30 22 0:26 / /sys/fs/cgroup ro,nosuid shared:9 - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:10 - cgroup2 cgroup2 rw,nsdelegate
32 30 0:28 / /sys/fs/cgroup/systemd rw,nosuid shared:11 - cgroup cgroup rw,xattr,name=systemd
33 30 0:31 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:12 - cgroup cgroup rw,cpu,cpuacct
34 30 0:32 /docker/x /mnt/part\040of\040it rw - cgroup cgroup rw,memory
35 30 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
36 30 0:33 / /sys/fs/cgroup/pids ro - cgroup cgroup rw,pids
37 30 0:34 /docker/x /mnt/a\134b rw - cgroup cgroup rw,devices
38 30 0:31 / /again rw - cgroup cgroup rw,cpu,cpuacct
39 broken
40 30 0:40 / /x rw - cgroup
`
	want := []Hierarchy{
		{MountPoint: "/sys/fs/cgroup/unified", V2: true},
		{MountPoint: "/sys/fs/cgroup/systemd", Name: "systemd"},
		{MountPoint: "/sys/fs/cgroup/cpu,cpuacct", Controllers: []string{"cpu", "cpuacct"}},
		{MountPoint: "/sys/fs/cgroup/memory", Controllers: []string{"memory"}},
		{MountPoint: `/mnt/a\b`, Controllers: []string{"devices"}},
	}
	got := cgroupMounts([]byte(table))
	if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestDiscoverNothing(t *testing.T) {
	if _, err := Discover(nil); err == nil || !strings.Contains(err.Error(), "none is mounted") {
		t.Error(err)
	}
	gone := "31 30 0:27 / " + t.TempDir() + "/gone rw - cgroup2 cgroup2 rw\n"
	if _, err := Discover([]byte(gone)); err == nil {
		t.Error("a hidden mount counts")
	}
}

// fakeV2 is a directory tree with the files of cgroup v2 where the test puts them.
func fakeV2(t *testing.T, controllers string, groups ...string) (*Hierarchies, string) {
	t.Helper()
	root := t.TempDir()
	for _, dir := range append([]string{""}, groups...) {
		path := filepath.Join(root, dir)
		if err := os.MkdirAll(path, 0o755); err != nil {
			t.Fatal(err)
		}
		for _, f := range []string{"cgroup.procs", "cgroup.subtree_control", "cpu.weight", "cpu.max", "cpu.max.burst", "cpu.idle", "cpuset.cpus",
			"cpuset.mems", "memory.max", "memory.low", "memory.high", "memory.swap.max", "memory.current", "pids.max", "io.weight", "io.max", "rdma.max"} {
			if err := os.WriteFile(filepath.Join(path, f), nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		os.WriteFile(filepath.Join(path, "cgroup.controllers"), []byte(controllers+"\n"), 0o644)
	}
	hs, err := Discover([]byte("31 30 0:27 / " + root + " rw - cgroup2 cgroup2 rw\n"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(hs.Close)
	if !hs.Unified() {
		t.Fatal("not v2")
	}
	return hs, root
}

func TestApplyV2(t *testing.T) {
	d := specs.LinuxBlockIODevice{Major: 8, Minor: 16}
	type files map[string]string
	tests := []struct {
		name string
		r    specs.LinuxResources
		want files
	}{
		{"cpu", specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: ptr(uint64(1024)), Quota: ptr(int64(-1)), Period: ptr(uint64(50000)),
			Burst: ptr(uint64(0)), Idle: ptr(int64(1)), Cpus: "0-1", Mems: "0"}},
			files{"cpu.weight": "100", "cpu.max": "max 50000", "cpu.max.burst": "0", "cpu.idle": "1", "cpuset.cpus": "0-1", "cpuset.mems": "0"}},
		{"quota alone", specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: ptr(int64(7000))}}, files{"cpu.max": "7000"}},
		{"memory", specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(100)), Swap: ptr(int64(130)), Reservation: ptr(int64(50))}},
			files{"memory.max": "100", "memory.swap.max": "30", "memory.low": "50"}},
		{"no swap", specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(100)), Swap: ptr(int64(100))}}, files{"memory.max": "100", "memory.swap.max": "0"}},
		{"swap unlimited", specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(100)), Swap: ptr(int64(-1))}}, files{"memory.max": "100", "memory.swap.max": "max"}},
		{"all unlimited", specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(-1))}}, files{"memory.max": "max", "memory.swap.max": "max"}},
		{"pids", specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(-1))}}, files{"pids.max": "max"}},
		{"io", specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{Weight: ptr(uint16(500)),
			ThrottleWriteIOPSDevice: []specs.LinuxThrottleDevice{{LinuxBlockIODevice: d, Rate: 7}}}}, files{"io.weight": "4950", "io.max": "8:16 wiops=7"}},
		{"io unlimited", specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{
			ThrottleReadBpsDevice: []specs.LinuxThrottleDevice{{LinuxBlockIODevice: d}}}}, files{"io.max": "8:16 rbps=max"}},
		{"rdma", specs.LinuxResources{Rdma: map[string]specs.LinuxRdma{"mlx5_1": {HcaHandles: ptr(uint32(3)), HcaObjects: ptr(uint32(4))}}},
			files{"rdma.max": "mlx5_1 hca_handle=3 hca_object=4"}},
		{"unified", specs.LinuxResources{Unified: map[string]string{"memory.high": "5000\n", "io.max": "8:0 rbps=1\n8:1 rbps=2"}},
			files{"memory.high": "5000", "io.max": "8:0 rbps=18:1 rbps=2"}},
	}
	for _, tt := range tests {
		hs, root := fakeV2(t, "cpu cpuset io memory pids rdma", "berth/c")
		g, _ := hs.Load("berth/c")
		if err := g.Apply(&tt.r); err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		for f, want := range tt.want {
			// In a plain file, two writes stand behind each other.
			if got := content(t, filepath.Join(root, "berth/c", f)); got != want {
				t.Errorf("%s: %s is %q, want %q", tt.name, f, got, want)
			}
		}
	}
}

func TestApplyV2Refuses(t *testing.T) {
	hs, root := fakeV2(t, "cpu memory", "berth/c")
	g, _ := hs.Load("berth/c")
	for name, r := range map[string]specs.LinuxResources{
		"pids":         {Pids: &specs.LinuxPids{Limit: ptr(int64(1))}},
		"realtime":     {CPU: &specs.LinuxCPU{RealtimeRuntime: ptr(int64(1))}},
		"swappiness":   {Memory: &specs.LinuxMemory{Swappiness: ptr(uint64(1))}},
		"net_cls":      {Network: &specs.LinuxNetwork{ClassID: ptr(uint32(1))}},
		"hugetlb":      {HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 1}}},
		"no such file": {Unified: map[string]string{"memory.bogus": "1"}},
	} {
		if err := g.Apply(&r); !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for want, m := range map[string]specs.LinuxMemory{
		"below the memory limit": {Limit: ptr(int64(100)), Swap: ptr(int64(99))},
		"needs a memory limit":   {Swap: ptr(int64(99))},
		"bytes in use":           {Limit: ptr(int64(100)), CheckBeforeUpdate: ptr(true)},
	} {
		os.WriteFile(filepath.Join(root, "berth/c/memory.current"), []byte("101\n"), 0o644)
		os.WriteFile(filepath.Join(root, "berth/c/memory.max"), []byte("max\n"), 0o644)
		if err := g.Apply(&specs.LinuxResources{Memory: &m}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

// Controllers are enabled from the root down, and only where they are missing.
func TestCreateEnablesControllers(t *testing.T) {
	hs, root := fakeV2(t, "cpu memory", "berth", "berth/pod", "berth/pod/c")
	os.WriteFile(filepath.Join(root, "cgroup.subtree_control"), []byte("cpu memory io\n"), 0o644)
	os.WriteFile(filepath.Join(root, "berth/pod/c/cgroup.controllers"), nil, 0o644)
	g, _ := hs.Load("berth/pod/c")
	if err := g.Create(context.Background()); err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]string{"": "cpu memory io", "berth": "+cpu +memory", "berth/pod": "+cpu +memory", "berth/pod/c": ""} {
		if got := content(t, filepath.Join(root, dir, "cgroup.subtree_control")); got != want {
			t.Errorf("%q: %q, want %q", dir, got, want)
		}
	}
}

func TestChildrenV2(t *testing.T) {
	hs, _ := fakeV2(t, "cpu", "berth", "berth/pod1/a", "berth/pod1/b/inner", "berth/pod2", "other/x")
	got, err := hs.Children("/berth")
	if want := []string{"/berth/pod1", "/berth/pod2"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
	if got, err := hs.Children("/none"); err != nil || len(got) != 0 {
		t.Errorf("%v, %v", got, err)
	}
}

func TestStatsV2(t *testing.T) {
	hs, root := fakeV2(t, "cpu io memory pids", "berth/c")
	for f, text := range map[string]string{
		"cpu.stat":            "usage_usec 30\nuser_usec 20\nsystem_usec 10\nnr_periods 5\nnr_throttled 4\nthrottled_usec 3\n",
		"cpu.pressure":        "some avg10=1.50 avg60=0.25 avg300=0.00 total=77\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n",
		"memory.current":      "1000\n",
		"memory.stat":         "anon 600\nfile 300\ninactive_file 200\npgfault 9\npgmajfault 2\n",
		"memory.max":          "4096\n",
		"memory.swap.max":     "max\n",
		"memory.swap.current": "5\n",
		"memory.events":       "low 0\nhigh 0\nmax 6\noom 2\noom_kill 1\n",
		"pids.current":        "3\n",
		"pids.max":            "max\n",
		"io.stat":             "8:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n8:16 rbytes=1 wbytes=2 rios=3 wios=4\n\nbad line\n",
	} {
		os.WriteFile(filepath.Join(root, "berth/c", f), []byte(text), 0o644)
	}
	g, _ := hs.Load("berth/c")
	s, err := g.Stats()
	if err != nil {
		t.Fatal(err)
	}
	if c := s.CPU; c.Usage != 30000 || c.User != 20000 || c.System != 10000 || c.Periods != 5 || c.Throttled != 4 || c.ThrottledTime != 3000 {
		t.Errorf("%+v", c)
	}
	if p := s.CPU.Pressure; p == nil || p.Some.Avg10 != 1.5 || p.Some.Avg60 != 0.25 || p.Some.Total != 77 || p.Full.Total != 7 {
		t.Errorf("%+v", p)
	}
	if m := s.Memory; m.Usage != 1000 || m.WorkingSet != 800 || m.RSS != 600 || m.Cache != 300 || m.Limit != 4096 || m.SwapLimit != Unlimited ||
		m.Swap != 5 || m.FailCount != 6 || m.OOMKills != 1 || m.PageFaults != 9 || m.MajorPageFaults != 2 || m.Pressure != nil {
		t.Errorf("%+v", m)
	}
	if s.Pids != (PidsStats{3, Unlimited}) || s.IO.ReadBytes != 11 || s.IO.WriteBytes != 22 || s.IO.ReadOps != 4 || s.IO.WriteOps != 6 || len(s.IO.Devices) != 2 {
		t.Errorf("%+v %+v", s.Pids, s.IO)
	}
	if n, err := g.OOMKills(); n != 1 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
}

func TestRDMAV2(t *testing.T) {
	hs, root := fakeV2(t, "rdma", "berth/c")
	os.WriteFile(filepath.Join(root, "berth/c/rdma.current"), []byte("mlx4_0 hca_handle=1 hca_object=20\nbad\n"), 0o644)
	os.WriteFile(filepath.Join(root, "berth/c/rdma.max"), []byte("mlx4_0 hca_handle=2 hca_object=max\n"), 0o644)
	g, _ := hs.Load("berth/c")
	devices, err := g.RDMA()
	if want := (RDMADevice{Handles: 1, Objects: 20, HandleLimit: 2, ObjectLimit: Unlimited}); err != nil || len(devices) != 1 || devices["mlx4_0"] != want {
		t.Errorf("%+v, %v", devices, err)
	}
	if pages, err := g.HugePages(); pages != nil || err != nil {
		t.Errorf("huge pages without the controller: %v, %v", pages, err)
	}
}

func FuzzCgroupMounts(f *testing.F) {
	f.Add([]byte("31 30 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:10 - cgroup2 cgroup2 rw\n"))
	f.Add([]byte("34 30 0:32 /d /m rw - cgroup cgroup rw,memory\n35 30 0:32 / /sys rw - cgroup cgroup rw,memory\n"))
	f.Fuzz(func(t *testing.T, table []byte) {
		for _, h := range cgroupMounts(table) {
			if h.V2 && (len(h.Controllers) > 0 || h.Name != "") {
				t.Errorf("%+v", h)
			}
		}
	})
}
