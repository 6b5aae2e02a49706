package cgroup

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// fakeV1 is a directory tree with the files of cgroup v1 controllers, each in a hierarchy of its own.
func fakeV1(t *testing.T, group string) (hs *Hierarchies, root string) {
	t.Helper()
	root = t.TempDir()
	table := ""
	for controller, files := range map[string]string{
		"cpu":    "shares idle cfs_period_us cfs_quota_us cfs_burst_us rt_period_us rt_runtime_us",
		"cpuset": "cpus mems", "pids": "max", "net_cls": "classid", "net_prio": "ifpriomap", "rdma": "max",
		"memory": "limit_in_bytes memsw.limit_in_bytes soft_limit_in_bytes kmem.tcp.limit_in_bytes swappiness oom_control usage_in_bytes",
		"blkio": "weight leaf_weight weight_device leaf_weight_device throttle.read_bps_device throttle.write_bps_device " +
			"throttle.read_iops_device throttle.write_iops_device",
		"hugetlb": "2MB.limit_in_bytes",
	} {
		at := filepath.Join(root, controller)
		if err := os.MkdirAll(filepath.Join(at, group), 0o755); err != nil {
			t.Fatal(err)
		}
		for _, f := range strings.Fields(files) {
			if err := os.WriteFile(filepath.Join(at, group, controller+"."+f), nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		table += "31 30 0:" + itoa(100+len(table)) + " / " + at + " rw - cgroup cgroup rw," + controller + "\n"
	}
	os.WriteFile(filepath.Join(root, "memory", group, "memory.usage_in_bytes"), []byte("101\n"), 0o644)
	hs, err := Discover([]byte(table))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(hs.Close)
	return hs, root
}

// asked is what one field of the specification's resources becomes: "file: text" in the group, or "!word" of the error
// that refuses it.
type asked struct {
	r      specs.LinuxResources
	v1, v2 string
}

var disk = specs.LinuxBlockIODevice{Major: 8, Minor: 16}

func rates(n uint64) []specs.LinuxThrottleDevice {
	return []specs.LinuxThrottleDevice{{LinuxBlockIODevice: disk, Rate: n}}
}

func cpu(c specs.LinuxCPU) specs.LinuxResources         { return specs.LinuxResources{CPU: &c} }
func memory(m specs.LinuxMemory) specs.LinuxResources   { return specs.LinuxResources{Memory: &m} }
func blockIO(b specs.LinuxBlockIO) specs.LinuxResources { return specs.LinuxResources{BlockIO: &b} }
func network(n specs.LinuxNetwork) specs.LinuxResources { return specs.LinuxResources{Network: &n} }
func weights(w, leaf *uint16) []specs.LinuxWeightDevice {
	return []specs.LinuxWeightDevice{{LinuxBlockIODevice: disk, Weight: w, LeafWeight: leaf}}
}

// kernelMemory asks for what the specification advises against.
func kernelMemory(n int64) specs.LinuxResources {
	return memory(specs.LinuxMemory{Kernel: &n}) //lint:ignore SA1019 it is still a field
}

// resourceFields has every field of linux.resources (config-linux.md, Control groups) but devices, which is a program or a
// list: see TestDevices and its like. The kernel's limit of kernel memory went with Linux 5.16: it is taken and has no effect,
// as in all runtimes.
func resourceFields() map[string]asked {
	return map[string]asked{
		"memory.limit":             {memory(specs.LinuxMemory{Limit: ptr(int64(100))}), "memory.limit_in_bytes: 100", "memory.max: 100"},
		"memory.reservation":       {memory(specs.LinuxMemory{Reservation: ptr(int64(50))}), "memory.soft_limit_in_bytes: 50", "memory.low: 50"},
		"memory.swap":              {memory(specs.LinuxMemory{Limit: ptr(int64(100)), Swap: ptr(int64(130))}), "memory.memsw.limit_in_bytes: 130", "memory.swap.max: 30"},
		"memory.kernel":            {kernelMemory(1), "memory.limit_in_bytes: ", "memory.max: "},
		"memory.kernelTCP":         {memory(specs.LinuxMemory{KernelTCP: ptr(int64(9))}), "memory.kmem.tcp.limit_in_bytes: 9", "!kernelTCP"},
		"memory.swappiness":        {memory(specs.LinuxMemory{Swappiness: ptr(uint64(7))}), "memory.swappiness: 7", "!swappiness"},
		"memory.disableOOMKiller":  {memory(specs.LinuxMemory{DisableOOMKiller: ptr(true)}), "memory.oom_control: 1", "!disableOOMKiller"},
		"memory.useHierarchy":      {memory(specs.LinuxMemory{UseHierarchy: ptr(false)}), "!useHierarchy", "!useHierarchy"},
		"memory.checkBeforeUpdate": {memory(specs.LinuxMemory{Limit: ptr(int64(100)), CheckBeforeUpdate: ptr(true)}), "!bytes in use", "!bytes in use"},
		"cpu.shares":               {cpu(specs.LinuxCPU{Shares: ptr(uint64(1024))}), "cpu.shares: 1024", "cpu.weight: 100"},
		"cpu.quota":                {cpu(specs.LinuxCPU{Quota: ptr(int64(7000))}), "cpu.cfs_quota_us: 7000", "cpu.max: 7000"},
		"cpu.burst":                {cpu(specs.LinuxCPU{Burst: ptr(uint64(5))}), "cpu.cfs_burst_us: 5", "cpu.max.burst: 5"},
		"cpu.period":               {cpu(specs.LinuxCPU{Quota: ptr(int64(-1)), Period: ptr(uint64(50000))}), "cpu.cfs_period_us: 50000", "cpu.max: max 50000"},
		"cpu.realtimeRuntime":      {cpu(specs.LinuxCPU{RealtimeRuntime: ptr(int64(6))}), "cpu.rt_runtime_us: 6", "!realtime"},
		"cpu.realtimePeriod":       {cpu(specs.LinuxCPU{RealtimePeriod: ptr(uint64(8))}), "cpu.rt_period_us: 8", "!realtime"},
		"cpu.cpus":                 {cpu(specs.LinuxCPU{Cpus: "0-1"}), "cpuset.cpus: 0-1", "cpuset.cpus: 0-1"},
		"cpu.mems":                 {cpu(specs.LinuxCPU{Mems: "0"}), "cpuset.mems: 0", "cpuset.mems: 0"},
		"cpu.idle":                 {cpu(specs.LinuxCPU{Idle: ptr(int64(1))}), "cpu.idle: 1", "cpu.idle: 1"},
		"pids.limit":               {specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(3))}}, "pids.max: 3", "pids.max: 3"},
		"blockIO.weight":           {blockIO(specs.LinuxBlockIO{Weight: ptr(uint16(500))}), "blkio.weight: 500", "io.weight: 4950"},
		"blockIO.leafWeight":       {blockIO(specs.LinuxBlockIO{LeafWeight: ptr(uint16(300))}), "blkio.leaf_weight: 300", "!leaf weight"},
		"blockIO.weightDevice.weight": {blockIO(specs.LinuxBlockIO{WeightDevice: weights(ptr(uint16(500)), nil)}),
			"blkio.weight_device: 8:16 500", "io.weight: 8:16 4950"},
		"blockIO.weightDevice.leafWeight": {blockIO(specs.LinuxBlockIO{WeightDevice: weights(nil, ptr(uint16(300)))}),
			"blkio.leaf_weight_device: 8:16 300", "!leaf weight"},
		"blockIO.throttleReadBpsDevice.rate":   {blockIO(specs.LinuxBlockIO{ThrottleReadBpsDevice: rates(1)}), "blkio.throttle.read_bps_device: 8:16 1", "io.max: 8:16 rbps=1"},
		"blockIO.throttleWriteBpsDevice.rate":  {blockIO(specs.LinuxBlockIO{ThrottleWriteBpsDevice: rates(2)}), "blkio.throttle.write_bps_device: 8:16 2", "io.max: 8:16 wbps=2"},
		"blockIO.throttleReadIOPSDevice.rate":  {blockIO(specs.LinuxBlockIO{ThrottleReadIOPSDevice: rates(3)}), "blkio.throttle.read_iops_device: 8:16 3", "io.max: 8:16 riops=3"},
		"blockIO.throttleWriteIOPSDevice.rate": {blockIO(specs.LinuxBlockIO{ThrottleWriteIOPSDevice: rates(4)}), "blkio.throttle.write_iops_device: 8:16 4", "io.max: 8:16 wiops=4"},
		"hugepageLimits.limit": {specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 4}}},
			"hugetlb.2MB.limit_in_bytes: 4", "hugetlb.2MB.max: 4"},
		"network.classID": {network(specs.LinuxNetwork{ClassID: ptr(uint32(5))}), "net_cls.classid: 5", "!net_cls"},
		"network.priorities.priority": {network(specs.LinuxNetwork{Priorities: []specs.LinuxInterfacePriority{{Name: "eth0", Priority: 6}}}),
			"net_prio.ifpriomap: eth0 6", "!net_prio"},
		"rdma.hcaHandles": {specs.LinuxResources{Rdma: map[string]specs.LinuxRdma{"a": {HcaHandles: ptr(uint32(3))}}}, "rdma.max: a hca_handle=3", "rdma.max: a hca_handle=3"},
		"rdma.hcaObjects": {specs.LinuxResources{Rdma: map[string]specs.LinuxRdma{"a": {HcaObjects: ptr(uint32(4))}}}, "rdma.max: a hca_object=4", "rdma.max: a hca_object=4"},
		"unified":         {specs.LinuxResources{Unified: map[string]string{"memory.high": "5"}}, "!no cgroup v2", "memory.high: 5"},
	}
}

// Every field of the resources is written where the kernel reads it, or refused by name. One that a new version of the
// specification brings fails here.
func TestEveryResourceIsWrittenOrRefused(t *testing.T) {
	fields := resourceFields()
	named := map[string]bool{"devices": true} // of a device or a list, as part of another's value
	for _, p := range leaves(reflect.TypeFor[specs.LinuxResources](), "") {
		name := p[strings.LastIndexByte(p, '.')+1:]
		if _, ok := fields[p]; !ok && !strings.HasPrefix(p, "devices.") && name != "major" && name != "minor" && name != "name" && name != "pageSize" {
			t.Errorf("%s: no case says what becomes of it", p)
		}
		named[p] = true
	}
	for name, f := range fields {
		if !named[name] {
			t.Errorf("%s: the specification has no such field", name)
		}
		v1, at1 := fakeV1(t, "c")
		v2, at2 := fakeV2(t, "cpu cpuset io memory pids rdma hugetlb", "c")
		os.WriteFile(filepath.Join(at2, "c/hugetlb.2MB.max"), nil, 0o644)
		os.WriteFile(filepath.Join(at2, "c/memory.current"), []byte("101\n"), 0o644)
		checkAsked(t, name+" (v1)", v1, f.r, f.v1, func(file string) string {
			controller, _, _ := strings.Cut(file, ".")
			return filepath.Join(at1, controller, "c", file)
		})
		checkAsked(t, name+" (v2)", v2, f.r, f.v2, func(file string) string { return filepath.Join(at2, "c", file) })
	}
}

func checkAsked(t *testing.T, name string, hs *Hierarchies, r specs.LinuxResources, want string, path func(string) string) {
	t.Helper()
	g, err := hs.Load("c")
	if err != nil {
		t.Fatal(err)
	}
	err = g.Apply(&r)
	if word, refused := strings.CutPrefix(want, "!"); refused {
		if err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%s: %v, want an error with %q", name, err, word)
		}
		return
	}
	file, text, _ := strings.Cut(want, ": ")
	if err != nil {
		t.Errorf("%s: %v", name, err)
	} else if b, err := os.ReadFile(path(file)); err != nil || string(b) != text {
		t.Errorf("%s: %s holds %q, %v, want %q", name, file, b, err, text)
	}
}

// leaves are the paths of a structure's fields that are no structures themselves, by their names in JSON.
func leaves(typ reflect.Type, at string) (paths []string) {
	for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice || typ.Kind() == reflect.Map {
		typ = typ.Elem()
	}
	if typ.Kind() != reflect.Struct {
		return []string{at}
	}
	for i := range typ.NumField() {
		f := typ.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous:
			paths = append(paths, leaves(f.Type, at)...)
		case at == "":
			paths = append(paths, leaves(f.Type, name)...)
		default:
			paths = append(paths, leaves(f.Type, at+"."+name)...)
		}
	}
	return paths
}
