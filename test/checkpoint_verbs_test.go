package test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// counted are the numbers that a pod's container has counted.
func (m *machine) counted(pod string) []int {
	var out []int
	for line := range strings.Lines(m.berth("logs", pod, "-c", "app").stdout) {
		if n, err := strconv.Atoi(strings.TrimSpace(line)); err == nil {
			out = append(out, n)
		}
	}
	return out
}

// berth checkpoint and berth restore: a pod goes on under another name where it was, and is an ordinary pod.
func TestCheckpointVerbs(t *testing.T) {
	needsCRIU(t)
	ref := newWarehouse(t).push("tools/busybox:1", busybox(t))
	m := newMachine(t)
	m.node()
	app := fmt.Sprintf("  - {name: app, image: %q, command: [sh, -c, %q]}\n", ref, counting)
	m.must("run", "-d", m.file("count.yaml", pod("count", "terminationGracePeriodSeconds: 1\nrestartPolicy: Always", app, container("other", "demo", "show", "--wait", "1h"))))
	m.eventually("it counts", func() bool { return len(m.counted("count")) > 3 })

	folder := filepath.Join(m.dir, "saved")
	for what, args := range map[string][]string{
		"no pod": {"checkpoint", "nobody", "--to", folder}, "no container": {"checkpoint", "count", "--to", folder, "-c", "nobody"},
		"a folder with files": {"checkpoint", "count", "--to", m.dir}, "no folder": {"checkpoint", "count", "--to", folder + "/a/b"},
		"no checkpoint": {"restore", m.dir}, "no --to": {"checkpoint", "count"},
	} {
		if r := m.berth(args...); r.code == 0 || !strings.HasPrefix(sentenceOf(t, r), "berth: ") {
			t.Errorf("%s: exit code %d, %s", what, r.code, r.stderr)
		}
	}
	if _, err := os.Stat(folder); err == nil {
		t.Error("a refused checkpoint left its folder")
	}
	var done struct {
		Pod, Folder string
		Containers  []string
	}
	if out := m.must("checkpoint", "count", "--to", folder, "-c", "app", "-o", "json").stdout; json.Unmarshal([]byte(out), &done) != nil ||
		done.Pod != "default/count" || done.Folder != folder || len(done.Containers) != 1 || done.Containers[0] != "app" {
		t.Errorf("berth checkpoint -o json: %s", out)
	}
	saved := m.counted("count")
	m.eventually("it counts on", func() bool { return len(m.counted("count")) > len(saved)+1 })
	m.must("rm", "count")

	var made struct {
		Pod        string
		Containers map[string]string
	}
	if out := m.must("restore", folder, "--name", "again", "-o", "json").stdout; json.Unmarshal([]byte(out), &made) != nil || made.Pod != "again" || !strings.HasPrefix(made.Containers["app"], "sha256:") {
		t.Errorf("berth restore -o json: %s", out)
	}
	m.eventually("the restored one counts on", func() bool { return len(m.counted("again")) > 1 })
	if n := m.counted("again")[0]; n < 3 {
		t.Errorf("the restored container began with %d", n)
	}
	if got := m.must("exec", "again", "-c", "app", "--", "cat", "/new").stdout; got != "mine\n" {
		t.Errorf("a file that it had written: %q", got)
	}
	m.must("exec", "again", "-c", "other", "--", "/berth", "version") // it was not in the checkpoint, and started anew
	m.must("rm", "again")
	m.clean()
	stopNode(m)
}
