package test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// release puts the built binaries into a folder, each as a new file in the place of an old one.
func release(t *testing.T, dir string) {
	t.Helper()
	for _, name := range []string{"berth", "containerd-shim-berth-v1"} {
		data, err := os.ReadFile(binary(name))
		if err != nil {
			t.Fatal(err)
		}
		fresh := filepath.Join(dir, name+".new")
		if err := os.WriteFile(fresh, data, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(fresh, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
}

// outdated tells whether a process executes a file that is not at its path any more, or is about to execute another:
// for a moment its first thread is a zombie then, and has no file.
func outdated(p process) bool {
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", p.pid))
	return err != nil || strings.HasSuffix(exe, " (deleted)")
}

// keepers are the shims that keep pods: all but the spare one.
func (m *machine) keepers() []process {
	var found []process
	records, _ := filepath.Glob(filepath.Join(m.run, "shims", "*", "sandboxes", "*.json"))
	for _, r := range records {
		if s := m.shimOf(strings.TrimSuffix(filepath.Base(r), ".json")); !slices.Contains(found, s) {
			found = append(found, s)
		}
	}
	return found
}

// New binaries are put in place, and the daemon is told: it executes the new one, and so do its shims. All processes stay
// what they are, the pods' and those of Berth.
func TestUpgradeOfDaemonAndShims(t *testing.T) {
	m := newMachine(t)
	bin := filepath.Join(m.dir, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	release(t, bin)
	m.berthBin = filepath.Join(bin, "berth")
	n := m.node()
	for _, name := range []string{"one", "two"} {
		m.must("run", "-d", m.file(name+".yaml", pod(name, "terminationGracePeriodSeconds: 1", container("app", "demo", "show", "--wait", "1h"))))
	}
	before := append(m.running("one", 1), m.running("two", 1)...)
	for range 2 {
		var shims []process
		m.eventually("shims are there, and none is outdated", func() bool {
			shims = m.keepers()
			return len(shims) > 0 && !slices.ContainsFunc(shims, outdated)
		})
		release(t, bin)
		if !slices.ContainsFunc(shims, outdated) {
			t.Fatal("a new file makes no shim outdated: the test tests nothing")
		}
		n.signal(syscall.SIGUSR2)
		m.eventually("the shims execute the new binary", func() bool { return !slices.ContainsFunc(shims, outdated) })
		for _, s := range shims {
			if !s.lives() {
				t.Errorf("shim %d is another process now", s.pid)
			}
		}
		m.eventually("the new daemon answers", m.answers)
		m.must("exec", "one", "--", "/berth", "version")
		if after := append(m.running("one", 1), m.running("two", 1)...); !slices.Equal(before, after) {
			t.Errorf("before %v, after %v", before, after)
		}
	}
	m.must("rm", "one", "two")
	m.must("fsck")
	n.signal(syscall.SIGTERM)
	n.wait()
}
