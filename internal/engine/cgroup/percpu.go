package cgroup

import (
	"bytes"
	"fmt"
)

// PerCPU is CPU time by processor, in nanoseconds. The kernel tells it under v1 alone; else it is empty.
type PerCPU struct {
	Usage, System, User []uint64
}

// PerCPU reads the counters of each processor.
func (g *Group) PerCPU() (p PerCPU, err error) {
	r := &reader{g: g}
	if !r.at("cpuacct") || r.h.V2 {
		return p, nil
	}
	for _, word := range bytes.Fields(r.text("cpuacct.usage_percpu")) {
		p.Usage = append(p.Usage, parseNumber(word))
	}
	for line := range bytes.Lines(r.text("cpuacct.usage_all")) { // "cpu user system" first, then "0 123 45"
		f := bytes.Fields(line)
		if len(f) != 3 || string(f[0]) == "cpu" {
			continue
		}
		p.User, p.System = append(p.User, parseNumber(f[1])), append(p.System, parseNumber(f[2]))
	}
	if r.err != nil {
		return p, fmt.Errorf("read counters of processors: %w", r.err)
	}
	return p, nil
}
