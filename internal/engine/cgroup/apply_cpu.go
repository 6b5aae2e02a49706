package cgroup

import (
	"fmt"
	"math"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func (g *Group) applyCPU(r *specs.LinuxResources) error {
	c := r.CPU
	if c == nil || !given(c.Shares) && !given(c.Quota) && !given(c.Period) && c.Burst == nil && c.Idle == nil &&
		!given(c.RealtimeRuntime) && !given(c.RealtimePeriod) {
		return nil
	}
	room, err := g.room("cpu")
	if err != nil {
		return err
	}
	if err := room.setWeight(c); err != nil {
		return err
	}
	if room.h.V2 {
		return room.setBandwidthV2(c)
	}
	return room.setBandwidthV1(c)
}

// setWeight sets shares and idleness. The weight of an idle group can't be set, so a group that becomes
// idle gets its weight before, one that ceases to be idle after.
func (r room) setWeight(c *specs.LinuxCPU) error {
	if c.Idle != nil && *c.Idle == 0 {
		if err := r.set("cpu.idle", "0"); err != nil {
			return err
		}
	}
	if given(c.Shares) {
		file, value := "cpu.shares", *c.Shares
		if r.h.V2 {
			file, value = "cpu.weight", WeightOfShares(value)
		}
		if err := r.set(file, number(value)); err != nil {
			return err
		}
	}
	if given(c.Idle) {
		return r.set("cpu.idle", number(*c.Idle))
	}
	return nil
}

func (r room) setBandwidthV1(c *specs.LinuxCPU) error {
	var todo []change
	if given(c.Period) {
		todo = append(todo, change{"cpu.cfs_period_us", number(*c.Period)})
	}
	if given(c.Quota) {
		todo = append(todo, change{"cpu.cfs_quota_us", number(max(*c.Quota, -1))})
	}
	if c.Burst != nil {
		todo = append(todo, change{"cpu.cfs_burst_us", number(*c.Burst)})
	}
	if given(c.RealtimePeriod) {
		todo = append(todo, change{"cpu.rt_period_us", number(*c.RealtimePeriod)})
	}
	if given(c.RealtimeRuntime) {
		todo = append(todo, change{"cpu.rt_runtime_us", number(*c.RealtimeRuntime)})
	}
	return r.settle(todo)
}

func (r room) setBandwidthV2(c *specs.LinuxCPU) error {
	if given(c.RealtimePeriod) || given(c.RealtimeRuntime) {
		return fmt.Errorf("%w: cgroup v2 has no realtime runtime or period", ErrUnsupported)
	}
	var todo []change
	if given(c.Quota) || given(c.Period) {
		quota := "max"
		switch {
		case given(c.Quota):
			quota = limit(*c.Quota)
		default: // the period alone changes; the kernel wants both
			now, err := r.get("cpu.max")
			if err != nil {
				return err
			}
			quota = now
		}
		if given(c.Period) {
			quota += " " + number(*c.Period)
		}
		todo = append(todo, change{"cpu.max", quota})
	}
	if c.Burst != nil {
		todo = append(todo, change{"cpu.max.burst", strconv.FormatUint(*c.Burst, 10)})
	}
	return r.settle(todo)
}

// WeightOfShares converts v1's shares (2 to 262144, default 1024) to v2's weight (1 to 10000, default
// 100) by the quadratic function on logarithms that meets all three points; container runtimes
// agreed on it in 2025.
func WeightOfShares(shares uint64) uint64 {
	switch {
	case shares <= 2:
		return 1
	case shares >= 262144:
		return 10000
	}
	l := math.Log2(float64(shares))
	return uint64(math.Ceil(math.Pow(10, (l*l+125*l)/612-7.0/34)))
}

func (g *Group) applyCpuset(r *specs.LinuxResources) error {
	if r.CPU == nil || r.CPU.Cpus == "" && r.CPU.Mems == "" {
		return nil
	}
	room, err := g.room("cpuset")
	if err != nil {
		return err
	}
	if r.CPU.Cpus != "" {
		if err := room.set("cpuset.cpus", r.CPU.Cpus); err != nil {
			return err
		}
	}
	if r.CPU.Mems != "" {
		return room.set("cpuset.mems", r.CPU.Mems)
	}
	return nil
}
