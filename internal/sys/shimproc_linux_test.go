package sys

import (
	"errors"
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
	for i := 0; i < 12000 && seen != pid; i++ {
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

func TestPidFDExit(t *testing.T) {
	cmd := exec.Command("sh", "-c", "read x; exit 42")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	pidfd, err := OpenPidFD(pid)
	if err != nil {
		t.Fatal(err)
	}
	defer pidfd.Close()
	if ws, err := PidFDExit(pidfd, pid); !errors.Is(err, ErrNoExit) {
		t.Errorf("of a living process: %v, %v", ws, err)
	}
	in.Close()
	for range 12000 {
		if _, ok := zombieExit(pid); ok {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if ws, err := PidFDExit(pidfd, pid); err != nil || ws.ExitStatus() != 42 {
		t.Errorf("of a zombie: %v, %v", ws, err)
	}
	cmd.Wait()
	ws, err := PidFDExit(pidfd, pid)
	if errors.Is(err, ErrNoExit) {
		t.Skip("this kernel does not keep the exit status (Linux 6.15 does)")
	}
	if err != nil || ws.ExitStatus() != 42 {
		t.Errorf("of a process that was waited for: %v, %v", ws, err)
	}
}
