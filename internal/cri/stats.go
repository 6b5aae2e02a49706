package cri

import (
	"context"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

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

// ListContainerStats reads the counters of all containers that match.
func (s *Server) ListContainerStats(ctx context.Context, req *runtimeapi.ListContainerStatsRequest) (*runtimeapi.ListContainerStatsResponse, error) {
	f := req.GetFilter()
	resp := &runtimeapi.ListContainerStatsResponse{}
	id, err := s.containerID(f.GetId())
	if err != nil {
		return resp, nil
	}
	sandbox, err := s.sandboxID(f.GetPodSandboxId())
	if err != nil {
		return resp, nil
	}
	for _, c := range s.rt.Containers(sandbox) {
		if (id != "" && c.ID != id) || !matches(c.Spec.Labels, f.GetLabelSelector()) {
			continue
		}
		st, err := s.rt.ContainerStats(ctx, c.ID)
		if err != nil {
			continue // it has gone since it was listed
		}
		resp.Stats = append(resp.Stats, s.containerStats(st))
	}
	return resp, nil
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

// ListPodSandboxStats reads the counters of all pods that match.
func (s *Server) ListPodSandboxStats(ctx context.Context, req *runtimeapi.ListPodSandboxStatsRequest) (*runtimeapi.ListPodSandboxStatsResponse, error) {
	f := req.GetFilter()
	resp := &runtimeapi.ListPodSandboxStatsResponse{}
	id, err := s.sandboxID(f.GetId())
	if err != nil {
		return resp, nil
	}
	for _, sb := range s.rt.Sandboxes() {
		if (id != "" && sb.ID != id) || !matches(sb.Spec.Labels, f.GetLabelSelector()) {
			continue
		}
		st, err := s.rt.SandboxStats(ctx, sb.ID)
		if err != nil {
			continue
		}
		resp.Stats = append(resp.Stats, s.sandboxStats(st))
	}
	return resp, nil
}

func number(n uint64) *runtimeapi.UInt64Value { return &runtimeapi.UInt64Value{Value: n} }

func cpuUsage(s runtime.Stats) *runtimeapi.CpuUsage {
	return &runtimeapi.CpuUsage{Timestamp: s.At.UnixNano(), UsageCoreNanoSeconds: number(s.CPUNanos)}
}

func memoryUsage(s runtime.Stats) *runtimeapi.MemoryUsage {
	out := &runtimeapi.MemoryUsage{
		Timestamp: s.At.UnixNano(), WorkingSetBytes: number(s.MemoryWorkingSet), UsageBytes: number(s.MemoryUsage),
		RssBytes: number(s.MemoryRSS), PageFaults: number(s.PageFaults), MajorPageFaults: number(s.MajorPageFaults),
	}
	if s.MemoryLimit > s.MemoryWorkingSet {
		out.AvailableBytes = number(s.MemoryLimit - s.MemoryWorkingSet)
	}
	return out
}

func (s *Server) containerStats(st runtime.ContainerStats) *runtimeapi.ContainerStats {
	c := st.Container
	return &runtimeapi.ContainerStats{
		Attributes: &runtimeapi.ContainerAttributes{
			Id: c.ID, Metadata: containerMetadata(c), Labels: c.Spec.Labels, Annotations: c.Spec.Annotations,
		},
		Cpu: cpuUsage(st.Cgroup), Memory: memoryUsage(st.Cgroup),
		Swap: &runtimeapi.SwapUsage{Timestamp: st.Cgroup.At.UnixNano(), SwapUsageBytes: number(st.Cgroup.SwapUsage)},
		WritableLayer: &runtimeapi.FilesystemUsage{
			Timestamp: time.Now().UnixNano(), FsId: &runtimeapi.FilesystemIdentifier{Mountpoint: s.cfg.SnapshotDir},
			UsedBytes: number(st.Disk.Bytes), InodesUsed: number(st.Disk.Inodes),
		},
	}
}

func (s *Server) sandboxStats(st runtime.SandboxStats) *runtimeapi.PodSandboxStats {
	sb := st.Sandbox
	out := &runtimeapi.PodSandboxStats{
		Attributes: &runtimeapi.PodSandboxAttributes{
			Id: sb.ID, Metadata: sandboxMetadata(sb), Labels: sb.Spec.Labels, Annotations: sb.Spec.Annotations,
		},
		Linux: &runtimeapi.LinuxPodSandboxStats{
			Cpu: cpuUsage(st.Cgroup), Memory: memoryUsage(st.Cgroup),
			Process: &runtimeapi.ProcessUsage{Timestamp: st.Cgroup.At.UnixNano(), ProcessCount: number(st.Cgroup.Pids)},
		},
	}
	for _, c := range st.Containers {
		out.Linux.Containers = append(out.Linux.Containers, s.containerStats(c))
	}
	return out
}
