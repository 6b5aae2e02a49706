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
	return runtime.AllContainerStats(ctx, s.rt, func(c runtime.ContainerStatus) bool {
		return (id == "" || c.ID == id) && (sandbox == "" || c.SandboxID == sandbox) && matches(c.Spec.Labels, f.GetLabelSelector())
	}, s.containerStats)
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
	return runtime.AllSandboxStats(ctx, s.rt, func(sb runtime.SandboxStatus) bool {
		return (id == "" || sb.ID == id) && matches(sb.Spec.Labels, f.GetLabelSelector())
	}, s.sandboxStats)
}

func number(n uint64) *runtimeapi.UInt64Value { return &runtimeapi.UInt64Value{Value: n} }

// usage is what is said of one cgroup, in one piece of memory: a full node's answer has thousands of these messages.
type usage struct {
	cpu       runtimeapi.CpuUsage
	memory    runtimeapi.MemoryUsage
	swap      runtimeapi.SwapUsage
	io        runtimeapi.IoUsage
	pressures [3]runtimeapi.PsiStats
	lines     [6]runtimeapi.PsiData
	numbers   [10]runtimeapi.UInt64Value
	used      int // of numbers
}

func (u *usage) number(n uint64) *runtimeapi.UInt64Value {
	u.used++
	out := &u.numbers[u.used-1]
	out.Value = n
	return out
}

// usageOf makes the messages of s.
func usageOf(s runtime.Stats) *usage {
	u, at := new(usage), s.At.UnixNano()
	u.cpu.Timestamp, u.cpu.UsageCoreNanoSeconds, u.cpu.UsageNanoCores = at, u.number(s.CPUNanos), u.number(s.CPURate)
	u.cpu.Psi = u.pressure(0, s.CPUPressure)

	m := &u.memory
	m.Timestamp, m.WorkingSetBytes, m.UsageBytes, m.RssBytes = at, u.number(s.MemoryWorkingSet), u.number(s.MemoryUsage), u.number(s.MemoryRSS)
	m.PageFaults, m.MajorPageFaults, m.Psi = u.number(s.PageFaults), u.number(s.MajorPageFaults), u.pressure(1, s.MemoryPressure)
	if s.MemoryLimit > 0 {
		m.AvailableBytes = u.number(s.MemoryLimit - min(s.MemoryLimit, s.MemoryWorkingSet))
	}

	u.swap.Timestamp, u.swap.SwapUsageBytes = at, u.number(s.SwapUsage)
	if s.SwapLimit != nil {
		u.swap.SwapAvailableBytes = u.number(*s.SwapLimit - min(*s.SwapLimit, s.SwapUsage))
	}
	u.io.Timestamp, u.io.Psi = at, u.pressure(2, s.IOPressure)
	return u
}

// ioUsage is nil where the kernel tells nothing of it.
func (u *usage) ioUsage() *runtimeapi.IoUsage {
	if u.io.Psi == nil {
		return nil
	}
	return &u.io
}

// pressure is nil where the kernel tells none. The kernel's totals are microseconds, the CRI's nanoseconds.
func (u *usage) pressure(i int, p *cgroup.Pressure) *runtimeapi.PsiStats {
	if p == nil {
		return nil
	}
	line := func(to *runtimeapi.PsiData, l cgroup.PressureLine) *runtimeapi.PsiData {
		to.Total, to.Avg10, to.Avg60, to.Avg300 = l.Total*1000, l.Avg10, l.Avg60, l.Avg300
		return to
	}
	out := &u.pressures[i]
	out.Full, out.Some = line(&u.lines[2*i], p.Full), line(&u.lines[2*i+1], p.Some)
	return out
}

func (s *Server) containerStats(st runtime.ContainerStats) *runtimeapi.ContainerStats {
	c, u := st.Container, usageOf(st.Cgroup)
	out := &runtimeapi.ContainerStats{
		Attributes: &runtimeapi.ContainerAttributes{
			Id: c.ID, Metadata: containerMetadata(c), Labels: c.Spec.Labels, Annotations: c.Spec.Annotations,
		},
		Cpu: &u.cpu, Memory: &u.memory, Swap: &u.swap, Io: u.ioUsage(),
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
	sb, u := st.Sandbox, usageOf(st.Cgroup)
	out := &runtimeapi.PodSandboxStats{
		Attributes: &runtimeapi.PodSandboxAttributes{
			Id: sb.ID, Metadata: sandboxMetadata(sb), Labels: sb.Spec.Labels, Annotations: sb.Spec.Annotations,
		},
		Linux: &runtimeapi.LinuxPodSandboxStats{
			Cpu: &u.cpu, Memory: &u.memory, Io: u.ioUsage(),
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
