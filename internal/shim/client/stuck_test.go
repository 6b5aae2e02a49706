package client

import (
	"syscall"
	"testing"
	"time"

	"github.com/11f9778f/berth/internal/shim/api/pb"
)

// A stopped shim is replaced after a bound, though nobody calls it; its neighbours notice nothing, and its container loses
// no line.
func TestStoppedShimIsReplaced(t *testing.T) {
	b := newBench(t)
	b.crash()
	b.cfg.StuckTimeout, b.cfg.GroupSize = time.Second, 1
	b.open()
	s, other := b.sandbox("pod1"), b.sandbox("pod2")
	b.run(s, counting("c1"))
	b.run(other, ctr{id: "c2", sandbox: "pod2", args: []string{"sleep", "1000"}})
	old := s.Pid()
	if old == other.Pid() {
		t.Fatal("the two pods share a shim")
	}
	b.stop(old)
	if resp, err := other.ExecSync(b.ctx(), "c2", program("true"), 0, 0); err != nil || resp.Exit.Code != 0 {
		t.Errorf("the neighbour: %v, %v", resp, err)
	}
	b.event("stuck", kindOf(EventShimStuck))
	b.event("replaced", kindOf(EventShimReplaced))
	if s.Pid() == old || syscall.Kill(old, 0) == nil {
		t.Errorf("shim %d is still there", old)
	}
	if _, err := s.Berth().List(b.ctx(), &pb.ListRequest{}); err != nil {
		t.Error(err)
	}
	b.stopCounting("c1")
	b.wait(s, "c1")
	b.checkCount("c1")
	b.remove(s, "c1")
	b.remove(other, "c2")
}
