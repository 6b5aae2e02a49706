package cri

import (
	"context"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/11f9778f/berth/internal/engine/cgroup"
	"github.com/11f9778f/berth/internal/runtime"
)

// ContainerStats reads one container's counters.
func (s *Server) ContainerStats(ctx context.Context, req *runtimeapi.ContainerStatsRequest) (*runtimeapi.ContainerStatsResponse, error) {
	id, err := s.containerID(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	st, err := s.rt.ContainerStats(ctx, id)
	if err != nil {
		return nil, asStatus(err)
	}
	return &runtimeapi.ContainerStatsResponse{Stats: s.containerStats(st)}, nil
}

// ListContainerStats reads the counters of all running containers that match.
func (s *Server) ListContainerStats(ctx context.Context, req *runtimeapi.ListContainerStatsRequest) (*runtimeapi.ListContainerStatsResponse, error) {
	return &runtimeapi.ListContainerStatsResponse{Stats: s.listContainerStats(ctx, req.GetFilter())}, nil
}

func (s *Server) listContainerStats(ctx context.Context, f *runtimeapi.ContainerStatsFilter) []*runtimeapi.ContainerStats {
	id, err := s.containerID(f.GetId())
	if err != nil {
		return nil // short for several: none is meant
	}
	sandbox, err := s.sandboxID(f.GetPodSandboxId())
	if err != nil {
		return nil
	}
	all := s.rt.AllContainerStats(ctx, func(c runtime.ContainerStatus) bool {
		return (id == "" || c.ID == id) && (sandbox == "" || c.SandboxID == sandbox) && matches(c.Spec.Labels, f.GetLabelSelector())
	})
	out := make([]*runtimeapi.ContainerStats, 0, len(all))
	for _, st := range all {
		out = append(out, s.containerStats(st))
	}
	return out
}

// PodSandboxStats reads one pod's counters.
func (s *Server) PodSandboxStats(ctx context.Context, req *runtimeapi.PodSandboxStatsRequest) (*runtimeapi.PodSandboxStatsResponse, error) {
	id, err := s.sandboxID(req.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	st, err := s.rt.SandboxStats(ctx, id)
	if err != nil {
		return nil, asStatus(err)
	}
	return &runtimeapi.PodSandboxStatsResponse{Stats: s.sandboxStats(st)}, nil
}

// ListPodSandboxStats reads the counters of all ready pods that match.
func (s *Server) ListPodSandboxStats(ctx context.Context, req *runtimeapi.ListPodSandboxStatsRequest) (*runtimeapi.ListPodSandboxStatsResponse, error) {
	return &runtimeapi.ListPodSandboxStatsResponse{Stats: s.listSandboxStats(ctx, req.GetFilter())}, nil
}

func (s *Server) listSandboxStats(ctx context.Context, f *runtimeapi.PodSandboxStatsFilter) []*runtimeapi.PodSandboxStats {
	id, err := s.sandboxID(f.GetId())
	if err != nil {
		return nil
	}
	all := s.rt.AllSandboxStats(ctx, func(sb runtime.SandboxStatus) bool {
		return (id == "" || sb.ID == id) && matches(sb.Spec.Labels, f.GetLabelSelector())
	})
	out := make([]*runtimeapi.PodSandboxStats, 0, len(all))
	for _, st := range all {
		out = append(out, s.sandboxStats(st))
	}
	return out
}

func number(n uint64) *runtimeapi.UInt64Value { return &runtimeapi.UInt64Value{Value: n} }

func cpuUsage(s runtime.Stats) *runtimeapi.CpuUsage {
	return &runtimeapi.CpuUsage{
		Timestamp: s.At.UnixNano(), UsageCoreNanoSeconds: number(s.CPUNanos), UsageNanoCores: number(s.CPURate), Psi: pressure(s.CPUPressure),
	}
}

func memoryUsage(s runtime.Stats) *runtimeapi.MemoryUsage {
	out := &runtimeapi.MemoryUsage{
		Timestamp: s.At.UnixNano(), WorkingSetBytes: number(s.MemoryWorkingSet), UsageBytes: number(s.MemoryUsage),
		RssBytes: number(s.MemoryRSS), PageFaults: number(s.PageFaults), MajorPageFaults: number(s.MajorPageFaults),
		Psi: pressure(s.MemoryPressure),
	}
	if s.MemoryLimit > 0 {
		out.AvailableBytes = number(s.MemoryLimit - min(s.MemoryLimit, s.MemoryWorkingSet))
	}
	return out
}

func swapUsage(s runtime.Stats) *runtimeapi.SwapUsage {
	out := &runtimeapi.SwapUsage{Timestamp: s.At.UnixNano(), SwapUsageBytes: number(s.SwapUsage)}
	if s.SwapLimit != nil {
		out.SwapAvailableBytes = number(*s.SwapLimit - min(*s.SwapLimit, s.SwapUsage))
	}
	return out
}

func ioUsage(s runtime.Stats) *runtimeapi.IoUsage {
	if s.IOPressure == nil {
		return nil
	}
	return &runtimeapi.IoUsage{Timestamp: s.At.UnixNano(), Psi: pressure(s.IOPressure)}
}

// pressure is nil where the kernel tells none. The kernel's totals are microseconds, the CRI's nanoseconds.
func pressure(p *cgroup.Pressure) *runtimeapi.PsiStats {
	if p == nil {
		return nil
	}
	line := func(l cgroup.PressureLine) *runtimeapi.PsiData {
		return &runtimeapi.PsiData{Total: l.Total * 1000, Avg10: l.Avg10, Avg60: l.Avg60, Avg300: l.Avg300}
	}
	return &runtimeapi.PsiStats{Full: line(p.Full), Some: line(p.Some)}
}

func (s *Server) containerStats(st runtime.ContainerStats) *runtimeapi.ContainerStats {
	c := st.Container
	out := &runtimeapi.ContainerStats{
		Attributes: &runtimeapi.ContainerAttributes{
			Id: c.ID, Metadata: containerMetadata(c), Labels: c.Spec.Labels, Annotations: c.Spec.Annotations,
		},
		Cpu: cpuUsage(st.Cgroup), Memory: memoryUsage(st.Cgroup), Swap: swapUsage(st.Cgroup), Io: ioUsage(st.Cgroup),
	}
	if !st.Disk.At.IsZero() {
		out.WritableLayer = &runtimeapi.FilesystemUsage{
			Timestamp: st.Disk.At.UnixNano(), FsId: &runtimeapi.FilesystemIdentifier{Mountpoint: s.cfg.SnapshotDir},
			UsedBytes: number(st.Disk.Bytes), InodesUsed: number(st.Disk.Inodes),
		}
	}
	return out
}

func (s *Server) sandboxStats(st runtime.SandboxStats) *runtimeapi.PodSandboxStats {
	sb := st.Sandbox
	out := &runtimeapi.PodSandboxStats{
		Attributes: &runtimeapi.PodSandboxAttributes{
			Id: sb.ID, Metadata: sandboxMetadata(sb), Labels: sb.Spec.Labels, Annotations: sb.Spec.Annotations,
		},
		Linux: &runtimeapi.LinuxPodSandboxStats{
			Cpu: cpuUsage(st.Cgroup), Memory: memoryUsage(st.Cgroup), Io: ioUsage(st.Cgroup),
			Network: networkUsage(st),
			Process: &runtimeapi.ProcessUsage{Timestamp: st.Cgroup.At.UnixNano(), ProcessCount: number(st.Cgroup.Pids)},
		},
	}
	for _, c := range st.Containers {
		out.Linux.Containers = append(out.Linux.Containers, s.containerStats(c))
	}
	return out
}

// networkUsage is nil for a pod on the node's network.
func networkUsage(st runtime.SandboxStats) *runtimeapi.NetworkUsage {
	if len(st.Network) == 0 {
		return nil
	}
	one := func(u runtime.InterfaceUsage) *runtimeapi.NetworkInterfaceUsage {
		return &runtimeapi.NetworkInterfaceUsage{
			Name: u.Name, RxBytes: number(u.RxBytes), RxErrors: number(u.RxErrors), TxBytes: number(u.TxBytes), TxErrors: number(u.TxErrors),
		}
	}
	out := &runtimeapi.NetworkUsage{Timestamp: st.Cgroup.At.UnixNano(), DefaultInterface: one(st.Network[0])}
	for _, u := range st.Network[1:] {
		out.Interfaces = append(out.Interfaces, one(u))
	}
	return out
}
