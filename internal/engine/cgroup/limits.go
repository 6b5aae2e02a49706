package cgroup

import (
	"fmt"
	"io/fs"
	"strconv"
	"strings"
)

// Limits are the limits that are set: -1 is none, 0 what this machine can't tell. CPU is in microseconds, memory
// in bytes.
type Limits struct {
	CPUQuota, CPUPeriod, Memory int64
}

// Limits reads what the kernel has made of what Apply asked. The error wraps fs.ErrNotExist if the group does not
// exist.
func (g *Group) Limits() (Limits, error) {
	if !g.h.primary.dir.Exists(g.rel) {
		return Limits{}, fmt.Errorf("read limits of cgroup %s: %w", g.Path(), fs.ErrNotExist)
	}
	var l Limits
	r := &reader{g: g}
	if r.at("cpu") {
		if r.h.V2 {
			quota, period, _ := strings.Cut(strings.TrimSpace(string(r.text("cpu.max"))), " ")
			l.CPUQuota, l.CPUPeriod = signed(quota), signed(period)
		} else {
			l.CPUQuota = signed(string(r.text("cpu.cfs_quota_us")))
			l.CPUPeriod = signed(string(r.text("cpu.cfs_period_us")))
		}
	}
	if r.at("memory") {
		file := "memory.limit_in_bytes"
		if r.h.V2 {
			file = "memory.max"
		}
		if text := r.text(file); text != nil {
			l.Memory = -1
			if n := parseNumber(text); atMost(n) != Unlimited {
				l.Memory = int64(n)
			}
		}
	}
	if r.err != nil {
		return Limits{}, fmt.Errorf("read limits of a cgroup: %w", r.err)
	}
	return l, nil
}

// signed reads a number; "max" is -1, nothing 0.
func signed(s string) int64 {
	s = strings.TrimSpace(s)
	if s == "max" {
		return -1
	}
	n, _ := strconv.ParseInt(s, 10, 64)
	return n
}
