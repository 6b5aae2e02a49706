package sys

import (
	"os/exec"
	"testing"
	"time"
)

func TestReapOrphanLeavesKnownChildren(t *testing.T) {
	cmd := exec.Command("true")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	seen := 0
	for i := 0; i < 500 && seen != pid; i++ {
		time.Sleep(10 * time.Millisecond)
		got, ok, err := ReapOrphan(func(int) bool { return true })
		if err != nil || ok {
			t.Fatalf("ReapOrphan took %d, %v, %v though every child is known", got, ok, err)
		}
		seen = got
	}
	if seen != pid {
		t.Fatalf("the ended child is %d, ReapOrphan saw %d", pid, seen)
	}
	if got, ok, err := ReapOrphan(func(int) bool { return false }); !ok || got != pid || err != nil {
		t.Fatalf("ReapOrphan = %d, %v, %v; want %d reaped", got, ok, err, pid)
	}
	if err := cmd.Wait(); err == nil {
		t.Fatal("the child could still be waited for")
	}
}
