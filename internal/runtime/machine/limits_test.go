package machine_test

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/11f9778f/berth/internal/runtime"
)

// What a kubelet sends for every container works on a machine that lacks some of the controllers: limits of
// huge pages, and a limit of swap that is that of memory.
func TestLimitsOfAKubelet(t *testing.T) {
	p := newPlace(t)
	d := p.open(t)
	ctx := context.Background()
	sb, err := d.rt.RunSandbox(ctx, p.pod("limits", true))
	if err != nil {
		t.Fatal(err)
	}
	spec := shell("main", "sleep 1000")
	spec.Resources = runtime.Resources{
		CPUPeriod: 100000, CPUQuota: 50000, CPUShares: 512, MemoryLimit: 64 << 20, MemorySwap: 64 << 20, OOMScoreAdj: -997,
		CpusetCpus: "0", CpusetMems: "0", Hugepages: map[string]uint64{"2MB": 0, "1GB": 0},
	}
	id, err := d.start(ctx, sb, spec)
	if err != nil {
		t.Fatal(err)
	}
	if got := d.exec(t, id, "grep Cpus_allowed_list /proc/self/status; cat /proc/1/oom_score_adj"); !strings.HasPrefix(got, "Cpus_allowed_list:\t0\n") {
		t.Errorf("inside: %q", got)
	} else if mine, _ := os.ReadFile("/proc/self/oom_score_adj"); !strings.HasSuffix(got, "\n-997") && !strings.HasSuffix(got, "\n"+strings.TrimSpace(string(mine))) {
		t.Errorf("oom score: %q, this process has %s", got, mine)
	}
	if st, err := d.rt.ContainerStats(ctx, id); err != nil || st.Cgroup.MemoryLimit != 64<<20 {
		t.Errorf("%+v, %v", st.Cgroup, err)
	}
	if err := d.rt.RemoveSandbox(ctx, sb); err != nil {
		t.Fatal(err)
	}
	d.checkEmpty(t)
}
