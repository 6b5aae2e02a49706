package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/11f9778f/berth/internal/engine"
	"github.com/11f9778f/berth/internal/engine/cgroup"
)

// event is a line of events.
type event struct {
	Type string `json:"type"` // "stats", "oom"
	ID   string `json:"id"`
	Data any    `json:"data,omitempty"`
}

// events prints statistics, and that the OOM killer was there, until the container is gone.
func (a *app) events(ctx context.Context, args []string) error {
	f := a.flags("events")
	interval := f.Duration("interval", 5*time.Second, "time between statistics")
	once := f.Bool("stats", false, "print statistics once and end")
	id, err := a.one(f, args)
	if err != nil {
		return err
	}
	if *interval <= 0 {
		return errors.New("duration interval must be greater than 0")
	}
	e, err := a.store().open(id)
	if err != nil {
		return err
	}
	status, err := e.status()
	if err != nil {
		return err
	}
	if status == specs.StateStopped {
		return fmt.Errorf("container with id %s is not running", id)
	}
	c, err := e.adopt(ctx)
	if err != nil {
		return err
	}
	if *once {
		return a.printStats(id, c)
	}
	return a.follow(ctx, id, c, *interval)
}

func (a *app) follow(ctx context.Context, id string, c *engine.Container, interval time.Duration) error {
	ooms, err := c.Cgroup().OOMEvents(ctx)
	if err != nil {
		return err
	}
	ticks := time.NewTicker(interval)
	defer ticks.Stop()
	for {
		select {
		case _, ok := <-ooms:
			if !ok { // the cgroup is gone, and the container with it
				return nil
			}
			if err := json.NewEncoder(a.Out).Encode(event{Type: "oom", ID: id}); err != nil {
				return err
			}
		case <-ticks.C:
			if err := a.printStats(id, c); err != nil {
				a.log.Error(err.Error())
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (a *app) printStats(id string, c *engine.Container) error {
	s, err := c.Stats()
	if err != nil {
		return err
	}
	out := newStats(s)
	cpus, err := c.Cgroup().PerCPU()
	if err != nil {
		return err
	}
	u := &out.CPU.Usage
	u.PerCPU, u.PerCPUKernel, u.PerCPUUser = cpus.Usage, cpus.System, cpus.User
	pages, err := c.Cgroup().HugePages()
	if err != nil {
		return err
	}
	for size, p := range pages {
		if out.Hugetlb == nil {
			out.Hugetlb = map[string]hugePages{}
		}
		out.Hugetlb[size] = hugePages{Usage: p.Usage, Max: p.Peak, Failcnt: p.FailCount}
	}
	return json.NewEncoder(a.Out).Encode(event{Type: "stats", ID: id, Data: out})
}

// stats has the fields of runc's "data" that are known here: times in nanoseconds, sizes in bytes.
type stats struct {
	CPU struct {
		Usage struct {
			Total        uint64   `json:"total,omitempty"`
			PerCPU       []uint64 `json:"percpu,omitempty"`
			PerCPUKernel []uint64 `json:"percpu_kernel,omitempty"`
			PerCPUUser   []uint64 `json:"percpu_user,omitempty"`
			Kernel       uint64   `json:"kernel"`
			User         uint64   `json:"user"`
		} `json:"usage"`
		Throttling struct {
			Periods   uint64 `json:"periods,omitempty"`
			Throttled uint64 `json:"throttledPeriods,omitempty"`
			Time      uint64 `json:"throttledTime,omitempty"`
		} `json:"throttling"`
		PSI *pressure `json:"psi,omitempty"`
	} `json:"cpu"`
	Memory struct {
		Cache uint64            `json:"cache,omitempty"`
		Usage memoryEntry       `json:"usage"`
		Swap  memoryEntry       `json:"swap"`
		Raw   map[string]uint64 `json:"raw,omitempty"`
		PSI   *pressure         `json:"psi,omitempty"`
	} `json:"memory"`
	Pids struct {
		Current uint64 `json:"current,omitempty"`
		Limit   uint64 `json:"limit,omitempty"` // 0: none
	} `json:"pids"`
	Blkio struct {
		Bytes []blkioEntry `json:"ioServiceBytesRecursive,omitempty"`
		Ops   []blkioEntry `json:"ioServicedRecursive,omitempty"`
		PSI   *pressure    `json:"psi,omitempty"`
	} `json:"blkio"`
	Hugetlb map[string]hugePages `json:"hugetlb,omitempty"`
}

type hugePages struct {
	Usage   uint64 `json:"usage,omitempty"`
	Max     uint64 `json:"max,omitempty"`
	Failcnt uint64 `json:"failcnt"`
}

type memoryEntry struct {
	Limit   uint64 `json:"limit"`
	Usage   uint64 `json:"usage,omitempty"`
	Max     uint64 `json:"max,omitempty"`
	Failcnt uint64 `json:"failcnt"`
}

type blkioEntry struct {
	Major uint64 `json:"major,omitempty"`
	Minor uint64 `json:"minor,omitempty"`
	Op    string `json:"op,omitempty"`
	Value uint64 `json:"value,omitempty"`
}

type pressure struct {
	Some pressureLine `json:"some"`
	Full pressureLine `json:"full"`
}

type pressureLine struct {
	Avg10  float64 `json:"avg10"`
	Avg60  float64 `json:"avg60"`
	Avg300 float64 `json:"avg300"`
	Total  uint64  `json:"total"`
}

func newStats(s *cgroup.Stats) (out stats) {
	out.CPU.Usage.Total, out.CPU.Usage.Kernel, out.CPU.Usage.User = s.CPU.Usage, s.CPU.System, s.CPU.User
	out.CPU.Throttling.Periods, out.CPU.Throttling.Throttled, out.CPU.Throttling.Time = s.CPU.Periods, s.CPU.Throttled, s.CPU.ThrottledTime
	out.CPU.PSI = newPressure(s.CPU.Pressure)
	m := s.Memory
	out.Memory.Cache = m.Cache
	out.Memory.Usage = memoryEntry{Limit: m.Limit, Usage: m.Usage, Max: m.Peak, Failcnt: m.FailCount}
	out.Memory.Swap = memoryEntry{Limit: m.SwapLimit, Usage: m.Swap}
	out.Memory.Raw = map[string]uint64{
		"rss": m.RSS, "cache": m.Cache, "swap": m.Swap, "inactive_file": m.Usage - m.WorkingSet, "pgfault": m.PageFaults, "pgmajfault": m.MajorPageFaults,
	}
	out.Memory.PSI = newPressure(m.Pressure)
	out.Pids.Current = s.Pids.Current
	if s.Pids.Limit != cgroup.Unlimited {
		out.Pids.Limit = s.Pids.Limit
	}
	for _, d := range s.IO.Devices {
		entry := func(op string, n uint64) blkioEntry { return blkioEntry{uint64(d.Major), uint64(d.Minor), op, n} }
		out.Blkio.Bytes = append(out.Blkio.Bytes, entry("Read", d.ReadBytes), entry("Write", d.WriteBytes))
		out.Blkio.Ops = append(out.Blkio.Ops, entry("Read", d.ReadOps), entry("Write", d.WriteOps))
	}
	out.Blkio.PSI = newPressure(s.IO.Pressure)
	return out
}

func newPressure(p *cgroup.Pressure) *pressure {
	if p == nil {
		return nil
	}
	return &pressure{Some: pressureLine(p.Some), Full: pressureLine(p.Full)}
}
