package oci

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/11f9778f/berth/internal/engine/criu"
)

// A checkpoint ends the container, unless it shall run on, and another container of the bundle goes on where it was.
func TestCheckpointRestore(t *testing.T) {
	if _, err := criu.Find(t.Context(), ""); err != nil {
		t.Skipf("make criu: %v", err)
	}
	b := newBench(t)
	// Beside what counts there is a process that never looks after its ended child.
	spec := b.configure("sh", "-c", "sh -c 'true & exec sleep 100000' & i=0; while true; do i=$((i+1)); echo $i >/count; sleep 0.05; done")
	spec.Root.Readonly = false
	b.write(spec)
	count := func() int {
		raw, _ := os.ReadFile(filepath.Join(b.bundle, "rootfs/count"))
		n, _ := strconv.Atoi(strings.TrimSpace(string(raw)))
		return n
	}
	counts := func(above int) {
		t.Helper()
		for end := time.Now().Add(2 * time.Minute); count() <= above; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("it does not count above %d", above)
			}
		}
	}
	id, again := b.id(), b.id()
	b.steps(id, []step{{"run -d ID", 0, ""}})
	counts(3)
	b.steps(id, []step{{"checkpoint --leave-running --image-path images-1 ID", 0, ""}})
	counts(count() + 1)
	b.steps(id, []step{{"checkpoint --image-path images-2 --work-path . ID", 0, ""}})
	b.until(id, "stopped")
	last := count()
	b.steps(id, []step{{"checkpoint ID", 1, "not running"}, {"delete ID", 0, ""}, {"restore -d --image-path nowhere ID", 1, "no such file"}, {"state ID", 1, "does not exist"}})
	if err := os.WriteFile(filepath.Join(b.bundle, "rootfs/count"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	b.steps(again, []step{{"restore -d --image-path images-2 --pid-file pid ID", 0, ""}, {"state ID", 0, "running"}})
	counts(last)
	pid, err := os.ReadFile(filepath.Join(b.bundle, "pid"))
	if out, _ := b.ask("state", again); err != nil || !strings.Contains(out, string(pid)) {
		t.Errorf("pid file %q, %v; state %s", pid, err, out)
	}
	b.steps(again, []step{{"exec ID cat /proc/1/cmdline", 0, "/count"}, {"kill ID KILL", 0, ""}})
	b.until(again, "stopped")
	b.steps(again, []step{{"delete ID", 0, ""}})
	if err := os.WriteFile(filepath.Join(b.bundle, "rootfs/count"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	// In the foreground the restored program's end is the command's.
	cmd := b.command("restore", "--image-path", "images-2", again)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	counts(count())
	b.until(again, "running") // it counts before the command has written that down
	b.steps(again, []step{{"kill ID KILL", 0, ""}})
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 137 {
		t.Errorf("restore in the foreground: %v", err)
	}
	b.steps(again, []step{{"state ID", 1, "does not exist"}})
}
