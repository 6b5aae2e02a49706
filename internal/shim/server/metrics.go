package server

import (
	"strconv"

	"github.com/11f9778f/berth/internal/engine/cgroup"
	"github.com/11f9778f/berth/internal/shim/api/containerd"
	"github.com/11f9778f/berth/internal/shim/wire"
)

// metrics makes of counters what a stock containerd and its clients read. Which of the two messages it is tells them which
// cgroups the machine has.
func metrics(s *cgroup.Stats) *wire.Any {
	if s.Unified {
		return &wire.Any{TypeURL: "io.containerd.cgroups.v2.Metrics", Value: wire.Marshal(metricsV2(s))}
	}
	return &wire.Any{TypeURL: "io.containerd.cgroups.v1.Metrics", Value: wire.Marshal(metricsV1(s))}
}

func metricsV1(s *cgroup.Stats) *containerd.MetricsV1 {
	inactive := s.Memory.Usage - s.Memory.WorkingSet
	return &containerd.MetricsV1{
		Pids: &containerd.PidsStat{Current: s.Pids.Current, Limit: zeroIfUnlimited(s.Pids.Limit)},
		CPU: &containerd.CPUStatV1{
			Usage:      &containerd.CPUUsage{Total: s.CPU.Usage, Kernel: s.CPU.System, User: s.CPU.User},
			Throttling: &containerd.Throttle{Periods: s.CPU.Periods, ThrottledPeriods: s.CPU.Throttled, ThrottledTime: s.CPU.ThrottledTime},
		},
		Memory: &containerd.MemoryStatV1{
			Cache: s.Memory.Cache, RSS: s.Memory.RSS, PgFault: s.Memory.PageFaults, PgMajFault: s.Memory.MajorPageFaults, InactiveFile: inactive,
			TotalCache: s.Memory.Cache, TotalRSS: s.Memory.RSS, TotalPgFault: s.Memory.PageFaults, TotalPgMajFault: s.Memory.MajorPageFaults,
			TotalInactiveFile: inactive, HierarchicalMemoryLimit: s.Memory.Limit,
			Usage: &containerd.MemoryEntry{Limit: s.Memory.Limit, Usage: s.Memory.Usage, Max: s.Memory.Peak, Failcnt: s.Memory.FailCount},
			Swap:  &containerd.MemoryEntry{Limit: plus(s.Memory.Limit, s.Memory.SwapLimit), Usage: s.Memory.Usage + s.Memory.Swap},
		},
		MemoryOomControl: &containerd.MemoryOomControl{OomKill: s.Memory.OOMKills},
		Blkio:            blkio(s.IO.Devices),
	}
}

func blkio(devices []cgroup.DeviceIO) *containerd.BlkIOStat {
	b := &containerd.BlkIOStat{}
	for _, d := range devices {
		entry := func(op string, value uint64) *containerd.BlkIOEntry {
			name := strconv.Itoa(int(d.Major)) + ":" + strconv.Itoa(int(d.Minor))
			return &containerd.BlkIOEntry{Op: op, Device: name, Major: uint64(d.Major), Minor: uint64(d.Minor), Value: value}
		}
		b.IOServiceBytesRecursive = append(b.IOServiceBytesRecursive, entry("Read", d.ReadBytes), entry("Write", d.WriteBytes))
		b.IOServicedRecursive = append(b.IOServicedRecursive, entry("Read", d.ReadOps), entry("Write", d.WriteOps))
	}
	return b
}

func metricsV2(s *cgroup.Stats) *containerd.MetricsV2 {
	m := &containerd.MetricsV2{
		Pids: &containerd.PidsStat{Current: s.Pids.Current, Limit: zeroIfUnlimited(s.Pids.Limit)},
		CPU: &containerd.CPUStatV2{
			UsageUsec: s.CPU.Usage / 1000, UserUsec: s.CPU.User / 1000, SystemUsec: s.CPU.System / 1000,
			NrPeriods: s.CPU.Periods, NrThrottled: s.CPU.Throttled, ThrottledUsec: s.CPU.ThrottledTime / 1000, PSI: psi(s.CPU.Pressure),
		},
		Memory: &containerd.MemoryStatV2{
			Anon: s.Memory.RSS, File: s.Memory.Cache, InactiveFile: s.Memory.Usage - s.Memory.WorkingSet,
			Pgfault: s.Memory.PageFaults, Pgmajfault: s.Memory.MajorPageFaults, Usage: s.Memory.Usage, UsageLimit: s.Memory.Limit,
			SwapUsage: s.Memory.Swap, SwapLimit: s.Memory.SwapLimit, MaxUsage: s.Memory.Peak, PSI: psi(s.Memory.Pressure),
		},
		MemoryEvents: &containerd.MemoryEvents{Max: s.Memory.FailCount, OomKill: s.Memory.OOMKills},
		IO:           &containerd.IOStat{PSI: psi(s.IO.Pressure)},
	}
	for _, d := range s.IO.Devices {
		m.IO.Usage = append(m.IO.Usage, &containerd.IOEntry{
			Major: uint64(d.Major), Minor: uint64(d.Minor), Rbytes: d.ReadBytes, Wbytes: d.WriteBytes, Rios: d.ReadOps, Wios: d.WriteOps,
		})
	}
	return m
}

func psi(p *cgroup.Pressure) *containerd.PSIStats {
	if p == nil {
		return nil
	}
	line := func(l cgroup.PressureLine) *containerd.PSIData {
		return &containerd.PSIData{Avg10: l.Avg10, Avg60: l.Avg60, Avg300: l.Avg300, Total: l.Total}
	}
	return &containerd.PSIStats{Some: line(p.Some), Full: line(p.Full)}
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
