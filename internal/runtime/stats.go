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
	var out ContainerStats
	err = r.statsOf(ctx, c, &out)
	return out, err
}

// VisitContainerStats reads the counters of the running containers that pick chooses, in parallel. begin is called once for
// each of the goroutines that do it, before they run, and what it returns with each container that the goroutine has read:
// what that is given is overwritten afterwards. What ends meanwhile is left out.
func (r *Runtime) VisitContainerStats(ctx context.Context, pick func(*ContainerStatus) bool, begin func() func(*ContainerStats)) {
	ctx, cancel := context.WithTimeout(ctx, firstMeasure)
	defer cancel()
	inParallel(r.everyContainer(""), func() func(*container) {
		visit, stats := begin(), new(ContainerStats)
		return func(c *container) {
			if stats.Container = c.get(); stats.Container.State != ContainerRunning || !pick(&stats.Container) {
				return
			}
			if r.statsOf(ctx, c, stats) == nil {
				visit(stats)
			}
		}
	})
}

// inParallel has each object handled, on as many goroutines as there are processors, by what begin returns for each of these.
func inParallel[O any](objects []O, begin func() func(O)) {
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(goruntime.GOMAXPROCS(0), len(objects)) {
		handle := begin()
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(objects)); i = next.Add(1) - 1 {
				handle(objects[i])
			}
		})
	}
	wg.Wait()
}

// statsOf reads a container's counters into out, whatever that held.
func (r *Runtime) statsOf(ctx context.Context, c *container, out *ContainerStats) error {
	*out = ContainerStats{Container: c.get(), Cgroup: Stats{At: time.Now()}}
	if st := &out.Container; st.State == ContainerRunning {
		s, err := c.gauge.read(r.gauges, st.CgroupPath, false, st.StartedAt)
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // it has ended this instant
			return err
		}
		if err == nil {
			out.Cgroup = s
		}
	}
	var err error
	out.Disk, err = r.cfg.Images.Usage(ctx, c.id)
	if errors.Is(err, fs.ErrNotExist) || errdefs.IsNotFound(err) {
		err = nil
	}
	return err
}

// SandboxStats reads a pod's counters and those of its containers.
func (r *Runtime) SandboxStats(ctx context.Context, id string) (SandboxStats, error) {
	if _, err := r.Sandbox(id); err != nil {
		return SandboxStats{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, firstMeasure)
	defer cancel()
	var out SandboxStats
	err := r.sandboxStatsOf(ctx, r.sandbox(id), func() map[string]InterfaceUsage { return nil }, &out)
	return out, err
}

// VisitSandboxStats is VisitContainerStats for the ready sandboxes.
func (r *Runtime) VisitSandboxStats(ctx context.Context, pick func(*SandboxStatus) bool, begin func() func(*SandboxStats)) {
	ctx, cancel := context.WithTimeout(ctx, firstMeasure)
	defer cancel()
	network := sync.OnceValue(func() map[string]InterfaceUsage { return r.networkUsage(ctx) })
	inParallel(r.everySandbox(), func() func(*sandbox) {
		visit, stats := begin(), new(SandboxStats)
		return func(sb *sandbox) {
			if stats.Sandbox = sb.get(); stats.Sandbox.State != SandboxReady || !pick(&stats.Sandbox) {
				return
			}
			if r.sandboxStatsOf(ctx, sb, network, stats) == nil {
				visit(stats)
			}
		}
	})
}

// networkUsage is what the network tells of all pods at once, if it does.
func (r *Runtime) networkUsage(ctx context.Context) map[string]InterfaceUsage {
	all, err := r.cfg.Network.Usage(ctx)
	if err != nil {
		r.log.Debug("the network does not tell the counters of all pods: each is asked for itself", "error", err)
	}
	return all
}

// sandboxStatsOf reads one pod's counters into out, whatever that held; network has those of interfaces that are known
// already. A container that can make interfaces may have others, so its pod's are looked at.
func (r *Runtime) sandboxStatsOf(ctx context.Context, sb *sandbox, network func() map[string]InterfaceUsage, out *SandboxStats) error {
	*out = SandboxStats{Sandbox: sb.get(), Cgroup: Stats{At: time.Now()}, Network: out.Network[:0], Containers: out.Containers[:0]}
	st := &out.Sandbox
	if st.State != SandboxReady {
		return nil
	}
	var err error
	if out.Cgroup, err = sb.gauge.read(r.gauges, st.CgroupPath, true, st.CreatedAt); err != nil {
		return err
	}
	pid, known := 0, true
	for _, c := range sb.children() {
		n := len(out.Containers)
		out.Containers = append(out.Containers, ContainerStats{})
		s := &out.Containers[n]
		err := r.statsOf(ctx, c, s)
		known = known && !s.Container.Spec.Security.administersNetwork()
		if err != nil || s.Container.State != ContainerRunning {
			out.Containers = out.Containers[:n]
			continue
		}
		pid = s.Container.Pid
	}
	if st.NetNS == "" {
		return nil
	}
	if one, ok := network()[sb.id]; ok && known {
		out.Network = append(out.Network, one)
		return nil
	}
	out.Network, err = r.cfg.Kernel.NetworkUsage(ctx, pid, st.NetNS)
	return err
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
// than VisitSandboxStats: it looks at every process.
func (r *Runtime) AllSandboxCounters(ctx context.Context) []SandboxCounters {
	mctx, cancel := context.WithTimeout(ctx, firstMeasure)
	defer cancel()
	var mu sync.Mutex
	var out []SandboxCounters
	inParallel(r.everySandbox(), func() func(*sandbox) {
		return func(sb *sandbox) {
			if sb.get().State != SandboxReady {
				return
			}
			if c, err := r.countersOf(ctx, mctx, sb); err == nil {
				mu.Lock()
				defer mu.Unlock()
				out = append(out, c)
			}
		}
	})
	return out
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
