package client

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/11f9778f/berth/internal/shim/api/pb"
)

// A shim that was asked to rotates the log of its container, and so does its successor; ReopenLog works beside it.
func TestLogRotation(t *testing.T) {
	b := newBench(t)
	b.crash()
	b.cfg.LogSize, b.cfg.LogFiles = 1<<20, 100
	b.open()
	s := b.sandbox("pod1")
	b.run(s, ctr{id: "c1", sandbox: "pod1", args: []string{"sh", "-c", "seq 1 60000; sleep 1; seq 60001 120000"}})
	b.until("the first rotation", func() bool { return len(b.rotated("c1")) > 0 })
	pid := s.Pid()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	b.until("a successor", func() bool { p := s.Pid(); return p != 0 && p != pid })
	if _, err := s.Berth().ReopenLog(b.ctx(), &pb.ReopenLogRequest{Id: "c1"}); err != nil {
		t.Error(err)
	}
	if code := b.wait(s, "c1"); code != 0 {
		t.Errorf("exit code %d", code)
	}
	next := 1
	for _, path := range append(b.rotated("c1"), b.logPath("c1")) {
		text, err := os.ReadFile(path)
		if err != nil || len(text) > 1<<20 {
			t.Errorf("%s: %d bytes, %v", path, len(text), err)
		}
		for line := range strings.Lines(string(text)) {
			if !strings.HasSuffix(line, " stdout F "+strconv.Itoa(next)+"\n") {
				t.Fatalf("%s: %q, want line %d", path, line, next)
			}
			next++
		}
	}
	if next != 120001 {
		t.Errorf("lines end at %d", next-1)
	}
	b.remove(s, "c1")
}

// rotated are the files that a log was put aside in, the oldest first.
func (b *bench) rotated(id string) []string {
	files, err := filepath.Glob(b.logPath(id) + ".*")
	if err != nil {
		b.t.Fatal(err)
	}
	return files
}
