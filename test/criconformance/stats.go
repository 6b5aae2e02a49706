package criconformance

import (
	"context"
	"fmt"
	"slices"

	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const busy = "while :; do :; done"

func podStats(ctx context.Context, s *suite) error {
	return withPod(ctx, s, func(p *pod) error {
		id, err := p.start(ctx, "busy", busy, nil)
		if err != nil {
			return err
		}
		var st *runtimeapi.PodSandboxStats
		err = until(ctx, "CPU time, memory and processes of the pod are told", func() (bool, error) {
			r, err := s.rt.PodSandboxStats(ctx, &runtimeapi.PodSandboxStatsRequest{PodSandboxId: p.id})
			if err != nil {
				return false, unimplemented(err)
			}
			st = r.Stats
			l := st.GetLinux()
			return len(l.GetContainers()) == 1 && l.GetCpu().GetUsageCoreNanoSeconds().GetValue() > 1e8 && l.GetCpu().GetUsageNanoCores().GetValue() > 0 &&
				l.GetMemory().GetWorkingSetBytes().GetValue() > 0 && l.GetProcess().GetProcessCount().GetValue() > 0, nil
		})
		if err != nil {
			return fmt.Errorf("%w: %v", err, st)
		}
		c := st.Linux.Containers[0]
		switch {
		case st.Attributes.GetId() != p.id || st.Attributes.GetMetadata().GetUid() != p.cfg.Metadata.Uid:
			return fmt.Errorf("the pod's attributes are %v", st.Attributes)
		case c.Attributes.GetId() != id || c.Attributes.GetMetadata().GetName() != "busy":
			return fmt.Errorf("the container's attributes are %v", c.Attributes)
		case st.Linux.Cpu.Timestamp <= 0 || st.Linux.Memory.Timestamp <= 0 || c.Cpu.GetTimestamp() <= 0:
			return fmt.Errorf("a timestamp is missing: %v", st)
		case c.WritableLayer != nil && c.WritableLayer.GetFsId().GetMountpoint() == "":
			return fmt.Errorf("the writable layer has no filesystem: %v", c.WritableLayer)
		}
		return nil
	})
}

func statsFilters(ctx context.Context, s *suite) error {
	return withPod(ctx, s, func(p *pod) error {
		id, err := p.start(ctx, "runs", "sleep 1000", nil)
		if err != nil {
			return err
		}
		for _, f := range []struct {
			filter *runtimeapi.PodSandboxStatsFilter
			want   int
		}{
			{&runtimeapi.PodSandboxStatsFilter{Id: p.id}, 1}, {&runtimeapi.PodSandboxStatsFilter{LabelSelector: p.cfg.Labels}, 1},
			{&runtimeapi.PodSandboxStatsFilter{LabelSelector: map[string]string{"check": "none"}}, 0},
		} {
			r, err := s.rt.ListPodSandboxStats(ctx, &runtimeapi.ListPodSandboxStatsRequest{Filter: f.filter})
			if err != nil {
				return unimplemented(err)
			}
			if len(r.Stats) != f.want {
				return fmt.Errorf("%v chooses %d pods of %d", f.filter, len(r.Stats), f.want)
			}
		}
		r, err := s.rt.ListContainerStats(ctx, &runtimeapi.ListContainerStatsRequest{Filter: &runtimeapi.ContainerStatsFilter{PodSandboxId: p.id}})
		if err != nil {
			return err
		}
		if len(r.Stats) != 1 || r.Stats[0].Attributes.GetId() != id {
			return fmt.Errorf("statistics of the pod's running containers: %v", r.Stats)
		}
		return nil
	})
}

func metricsMatch(ctx context.Context, s *suite) error {
	return withPod(ctx, s, func(p *pod) error {
		id, err := p.start(ctx, "c", busy, nil)
		if err != nil {
			return err
		}
		desc, err := s.rt.ListMetricDescriptors(ctx, &runtimeapi.ListMetricDescriptorsRequest{})
		if err != nil {
			return unimplemented(err)
		}
		keys := map[string]int{}
		for _, d := range desc.Descriptors {
			if _, twice := keys[d.Name]; twice {
				return fmt.Errorf("the descriptor of %s comes twice", d.Name)
			}
			keys[d.Name] = len(d.LabelKeys)
		}
		l, err := s.rt.ListPodSandboxMetrics(ctx, &runtimeapi.ListPodSandboxMetricsRequest{})
		if err != nil {
			return unimplemented(err)
		}
		i := slices.IndexFunc(l.PodMetrics, func(m *runtimeapi.PodSandboxMetrics) bool { return m.PodSandboxId == p.id })
		if i < 0 || len(l.PodMetrics[i].ContainerMetrics) != 1 || l.PodMetrics[i].ContainerMetrics[0].ContainerId != id {
			return fmt.Errorf("the pod and its container are not among %v", l.PodMetrics)
		}
		all := append(slices.Clone(l.PodMetrics[i].Metrics), l.PodMetrics[i].ContainerMetrics[0].Metrics...)
		memory := false
		for _, m := range all {
			n, ok := keys[m.Name]
			if !ok || n != len(m.LabelValues) {
				return fmt.Errorf("%v has no descriptor with %d labels", m, len(m.LabelValues))
			}
			memory = memory || m.Name == "container_memory_usage_bytes" && m.Value.GetValue() > 0
		}
		if !memory {
			return fmt.Errorf("no container_memory_usage_bytes in %v", all)
		}
		return nil
	})
}

func updateContainer(ctx context.Context, s *suite) error {
	return withPod(ctx, s, func(p *pod) error {
		first := &runtimeapi.LinuxContainerResources{CpuPeriod: 100_000, CpuQuota: 20_000, CpuShares: 128, MemoryLimitInBytes: 64 << 20}
		then := &runtimeapi.LinuxContainerResources{CpuPeriod: 100_000, CpuQuota: 40_000, CpuShares: 256, MemoryLimitInBytes: 96 << 20}
		set := func(c *runtimeapi.ContainerConfig) { c.Linux.Resources = first }
		created, err := p.create(ctx, "created", "sleep 1000", set)
		if err != nil {
			return err
		}
		running, err := p.start(ctx, "running", "sleep 1000", set)
		if err != nil {
			return err
		}
		for _, id := range []string{created, running} {
			for _, want := range []*runtimeapi.LinuxContainerResources{first, then, first} {
				if _, err := s.rt.UpdateContainerResources(ctx, &runtimeapi.UpdateContainerResourcesRequest{ContainerId: id, Linux: want}); err != nil {
					return unimplemented(err)
				}
				st, err := s.rt.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id})
				if err != nil {
					return err
				}
				got := st.Status.GetResources().GetLinux()
				if got.GetCpuQuota() != want.CpuQuota || got.GetCpuPeriod() != want.CpuPeriod || got.GetCpuShares() != want.CpuShares || got.GetMemoryLimitInBytes() != want.MemoryLimitInBytes {
					return fmt.Errorf("the status tells %v after %v", got, want)
				}
			}
		}
		return limitInside(ctx, s, running, "67108864")
	})
}

// limitInside looks at the container's cgroup from within, where it can be seen.
func limitInside(ctx context.Context, s *suite, id, want string) error {
	r, err := s.rt.ExecSync(ctx, &runtimeapi.ExecSyncRequest{
		ContainerId: id, Cmd: []string{"/bin/sh", "-c", "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null"}, Timeout: 20,
	})
	if err != nil {
		return err
	}
	if got := string(r.Stdout); got != "" && got != want+"\n" {
		return fmt.Errorf("the cgroup's limit is %q, not %s", got, want)
	}
	return nil
}

func updatePod(ctx context.Context, s *suite) error {
	return withPod(ctx, s, func(p *pod) error {
		_, err := s.rt.UpdatePodSandboxResources(ctx, &runtimeapi.UpdatePodSandboxResourcesRequest{
			PodSandboxId: p.id, Overhead: &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 16 << 20},
			Resources: &runtimeapi.LinuxContainerResources{CpuPeriod: 100_000, CpuQuota: 50_000, MemoryLimitInBytes: 128 << 20},
		})
		if err != nil {
			return unimplemented(err)
		}
		_, err = s.rt.UpdatePodSandboxResources(ctx, &runtimeapi.UpdatePodSandboxResourcesRequest{PodSandboxId: "no-such-pod"})
		return wantCode("update of a pod that is not there", err, codes.NotFound, codes.Unknown)
	})
}
