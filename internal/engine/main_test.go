package engine

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/11f9778f/berth/internal/engine/cgroup"
)

// cgroupParent is where this run's containers are.
func cgroupParent() string { return fmt.Sprintf("/berth-engine-test-%d", os.Getpid()) }

// TestMain removes the parent of all cgroups: one that a failed Create has made has no other owner. A container that is
// left in it fails the run.
func TestMain(m *testing.M) {
	code := m.Run()
	if g, err := cgroup.Load(cgroupParent()); err == nil && g.Exists() {
		pids, _ := g.Pids()
		if err := g.Delete(context.Background()); err != nil || len(pids) > 0 {
			fmt.Fprintf(os.Stderr, "left in %s: processes %v, %v\n", cgroupParent(), pids, err)
			code = max(code, 1)
		}
	}
	os.Exit(code)
}
