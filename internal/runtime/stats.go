package runtime

import (
	"context"
	"errors"
	"io/fs"
	goruntime "runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/containerd/errdefs"

	"github.com/11f9778f/berth/internal/engine/cgroup"
)

// firstMeasure is how long a call waits for writable layers that were never measured before.
const firstMeasure = 100 * time.Millisecond

// ContainerStats is what a container uses now.
type ContainerStats struct {
	Container ContainerStatus
	// Cgroup is zero but for At where the container does not run.
	Cgroup Stats
	// Disk is the writable layer, as it was last measured; its At is zero if it never was.
	Disk DiskUsage
}

// SandboxStats is what a pod uses now.
type SandboxStats struct {
	Sandbox SandboxStatus
	Cgroup  Stats
	// Network is of the pod's interfaces but the loopback, the default one first; nil where the pod uses
	// the node's network.
	Network []InterfaceUsage
	// Containers are those that run.
	Containers []ContainerStats
}

// ContainerStats reads one container's counters.
func (r *Runtime) ContainerStats(ctx context.Context, id string) (ContainerStats, error) {
	c, err := r.listedContainer(id)
	if err != nil {
		return ContainerStats{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, firstMeasure)
	defer cancel()
	return r.statsOf(ctx, c)
}

// AllContainerStats reads the counters of the running containers that pick chooses, in parallel, and returns what convert,
// which is called from several goroutines, makes of them. What ends meanwhile is left out.
func AllContainerStats[T any](ctx context.Context, r *Runtime, pick func(ContainerStatus) bool, convert func(ContainerStats) T) []T {
	var which []*container
	for _, st := range r.Containers("") {
		if c := r.container(st.ID); c != nil && st.State == ContainerRunning && pick(st) {
			which = append(which, c)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, firstMeasure)
	defer cancel()
	return inParallel(which, then(func(c *container) (ContainerStats, error) { return r.statsOf(ctx, c) }, convert))
}

// then reads an object and converts what it has read.
func then[O, S, R any](read func(O) (S, error), convert func(S) R) func(O) (R, error) {
	return func(o O) (out R, err error) {
		s, err := read(o)
		if err == nil {
			out = convert(s)
		}
		return out, err
	}
}

// inParallel calls f for each object, on as many goroutines as there are processors, and returns the
// results that are no errors, in order.
func inParallel[O, R any](objects []O, f func(O) (R, error)) []R {
	results, good := make([]R, len(objects)), make([]bool, len(objects))
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(goruntime.GOMAXPROCS(0), len(objects)) {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(objects)); i = next.Add(1) - 1 {
				res, err := f(objects[i])
				results[i], good[i] = res, err == nil
			}
		})
	}
	wg.Wait()
	out := results[:0]
	for i, res := range results {
		if good[i] {
			out = append(out, res)
		}
	}
	return out
}

func (r *Runtime) statsOf(ctx context.Context, c *container) (ContainerStats, error) {
	st := c.get()
	out := ContainerStats{Container: st, Cgroup: Stats{At: time.Now()}}
	if st.State == ContainerRunning {
		s, err := c.gauge.read(r.gauges, st.CgroupPath, false, st.StartedAt)
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // it has ended this instant
			return out, err
		}
		if err == nil {
			out.Cgroup = s
		}
	}
	var err error
	out.Disk, err = r.cfg.Images.Usage(ctx, st.ID)
	if errors.Is(err, fs.ErrNotExist) || errdefs.IsNotFound(err) {
		err = nil
	}
	return out, err
}

// SandboxStats reads a pod's counters and those of its containers.
func (r *Runtime) SandboxStats(ctx context.Context, id string) (SandboxStats, error) {
	if _, err := r.Sandbox(id); err != nil {
		return SandboxStats{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, firstMeasure)
	defer cancel()
	return r.sandboxStatsOf(ctx, r.sandbox(id), func() map[string]InterfaceUsage { return nil })
}

// AllSandboxStats reads the counters of the ready sandboxes that pick chooses, in parallel, and returns what convert, which is
// called from several goroutines, makes of them. What ends meanwhile is left out.
func AllSandboxStats[T any](ctx context.Context, r *Runtime, pick func(SandboxStatus) bool, convert func(SandboxStats) T) []T {
	var which []*sandbox
	for _, st := range r.Sandboxes() {
		if sb := r.sandbox(st.ID); sb != nil && st.State == SandboxReady && pick(st) {
			which = append(which, sb)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, firstMeasure)
	defer cancel()
	network := sync.OnceValue(func() map[string]InterfaceUsage { return r.networkUsage(ctx) })
	return inParallel(which, then(func(sb *sandbox) (SandboxStats, error) { return r.sandboxStatsOf(ctx, sb, network) }, convert))
}

// networkUsage is what the network tells of all pods at once, if it does.
func (r *Runtime) networkUsage(ctx context.Context) map[string]InterfaceUsage {
	all, err := r.cfg.Network.Usage(ctx)
	if err != nil {
		r.log.Debug("the network does not tell the counters of all pods: each is asked for itself", "error", err)
	}
	return all
}

// sandboxStatsOf reads one pod's counters; network has those of interfaces that are known already. A container that can
// make interfaces may have others, so its pod's are looked at.
func (r *Runtime) sandboxStatsOf(ctx context.Context, sb *sandbox, network func() map[string]InterfaceUsage) (SandboxStats, error) {
	st := sb.get()
	out := SandboxStats{Sandbox: st, Cgroup: Stats{At: time.Now()}}
	if st.State != SandboxReady {
		return out, nil
	}
	var err error
	if out.Cgroup, err = sb.gauge.read(r.gauges, st.CgroupPath, true, st.CreatedAt); err != nil {
		return out, err
	}
	pid, known := 0, true
	for _, c := range sb.children() {
		s, err := r.statsOf(ctx, c)
		known = known && !s.Container.Spec.Security.administersNetwork()
		if err != nil || s.Container.State != ContainerRunning {
			continue
		}
		pid = s.Container.Pid
		out.Containers = append(out.Containers, s)
	}
	if st.NetNS == "" {
		return out, nil
	}
	if one, ok := network()[sb.id]; ok && known {
		out.Network = []InterfaceUsage{one}
		return out, nil
	}
	out.Network, err = r.cfg.Kernel.NetworkUsage(ctx, pid, st.NetNS)
	return out, err
}

// ContainerCounters is everything that the kernel counts for a container.
type ContainerCounters struct {
	Container ContainerStatus
	Counters  *cgroup.Stats
	Processes ProcessUsage
	Disk      DiskUsage
}

// SandboxCounters is everything that the kernel counts for a pod; see SandboxStats.
type SandboxCounters struct {
	Sandbox    SandboxStatus
	Counters   *cgroup.Stats
	Processes  ProcessUsage
	Network    []InterfaceUsage
	Containers []ContainerCounters
}

// AllSandboxCounters reads the counters of the ready sandboxes and their running containers. It costs more
// than AllSandboxStats: it looks at every process.
func (r *Runtime) AllSandboxCounters(ctx context.Context) []SandboxCounters {
	var which []*sandbox
	for _, st := range r.Sandboxes() {
		if sb := r.sandbox(st.ID); sb != nil && st.State == SandboxReady {
			which = append(which, sb)
		}
	}
	mctx, cancel := context.WithTimeout(ctx, firstMeasure)
	defer cancel()
	return inParallel(which, func(sb *sandbox) (SandboxCounters, error) { return r.countersOf(ctx, mctx, sb) })
}

// countersOf reads one pod; mctx bounds the wait for measures of writable layers.
func (r *Runtime) countersOf(ctx, mctx context.Context, sb *sandbox) (SandboxCounters, error) {
	k := r.cfg.Kernel
	out := SandboxCounters{Sandbox: sb.get()}
	var err error
	if out.Counters, err = k.Counters(ctx, out.Sandbox.CgroupPath); err != nil {
		return out, err
	}
	pid := 0
	for _, c := range sb.children() {
		x := ContainerCounters{Container: c.get()}
		if x.Container.State != ContainerRunning {
			continue
		}
		if x.Counters, err = k.Counters(ctx, x.Container.CgroupPath); err != nil {
			continue // it has ended this instant
		}
		if x.Processes, err = k.ProcessUsage(ctx, x.Container.CgroupPath); err != nil {
			return out, err
		}
		x.Disk, _ = r.cfg.Images.Usage(mctx, c.id) // without it, the rest is still of use
		pid = x.Container.Pid
		out.Processes.add(x.Processes)
		out.Containers = append(out.Containers, x)
	}
	if out.Sandbox.NetNS != "" {
		out.Network, err = k.NetworkUsage(ctx, pid, out.Sandbox.NetNS)
	}
	return out, err
}

func (p *ProcessUsage) add(q ProcessUsage) {
	p.Processes += q.Processes
	p.Threads += q.Threads
	p.FileDescriptors += q.FileDescriptors
	p.Sockets += q.Sockets
}

const (
	// leastWindow is the shortest time that a rate of CPU use is averaged over.
	leastWindow = 500 * time.Millisecond
	// gaugeIdle is how long a gauge that nobody reads keeps its descriptors.
	gaugeIdle = 2 * time.Minute
)

// gauges bounds the descriptors that meters hold between two readings.
type gauges struct {
	kernel Kernel
	limit  int64        // of descriptors that this process may have
	pods   func() int64 // how many sandboxes and containers there are
	open   atomic.Int64
}

func newGauges(k Kernel, pods func() int64) *gauges {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		limit.Cur = 1024
	}
	return &gauges{kernel: k, limit: int64(min(limit.Cur, 1<<20)), pods: pods}
}

// tooMany tells whether meters hold more than what everything else leaves them: that has a quarter of all descriptors,
// three for each sandbox and container and some more, but never more than three quarters.
func (g *gauges) tooMany() bool {
	open := g.open.Load()
	return open > g.limit/4 && open > g.limit-max(g.limit/4, 500+3*g.pods())
}

// gauge reads one cgroup for statistics. It has a meter while somebody asks now and then.
type gauge struct {
	mu    sync.Mutex // held while reading: counters are no outside effect and do not block
	meter Meter
	files int64 // of the meter, as all counts them
	all   *gauges
	idle  *time.Timer
	// The sample that the present rate begins at, and that rate, 0 before there is one.
	at   time.Time
	cpu  uint64
	rate uint64
}

// read reads the counters. The first rate is the average since the beginning of the cgroup's life.
func (g *gauge) read(all *gauges, path string, pod bool, born time.Time) (Stats, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	fresh := g.meter == nil
	if fresh {
		m, err := all.kernel.Meter(path, pod)
		if err != nil {
			return Stats{}, err
		}
		g.meter, g.all = m, all
		g.idle = time.AfterFunc(gaugeIdle, g.close)
	} else {
		g.idle.Reset(gaugeIdle)
	}
	s, err := g.meter.Read()
	if err != nil {
		g.release()
		return Stats{}, err
	}
	if fresh {
		g.files = int64(g.meter.Files())
		all.open.Add(g.files)
	}
	if all.tooMany() {
		g.release() // this one is opened each time
	}
	if g.at.IsZero() {
		g.at = born
	}
	if window := s.At.Sub(g.at); window >= leastWindow || g.rate == 0 && window > 0 {
		g.rate = uint64(float64(s.CPUNanos-min(g.cpu, s.CPUNanos)) / window.Seconds())
		g.at, g.cpu = s.At, s.CPUNanos
	}
	s.CPURate = g.rate
	return s, nil
}

func (g *gauge) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.release()
}

func (g *gauge) release() {
	if g.meter != nil {
		g.meter.Close()
		g.idle.Stop()
		g.all.open.Add(-g.files)
		g.meter, g.files = nil, 0
	}
}
