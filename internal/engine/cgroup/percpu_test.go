package cgroup

import (
	"slices"
	"testing"
)

// The processors' shares add up to what the whole group has used.
func TestPerCPU(t *testing.T) {
	hs, err := Local()
	if err != nil {
		t.Skip(err)
	}
	if h := hs.find("cpuacct"); h == nil || h.V2 {
		t.Skip("the kernel counts by processor under cgroup v1 alone")
	}
	g := &Group{h: hs, rel: "."}
	p, err := g.PerCPU()
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Usage) == 0 || len(p.User) == 0 || len(p.User) != len(p.System) || slices.Max(p.Usage) == 0 {
		t.Errorf("%+v", p)
	}
}
