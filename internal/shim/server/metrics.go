package server

import (
	"fmt"
	"strconv"

	stats1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	stats2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/11f9778f/berth/internal/engine/cgroup"
)

// metrics makes of counters what a stock containerd and its clients read. Which of the two messages it is tells them which
// cgroups the machine has.
func metrics(s *cgroup.Stats) (*anypb.Any, error) {
	var m proto.Message = metricsV1(s)
	url := "io.containerd.cgroups.v1.Metrics"
	if s.Unified {
		m, url = metricsV2(s), "io.containerd.cgroups.v2.Metrics"
	}
	b, err := proto.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	return &anypb.Any{TypeUrl: url, Value: b}, nil
}

func metricsV1(s *cgroup.Stats) *stats1.Metrics {
	inactive := s.Memory.Usage - s.Memory.WorkingSet
	return &stats1.Metrics{
		Pids: &stats1.PidsStat{Current: s.Pids.Current, Limit: zeroIfUnlimited(s.Pids.Limit)},
		CPU: &stats1.CPUStat{
			Usage:      &stats1.CPUUsage{Total: s.CPU.Usage, Kernel: s.CPU.System, User: s.CPU.User},
			Throttling: &stats1.Throttle{Periods: s.CPU.Periods, ThrottledPeriods: s.CPU.Throttled, ThrottledTime: s.CPU.ThrottledTime},
		},
		Memory: &stats1.MemoryStat{
			Cache: s.Memory.Cache, RSS: s.Memory.RSS, PgFault: s.Memory.PageFaults, PgMajFault: s.Memory.MajorPageFaults, InactiveFile: inactive,
			TotalCache: s.Memory.Cache, TotalRSS: s.Memory.RSS, TotalPgFault: s.Memory.PageFaults, TotalPgMajFault: s.Memory.MajorPageFaults,
			TotalInactiveFile: inactive, HierarchicalMemoryLimit: s.Memory.Limit,
			Usage: &stats1.MemoryEntry{Limit: s.Memory.Limit, Usage: s.Memory.Usage, Max: s.Memory.Peak, Failcnt: s.Memory.FailCount},
			Swap:  &stats1.MemoryEntry{Limit: plus(s.Memory.Limit, s.Memory.SwapLimit), Usage: s.Memory.Usage + s.Memory.Swap},
		},
		MemoryOomControl: &stats1.MemoryOomControl{OomKill: s.Memory.OOMKills},
		Blkio:            blkio(s.IO.Devices),
	}
}

func blkio(devices []cgroup.DeviceIO) *stats1.BlkIOStat {
	b := &stats1.BlkIOStat{}
	for _, d := range devices {
		entry := func(op string, value uint64) *stats1.BlkIOEntry {
			name := strconv.Itoa(int(d.Major)) + ":" + strconv.Itoa(int(d.Minor))
			return &stats1.BlkIOEntry{Op: op, Device: name, Major: uint64(d.Major), Minor: uint64(d.Minor), Value: value}
		}
		b.IoServiceBytesRecursive = append(b.IoServiceBytesRecursive, entry("Read", d.ReadBytes), entry("Write", d.WriteBytes))
		b.IoServicedRecursive = append(b.IoServicedRecursive, entry("Read", d.ReadOps), entry("Write", d.WriteOps))
	}
	return b
}

func metricsV2(s *cgroup.Stats) *stats2.Metrics {
	m := &stats2.Metrics{
		Pids: &stats2.PidsStat{Current: s.Pids.Current, Limit: zeroIfUnlimited(s.Pids.Limit)},
		CPU: &stats2.CPUStat{
			UsageUsec: s.CPU.Usage / 1000, UserUsec: s.CPU.User / 1000, SystemUsec: s.CPU.System / 1000,
			NrPeriods: s.CPU.Periods, NrThrottled: s.CPU.Throttled, ThrottledUsec: s.CPU.ThrottledTime / 1000, PSI: psi(s.CPU.Pressure),
		},
		Memory: &stats2.MemoryStat{
			Anon: s.Memory.RSS, File: s.Memory.Cache, InactiveFile: s.Memory.Usage - s.Memory.WorkingSet,
			Pgfault: s.Memory.PageFaults, Pgmajfault: s.Memory.MajorPageFaults, Usage: s.Memory.Usage, UsageLimit: s.Memory.Limit,
			SwapUsage: s.Memory.Swap, SwapLimit: s.Memory.SwapLimit, MaxUsage: s.Memory.Peak, PSI: psi(s.Memory.Pressure),
		},
		MemoryEvents: &stats2.MemoryEvents{Max: s.Memory.FailCount, OomKill: s.Memory.OOMKills},
		Io:           &stats2.IOStat{PSI: psi(s.IO.Pressure)},
	}
	for _, d := range s.IO.Devices {
		m.Io.Usage = append(m.Io.Usage, &stats2.IOEntry{
			Major: uint64(d.Major), Minor: uint64(d.Minor), Rbytes: d.ReadBytes, Wbytes: d.WriteBytes, Rios: d.ReadOps, Wios: d.WriteOps,
		})
	}
	return m
}

func psi(p *cgroup.Pressure) *stats2.PSIStats {
	if p == nil {
		return nil
	}
	line := func(l cgroup.PressureLine) *stats2.PSIData {
		return &stats2.PSIData{Avg10: l.Avg10, Avg60: l.Avg60, Avg300: l.Avg300, Total: l.Total}
	}
	return &stats2.PSIStats{Some: line(p.Some), Full: line(p.Full)}
}

// zeroIfUnlimited is how containerd's clients know a number of processes without a limit.
func zeroIfUnlimited(limit uint64) uint64 {
	if limit == cgroup.Unlimited {
		return 0
	}
	return limit
}

func plus(a, b uint64) uint64 {
	if a == cgroup.Unlimited || b == cgroup.Unlimited {
		return cgroup.Unlimited
	}
	return a + b
}
