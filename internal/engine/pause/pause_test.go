package pause

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// As the first process of a namespace it lives on through SIGTERM and reaps orphans.
func TestPause(t *testing.T) {
	b, err := Program()
	if err != nil {
		t.Fatal(err)
	}
	if len(b) > 512 {
		t.Errorf("it has grown to %d bytes", len(b))
	}
	bin := filepath.Join(t.TempDir(), "pause")
	if err := os.WriteFile(bin, b, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bin)
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	ignored := func() bool {
		s, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
		for line := range strings.Lines(string(s)) {
			if v, ok := strings.CutPrefix(line, "SigIgn:"); ok {
				set, err := strconv.ParseUint(strings.TrimSpace(v), 16, 64)
				return err == nil && set&(1<<(syscall.SIGCHLD-1)) != 0
			}
		}
		return false
	}
	for deadline := time.Now().Add(2 * time.Minute); !ignored(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not ignore SIGCHLD")
		}
	}
	if os.Geteuid() != 0 {
		return
	}
	cmd.Process.Signal(syscall.SIGTERM)
	time.Sleep(50 * time.Millisecond)
	if s, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", cmd.Process.Pid)); !strings.Contains(string(s), " S ") {
		t.Errorf("after SIGTERM: %s", s)
	}
}
