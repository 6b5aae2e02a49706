package server

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"os"
	"slices"

	"github.com/containerd/errdefs"

	"github.com/11f9778f/berth/internal/engine"
	"github.com/11f9778f/berth/internal/engine/cgroup"
	"github.com/11f9778f/berth/internal/shim/api"
	"github.com/11f9778f/berth/internal/shim/api/containerd"
	"github.com/11f9778f/berth/internal/shim/wire"
)

// shimService is berth.shim.v1.Shim; shim.proto says what its calls promise.
type shimService struct{ s *Server }

// tell publishes what a managing daemon knows anyway, because it asked for it.
func (s *Server) tell(event containerd.Event) {
	if !s.cfg.Managed {
		s.events.publish(event)
	}
}

// Hello makes the events go to the daemon.
func (v shimService) Hello(ctx context.Context, r *api.HelloRequest) (*api.HelloResponse, error) {
	v.s.events.listen(r.EventsAddress)
	return &api.HelloResponse{
		Pid: uint32(os.Getpid()), Group: v.s.cfg.Group, Generation: v.s.cfg.Generation, StreamAddress: v.s.streams.address,
		Starts: true,
	}, nil
}

// List: see shim.proto.
func (v shimService) List(ctx context.Context, r *api.ListRequest) (*api.ListResponse, error) {
	wanted := func(id string) bool { return len(r.SandboxIds) == 0 || slices.Contains(r.SandboxIds, id) }
	resp := &api.ListResponse{}
	v.s.mu.Lock()
	boxes := make([]*sandbox, 0, len(v.s.sandboxes))
	for id, b := range v.s.sandboxes {
		if wanted(id) {
			boxes = append(boxes, b)
		}
	}
	v.s.mu.Unlock()
	for _, b := range boxes {
		rec := b.snapshot()
		resp.Sandboxes = append(resp.Sandboxes, &api.Sandbox{
			Id: rec.ID, State: rec.State, NetnsPath: rec.NetNS, IpcPath: b.nsPath("ipc", rec.HostIPC), UtsPath: b.nsPath("uts", rec.HostUTS),
			CreatedAt: rec.CreatedAt, ExitedAt: rec.ExitedAt,
		})
	}
	for _, t := range v.s.tasks() {
		if wanted(t.snapshot().SandboxID) {
			resp.Containers = append(resp.Containers, t.message())
		}
	}
	slices.SortFunc(resp.Sandboxes, func(a, b *api.Sandbox) int { return cmp.Compare(a.Id, b.Id) })
	slices.SortFunc(resp.Containers, func(a, b *api.Container) int { return cmp.Compare(a.Id, b.Id) })
	return resp, nil
}

func (t *task) message() *api.Container {
	status := t.status(t.main)
	t.mu.Lock()
	defer t.mu.Unlock()
	rec := t.rec
	m := &api.Container{
		Id: rec.ID, SandboxId: rec.SandboxID, Bundle: rec.Bundle, Pid: uint32(rec.Engine.Pid), Status: api.StatusOf(status),
		LogPath: rec.Stdio.logPath(), Terminal: rec.Stdio.Terminal, Adopted: t.adopted, Cgroup: cmp.Or(rec.Engine.CgroupPath, rec.Cgroup),
		CreatedAt: rec.Engine.Created, StartedAt: rec.StartedAt,
	}
	if status == containerd.StatusStopped && rec.Exit != nil {
		m.Exit = exitMessage(*rec.Exit, rec.OOMKilled)
		m.Exit.OomVictims = rec.OOMVictims
	}
	return m
}

func exitMessage(st engine.ExitStatus, oom bool) *api.Exit {
	return &api.Exit{
		Code: uint32(st.Code), Signal: uint32(st.Signal), At: st.At, Unknown: st.Unknown, Reason: st.Reason, OomKilled: oom,
	}
}

// ReopenLog: see shim.proto.
func (v shimService) ReopenLog(ctx context.Context, r *api.ReopenLogRequest) (*wire.Empty, error) {
	t, err := v.s.task(r.Id)
	if err != nil {
		return nil, err
	}
	if _, err := t.made(); err != nil {
		return nil, err
	}
	if t.main.stdio.log == nil {
		return nil, fmt.Errorf("reopen log of container %s: it has no CRI log: %w", r.Id, errdefs.ErrFailedPrecondition)
	}
	return &wire.Empty{}, t.main.stdio.log.Reopen()
}

// ExecSync: see shim.proto.
func (v shimService) ExecSync(ctx context.Context, r *api.ExecSyncRequest) (*api.ExecSyncResponse, error) {
	t, err := v.s.task(r.Id)
	if err != nil {
		return nil, err
	}
	spec, err := t.parseProcess(r.Process)
	if err != nil {
		return nil, err
	}
	resp, err := t.execSync(ctx, r, spec)
	v.s.idle()
	return resp, err
}

// Exec: see shim.proto.
func (v shimService) Exec(ctx context.Context, r *api.ExecRequest) (*api.StreamResponse, error) {
	t, err := v.s.task(r.Id)
	if err != nil {
		return nil, err
	}
	if _, err := t.live(); err != nil {
		return nil, err
	}
	spec, err := t.parseProcess(r.Process)
	if err != nil {
		return nil, err
	}
	return v.s.streams.offer(func(conn net.Conn) { t.execStream(conn, r, spec); v.s.idle() }), nil
}

// Attach: see shim.proto.
func (v shimService) Attach(ctx context.Context, r *api.AttachRequest) (*api.StreamResponse, error) {
	t, err := v.s.task(r.Id)
	if err != nil {
		return nil, err
	}
	if _, err := t.made(); err != nil {
		return nil, err
	}
	if t.main.stdio.log == nil && (r.Stdout || r.Stderr) {
		return nil, fmt.Errorf("attach to container %s: its output goes to FIFOs of the caller's: %w", r.Id, errdefs.ErrFailedPrecondition)
	}
	return v.s.streams.offer(func(conn net.Conn) { t.attach(conn, r) }), nil
}

// Stats: see shim.proto. A container that ends while it is asked is left out.
func (v shimService) Stats(ctx context.Context, r *api.StatsRequest) (*api.StatsResponse, error) {
	resp := &api.StatsResponse{}
	for _, t := range v.s.tasks() {
		if len(r.Ids) > 0 && !slices.Contains(r.Ids, t.rec.ID) {
			continue
		}
		c, err := t.live()
		if err != nil {
			continue
		}
		if st, err := c.Stats(); err == nil {
			resp.Containers = append(resp.Containers, statsMessage(t.rec.ID, st))
		}
	}
	return resp, nil
}

func statsMessage(id string, s *cgroup.Stats) *api.ContainerStats {
	limit := func(v uint64) uint64 {
		if v == cgroup.Unlimited {
			return 0
		}
		return v
	}
	return &api.ContainerStats{
		Id: id, At: s.At,
		CpuUsageNs: s.CPU.Usage, CpuUserNs: s.CPU.User, CpuSystemNs: s.CPU.System,
		CpuPeriods: s.CPU.Periods, CpuThrottledPeriods: s.CPU.Throttled, CpuThrottledNs: s.CPU.ThrottledTime,
		MemoryUsage: s.Memory.Usage, MemoryWorkingSet: s.Memory.WorkingSet, MemoryRss: s.Memory.RSS, MemoryLimit: limit(s.Memory.Limit),
		MemoryPageFaults: s.Memory.PageFaults, MemoryMajorPageFaults: s.Memory.MajorPageFaults, MemorySwap: s.Memory.Swap, OomKills: s.Memory.OOMKills,
		Pids: s.Pids.Current, PidsLimit: limit(s.Pids.Limit), IoReadBytes: s.IO.ReadBytes, IoWriteBytes: s.IO.WriteBytes,
	}
}

// Trace: see shim.proto.
func (v shimService) Trace(ctx context.Context, r *api.TraceRequest) (*api.TraceResponse, error) {
	t, err := v.s.task(r.Id)
	if err != nil {
		return nil, err
	}
	resp := &api.TraceResponse{}
	if t.spans == nil {
		return resp, nil
	}
	for _, span := range t.spans.Spans() {
		resp.Spans = append(resp.Spans, &api.Span{Name: span.Name, StartNs: span.Start.UnixNano(), DurationNs: int64(span.Duration)})
	}
	return resp, nil
}
