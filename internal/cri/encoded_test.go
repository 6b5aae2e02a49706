package cri

import (
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/11f9778f/berth/internal/engine/cgroup"
	"github.com/11f9778f/berth/internal/runtime"
)

// What is encoded with messages that serve for one pod after the other is what messages of its own say of each.
func TestEncodedStats(t *testing.T) {
	s := newServer(t)
	limit := uint64(7)
	cg := runtime.Stats{
		At: time.Unix(1, 2), CPUNanos: 3, CPURate: 4, MemoryUsage: 5, MemoryWorkingSet: 6, MemoryRSS: 7, MemoryLimit: 8, PageFaults: 9,
		MajorPageFaults: 10, SwapUsage: 1, SwapLimit: &limit, Pids: 11,
		CPUPressure: &cgroup.Pressure{}, MemoryPressure: &cgroup.Pressure{}, IOPressure: &cgroup.Pressure{Some: cgroup.PressureLine{Avg10: 1.5, Total: 3}},
	}
	full := runtime.ContainerStats{
		Container: runtime.ContainerStatus{ID: "c", Spec: runtime.ContainerSpec{Name: "n", Labels: map[string]string{"k": "v"}}},
		Cgroup:    cg, Disk: runtime.DiskUsage{Bytes: 1, Inodes: 2, At: time.Unix(3, 0)},
	}
	bare := runtime.ContainerStats{Container: runtime.ContainerStatus{ID: "d"}, Cgroup: runtime.Stats{At: time.Unix(2, 0)}}
	sandbox := func(id string, u runtime.Stats, interfaces int, containers ...runtime.ContainerStats) runtime.SandboxStats {
		all := []runtime.InterfaceUsage{{Name: "eth0", RxBytes: 1, TxBytes: 2}, {Name: "net1", RxErrors: 3}, {Name: "net2"}}
		return runtime.SandboxStats{
			Sandbox: runtime.SandboxStatus{ID: id, Spec: runtime.SandboxSpec{Name: id}}, Cgroup: u, Network: all[:interfaces], Containers: containers,
		}
	}
	pods := []runtime.SandboxStats{
		sandbox("none", bare.Cgroup, 0),
		sandbox("much", cg, 3, full, bare, full), sandbox("little", bare.Cgroup, 1, bare),
		sandbox("two", cg, 2, bare, full), sandbox("nothing", runtime.Stats{}, 0),
	}
	var parts encoders
	for range 2 {
		e, m := parts.begin(), new(sandboxMessage)
		for i := range pods {
			e.add(m.fill(s, &pods[i]))
		}
	}
	items, err := parts.items()
	if err != nil || len(items) != 2*len(pods) {
		t.Fatal(len(items), err)
	}
	got := new(runtimeapi.ListPodSandboxStatsResponse)
	b, _ := proto.Marshal(encoded(new(runtimeapi.ListPodSandboxStatsResponse), items))
	if err := proto.Unmarshal(b, got); err != nil || len(got.Stats) != len(items) {
		t.Fatal(len(got.Stats), err)
	}
	for i, have := range got.Stats {
		if want := new(sandboxMessage).fill(s, &pods[i%len(pods)]); !proto.Equal(have, want) {
			t.Errorf("have %v\nwant %v", have, want)
		}
	}
}

// A list with a text that is not UTF-8 can't be encoded, as an answer with it can't.
func TestEncodedBroken(t *testing.T) {
	var parts encoders
	e := parts.begin()
	e.add(&runtimeapi.PodSandboxStats{Attributes: &runtimeapi.PodSandboxAttributes{Id: "\xff"}})
	e.add(&runtimeapi.PodSandboxStats{})
	if items, err := parts.items(); err == nil {
		t.Errorf("%q", items)
	}
}
