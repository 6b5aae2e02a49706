package cgroup

import "time"

// Unlimited is the value of a limit that is not set.
const Unlimited = ^uint64(0)

// Stats is what the kernel has counted for a group and its children. What a missing controller would
// count is zero; limits of missing controllers are Unlimited.
type Stats struct {
	// At is when the counters were read.
	At time.Time
	// Unified tells that they are those of cgroup v2.
	Unified bool
	CPU     CPUStats
	Memory  MemoryStats
	Pids    PidsStats
	IO      IOStats
}

// CPUStats counts time in nanoseconds since the group was made.
type CPUStats struct {
	Usage, User, System uint64
	// Periods is how many quota periods have passed, Throttled in how many of them the group was
	// stopped for having used its quota up, ThrottledTime for how many nanoseconds.
	Periods, Throttled, ThrottledTime uint64
	// Pressure is nil where the kernel does not tell (always under pure v1).
	Pressure *Pressure
}

// MemoryStats are bytes, unless said otherwise.
type MemoryStats struct {
	// Usage is all memory charged to the group; WorkingSet is Usage without file pages that were not
	// used of late (inactive_file), as Kubernetes defines it.
	Usage, WorkingSet uint64
	// RSS is anonymous memory, Cache file memory, Swap what is swapped out.
	RSS, Cache, Swap uint64
	// Peak is the highest Usage so far, 0 where the kernel does not tell.
	Peak uint64
	// Limit is this group's own, Unlimited if it has none. SwapLimit is of swap alone.
	Limit, SwapLimit uint64
	// FailCount is how often an allocation met the limit.
	FailCount uint64
	// OOMKills is how many processes of the group the OOM killer has ended.
	OOMKills uint64
	// PageFaults and MajorPageFaults are counts.
	PageFaults, MajorPageFaults uint64
	Pressure                    *Pressure
}

// PidsStats counts processes and threads.
type PidsStats struct {
	Current, Limit uint64
}

// IOStats counts what reached block devices.
type IOStats struct {
	ReadBytes, WriteBytes, ReadOps, WriteOps uint64
	Devices                                  []DeviceIO
	Pressure                                 *Pressure
}

// DeviceIO is the share of one block device in IOStats.
type DeviceIO struct {
	Major, Minor                             uint32
	ReadBytes, WriteBytes, ReadOps, WriteOps uint64
}

// Pressure tells how much work waited (kernel's Documentation/accounting/psi.rst).
type Pressure struct {
	// Some is the share of time in which at least one task waited, Full in which all did.
	Some, Full PressureLine
}

// PressureLine holds per cents over 10 s, 60 s and 300 s, and the total wait in microseconds.
type PressureLine struct {
	Avg10, Avg60, Avg300 float64
	Total                uint64
}
