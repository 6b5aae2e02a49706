package test

import (
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// berth logs -f beside a shim that rotates the log again and again: no line is lost or doubled, neither for one that keeps up nor for
// one that is asleep until all is written.
func TestFollowedLogIsRotated(t *testing.T) {
	ref := newWarehouse(t).push("tools/busybox:1", busybox(t))
	m := newMachine(t)
	config := m.file("config.toml", "[shims]\nlog_max_mib = 1\nlog_max_files = 100\n")
	m.begin("--config", config, "node")
	m.eventually("the node answers", m.answers)

	const rounds, each, long = 20, 10_000, 50_000 // a long line is several records
	script := fmt.Sprintf("echo ready; while [ ! -e /go ]; do /bin/busybox sleep 0.02; done; i=0; while [ $i -lt %d ]; do /bin/busybox seq $((i*%d+1)) $((i*%d+%d)); /bin/busybox head -c %d /dev/zero | /bin/busybox tr '\\0' x; echo; i=$((i+1)); done",
		rounds, each, each, each, long)
	app := fmt.Sprintf("  - {name: app, image: %q, command: [sh, -c, %q]}\n", ref, script)
	m.must("run", "-d", m.file("talks.yaml", pod("talks", "restartPolicy: Never", app)))
	awake, asleep := m.begin("logs", "-f", "talks"), m.begin("logs", "-f", "talks")
	awake.says("ready")
	asleep.says("ready")
	asleep.signal(syscall.SIGSTOP)
	m.must("exec", "talks", "--", "/bin/busybox", "touch", "/go")
	first := awake.wait()
	asleep.signal(syscall.SIGCONT)
	second := asleep.wait()

	rotated, err := filepath.Glob(filepath.Join(m.root, "logs", "pods", "*", "app", "0.log.*"))
	if err != nil || len(rotated) < 5 {
		t.Errorf("the log was rotated %d times, %v", len(rotated), err)
	}
	for who, r := range map[string]result{"awake": first, "asleep": second} {
		if r.code != 0 {
			t.Errorf("%s: exit code %d, %s", who, r.code, r.stderr)
		}
		want := 0
		for line := range strings.Lines(r.stdout) {
			expected := "ready\n"
			switch turn := want % (each + 1); {
			case want > 0 && turn == 0:
				expected = strings.Repeat("x", long) + "\n"
			case want > 0:
				expected = fmt.Sprintln(want/(each+1)*each + turn)
			}
			if line != expected {
				t.Errorf("%s: line %d is %.20q, want %.20q", who, want, line, expected)
				break
			}
			want++
		}
		if all := 1 + rounds*(each+1); want != all {
			t.Errorf("%s: %d lines of %d", who, want, all)
		}
	}
	m.must("rm", "talks")
	m.clean()
	stopNode(m)
}
