package cgroup

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// HugePages counts the use of huge pages of one size, in bytes.
type HugePages struct {
	Usage, Limit uint64 // Limit is Unlimited where there is none
	Peak         uint64 // 0 under v2, which does not tell
	FailCount    uint64 // how often the limit was met
}

// HugePages reads the counters of huge pages by their size ("2MB", as in the spec's pageSize). It is apart from Stats, which many ask
// for often. Without the controller there is none.
func (g *Group) HugePages() (map[string]HugePages, error) {
	r := &reader{g: g}
	if !r.at("hugetlb") {
		return nil, nil
	}
	list := map[string]HugePages{}
	for _, size := range pageSizes() {
		file := "hugetlb." + size + "."
		var p HugePages
		if r.h.V2 {
			p = HugePages{Usage: r.number(file + "current"), Limit: r.limit(file + "max"), FailCount: r.fields(file + "events")["max"]}
		} else {
			p = HugePages{
				Usage: r.number(file + "usage_in_bytes"), Limit: r.limit(file + "limit_in_bytes"),
				Peak: r.number(file + "max_usage_in_bytes"), FailCount: r.number(file + "failcnt"),
			}
		}
		list[size] = p
	}
	if r.err != nil {
		return nil, fmt.Errorf("read counters of huge pages: %w", r.err)
	}
	return list, nil
}

// pageSizes are this machine's sizes of huge pages as cgroup files call them.
func pageSizes() []string {
	entries, err := os.ReadDir("/sys/kernel/mm/hugepages")
	if err != nil {
		return nil // a kernel without
	}
	var list []string
	for _, e := range entries {
		kib, ok := strings.CutPrefix(strings.TrimSuffix(e.Name(), "kB"), "hugepages-")
		n, err := strconv.ParseUint(kib, 10, 64)
		if !ok || err != nil {
			continue
		}
		unit := 0
		for n >= 1024 && n%1024 == 0 && unit < 2 {
			n /= 1024
			unit++
		}
		list = append(list, strconv.FormatUint(n, 10)+[]string{"KB", "MB", "GB"}[unit])
	}
	return list
}

// RDMADevice counts the resources of one RDMA device that are in use, and their limits.
type RDMADevice struct {
	Handles, Objects, HandleLimit, ObjectLimit uint64
}

// RDMA reads the counters of RDMA devices by their names. Without the controller or devices there is none.
func (g *Group) RDMA() (map[string]RDMADevice, error) {
	r := &reader{g: g}
	if !r.at("rdma") {
		return nil, nil
	}
	list := map[string]RDMADevice{}
	for _, file := range []string{"rdma.current", "rdma.max"} {
		for line := range bytes.Lines(bytes.Clone(r.text(file))) { // "mlx4_0 hca_handle=2 hca_object=max"
			f := strings.Fields(string(line))
			if len(f) < 3 {
				continue
			}
			d := list[f[0]]
			handles, objects := &d.Handles, &d.Objects
			if file == "rdma.max" {
				handles, objects = &d.HandleLimit, &d.ObjectLimit
			}
			*handles = parseNumber([]byte(strings.TrimPrefix(f[1], "hca_handle=")))
			*objects = parseNumber([]byte(strings.TrimPrefix(f[2], "hca_object=")))
			list[f[0]] = d
		}
	}
	if r.err != nil {
		return nil, fmt.Errorf("read counters of RDMA devices: %w", r.err)
	}
	return list, nil
}
