package sys

import (
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestSlackTimers: what is executed inherits the slack, but not what Punctual starts.
func TestSlackTimers(t *testing.T) {
	runtime.LockOSThread() // one that is there already
	defer runtime.UnlockOSThread()
	if err := SlackTimers(time.Millisecond); err != nil {
		t.Skipf("it takes CAP_SYS_NICE: %v", err)
	}
	t.Cleanup(func() { _ = SlackTimers(usualSlack) })
	slack := func(run func(*exec.Cmd) error) string {
		cmd := exec.Command("cat", "/proc/self/timerslack_ns")
		var out strings.Builder
		cmd.Stdout = &out
		if err := run(cmd); err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(out.String())
	}
	for range 3 { // the thread's own comes back each time
		if got := slack(RunPunctual); got != "50000" {
			t.Errorf("started by Punctual: slack of %s ns, want 50000", got)
		}
		if got := slack((*exec.Cmd).Run); got != "1000000" {
			t.Errorf("started without: slack of %s ns, want 1000000", got)
		}
	}
}
