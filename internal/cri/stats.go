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
	return &runtimeapi.ContainerStatsResponse{Stats: new(containerMessage).fill(s, &st)}, nil
}

// ListContainerStats reads the counters of all running containers that match. They are in the answer as bytes: see encoded.
func (s *Server) ListContainerStats(ctx context.Context, req *runtimeapi.ListContainerStatsRequest) (*runtimeapi.ListContainerStatsResponse, error) {
	items, err := s.listContainerStats(ctx, req.GetFilter())
	if err != nil {
		return nil, err
	}
	return encoded(new(runtimeapi.ListContainerStatsResponse), items), nil
}

func (s *Server) listContainerStats(ctx context.Context, f *runtimeapi.ContainerStatsFilter) ([][]byte, error) {
	id, err := s.containerID(f.GetId())
	if err != nil {
		return nil, nil // short for several: none is meant
	}
	sandbox, err := s.sandboxID(f.GetPodSandboxId())
	if err != nil {
		return nil, nil
	}
	var parts encoders
	s.rt.VisitContainerStats(ctx, func(c *runtime.ContainerStatus) bool {
		return (id == "" || c.ID == id) && (sandbox == "" || c.SandboxID == sandbox) && matches(c.Spec.Labels, f.GetLabelSelector())
	}, func() func(*runtime.ContainerStats) {
		e, m := parts.begin(), new(containerMessage)
		return func(st *runtime.ContainerStats) { e.add(m.fill(s, st)) }
	})
	return parts.items()
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
	return &runtimeapi.PodSandboxStatsResponse{Stats: new(sandboxMessage).fill(s, &st)}, nil
}

// ListPodSandboxStats reads the counters of all ready pods that match. They are in the answer as bytes: see encoded.
func (s *Server) ListPodSandboxStats(ctx context.Context, req *runtimeapi.ListPodSandboxStatsRequest) (*runtimeapi.ListPodSandboxStatsResponse, error) {
	items, err := s.listSandboxStats(ctx, req.GetFilter())
	if err != nil {
		return nil, err
	}
	return encoded(new(runtimeapi.ListPodSandboxStatsResponse), items), nil
}

func (s *Server) listSandboxStats(ctx context.Context, f *runtimeapi.PodSandboxStatsFilter) ([][]byte, error) {
	id, err := s.sandboxID(f.GetId())
	if err != nil {
		return nil, nil
	}
	var parts encoders
	s.rt.VisitSandboxStats(ctx, func(sb *runtime.SandboxStatus) bool {
		return (id == "" || sb.ID == id) && matches(sb.Spec.Labels, f.GetLabelSelector())
	}, func() func(*runtime.SandboxStats) {
		e, m := parts.begin(), new(sandboxMessage)
		return func(st *runtime.SandboxStats) { e.add(m.fill(s, st)) }
	})
	return parts.items()
}

func number(n uint64) *runtimeapi.UInt64Value { return &runtimeapi.UInt64Value{Value: n} }

// usage is what is said of one cgroup, in one piece of memory that serves for one cgroup after the other: a full node's
// answer has thousands of these messages.
type usage struct {
	cpu       runtimeapi.CpuUsage
	memory    runtimeapi.MemoryUsage
	swap      runtimeapi.SwapUsage
	io        runtimeapi.IoUsage
	pressures [3]runtimeapi.PsiStats
	lines     [6]runtimeapi.PsiData
	numbers   numbers
}

// numbers are messages of one number each.
type numbers struct {
	all  [12]runtimeapi.UInt64Value
	used int
}

func (n *numbers) number(v uint64) *runtimeapi.UInt64Value {
	out := &n.all[n.used]
	n.used++
	out.Value = v
	return out
}

// fill makes the messages of s.
func (u *usage) fill(s *runtime.Stats) {
	u.numbers.used = 0
	number, at := u.numbers.number, s.At.UnixNano()
	u.cpu.Timestamp, u.cpu.UsageCoreNanoSeconds, u.cpu.UsageNanoCores = at, number(s.CPUNanos), number(s.CPURate)
	u.cpu.Psi = u.pressure(0, s.CPUPressure)

	m := &u.memory
	m.Timestamp, m.WorkingSetBytes, m.UsageBytes, m.RssBytes = at, number(s.MemoryWorkingSet), number(s.MemoryUsage), number(s.MemoryRSS)
	m.PageFaults, m.MajorPageFaults, m.Psi = number(s.PageFaults), number(s.MajorPageFaults), u.pressure(1, s.MemoryPressure)
	m.AvailableBytes = nil
	if s.MemoryLimit > 0 {
		m.AvailableBytes = number(s.MemoryLimit - min(s.MemoryLimit, s.MemoryWorkingSet))
	}

	u.swap.Timestamp, u.swap.SwapUsageBytes, u.swap.SwapAvailableBytes = at, number(s.SwapUsage), nil
	if s.SwapLimit != nil {
		u.swap.SwapAvailableBytes = number(*s.SwapLimit - min(*s.SwapLimit, s.SwapUsage))
	}
	u.io.Timestamp, u.io.Psi = at, u.pressure(2, s.IOPressure)
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

// containerMessage is the message about one container, and when it was encoded, that about another.
type containerMessage struct {
	usage
	stats      runtimeapi.ContainerStats
	attributes runtimeapi.ContainerAttributes
	layer      runtimeapi.FilesystemUsage
	filesystem runtimeapi.FilesystemIdentifier
}

// fill makes the message of st; it lasts until the next call.
func (m *containerMessage) fill(s *Server, st *runtime.ContainerStats) *runtimeapi.ContainerStats {
	c, a, out := &st.Container, &m.attributes, &m.stats
	m.usage.fill(&st.Cgroup)
	a.Id, a.Metadata, a.Labels, a.Annotations = c.ID, containerMetadata(*c), c.Spec.Labels, c.Spec.Annotations
	out.Attributes, out.Cpu, out.Memory, out.Swap, out.Io, out.WritableLayer = a, &m.cpu, &m.memory, &m.swap, m.ioUsage(), nil
	if !st.Disk.At.IsZero() {
		m.filesystem.Mountpoint = s.cfg.SnapshotDir
		m.layer.Timestamp, m.layer.FsId = st.Disk.At.UnixNano(), &m.filesystem
		m.layer.UsedBytes, m.layer.InodesUsed = m.numbers.number(st.Disk.Bytes), m.numbers.number(st.Disk.Inodes)
		out.WritableLayer = &m.layer
	}
	return out
}

// sandboxMessage is the message about one pod, and when it was encoded, that about another.
type sandboxMessage struct {
	usage
	stats      runtimeapi.PodSandboxStats
	attributes runtimeapi.PodSandboxAttributes
	linux      runtimeapi.LinuxPodSandboxStats
	network    runtimeapi.NetworkUsage
	process    runtimeapi.ProcessUsage
	containers []*containerMessage
	interfaces []*interfaceMessage
}

// fill makes the message of st; it lasts until the next call.
func (m *sandboxMessage) fill(s *Server, st *runtime.SandboxStats) *runtimeapi.PodSandboxStats {
	sb, a, l := &st.Sandbox, &m.attributes, &m.linux
	m.usage.fill(&st.Cgroup)
	a.Id, a.Metadata, a.Labels, a.Annotations = sb.ID, sandboxMetadata(*sb), sb.Spec.Labels, sb.Spec.Annotations
	l.Cpu, l.Memory, l.Io, l.Network, l.Process = &m.cpu, &m.memory, m.ioUsage(), m.networkUsage(st), &m.process
	m.process.Timestamp, m.process.ProcessCount = st.Cgroup.At.UnixNano(), m.numbers.number(st.Cgroup.Pids)
	l.Containers = l.Containers[:0]
	for i := range st.Containers {
		l.Containers = append(l.Containers, nth(&m.containers, i).fill(s, &st.Containers[i]))
	}
	m.stats.Attributes, m.stats.Linux = a, l
	return &m.stats
}

// networkUsage is nil for a pod on the node's network.
func (m *sandboxMessage) networkUsage(st *runtime.SandboxStats) *runtimeapi.NetworkUsage {
	if len(st.Network) == 0 {
		return nil
	}
	out := &m.network
	out.Timestamp, out.DefaultInterface, out.Interfaces = st.Cgroup.At.UnixNano(), nth(&m.interfaces, 0).fill(&st.Network[0]), out.Interfaces[:0]
	for i := 1; i < len(st.Network); i++ {
		out.Interfaces = append(out.Interfaces, nth(&m.interfaces, i).fill(&st.Network[i]))
	}
	return out
}

// interfaceMessage is the message about one network interface.
type interfaceMessage struct {
	usage   runtimeapi.NetworkInterfaceUsage
	numbers numbers
}

func (m *interfaceMessage) fill(u *runtime.InterfaceUsage) *runtimeapi.NetworkInterfaceUsage {
	m.numbers.used = 0
	number := m.numbers.number
	m.usage.Name, m.usage.RxBytes, m.usage.RxErrors, m.usage.TxBytes, m.usage.TxErrors =
		u.Name, number(u.RxBytes), number(u.RxErrors), number(u.TxBytes), number(u.TxErrors)
	return &m.usage
}

// nth is the element i of a list that is made longer by one if that is the next.
func nth[T any](list *[]*T, i int) *T {
	if i == len(*list) {
		*list = append(*list, new(T))
	}
	return (*list)[i]
}
