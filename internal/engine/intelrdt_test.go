package engine

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// fakeResctrl is a directory that looks like the filesystem where a class "there" has been made by somebody.
func fakeResctrl(t *testing.T, ids ...string) string {
	t.Helper()
	root := t.TempDir()
	for _, id := range append(ids, "there", ".") {
		if err := os.MkdirAll(filepath.Join(root, id, "mon_groups"), 0o755); err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string]string{"tasks": "", "schemata": "    L3:0=ff;1=ff\n    MB:0=100\n"} {
			if err := os.WriteFile(filepath.Join(root, id, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	return root
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestRDTClassThatIsThere(t *testing.T) {
	root := fakeResctrl(t)
	for _, tc := range []struct {
		spec specs.LinuxIntelRdt
		want string // part of the error
	}{
		{specs.LinuxIntelRdt{ClosID: "there"}, ""},
		{specs.LinuxIntelRdt{ClosID: "/"}, ""},
		{specs.LinuxIntelRdt{ClosID: "there", L3CacheSchema: "L3:0=ff;1=ff", MemBwSchema: "MB:0=100"}, ""},
		{specs.LinuxIntelRdt{ClosID: "there", Schemata: []string{"L3:0=f"}}, "has not the schema"},
		{specs.LinuxIntelRdt{ClosID: "missing"}, "does not exist"},
	} {
		r := &rdt{root: root, id: "container", spec: &tc.spec}
		err := r.assign(42)
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%+v: %v", tc.spec, err)
		}
		if err == nil && read(t, filepath.Join(r.group(), "tasks")) != "42" {
			t.Errorf("%+v: the process is not in it", tc.spec)
		}
		if err := r.remove(); err != nil {
			t.Errorf("%+v: %v", tc.spec, err)
		}
	}
	if _, err := os.Stat(filepath.Join(root, "missing")); err == nil {
		t.Error("a class was left")
	}
	if _, err := os.Stat(filepath.Join(root, "there")); err != nil {
		t.Error("a class of somebody else's was removed")
	}
}

func TestRDTNeedsResctrl(t *testing.T) {
	if strings.Contains(read(t, "/proc/self/mounts"), " resctrl ") {
		t.Skip("this machine has resctrl")
	}
	o := options(t, "true")
	o.Spec.Linux.IntelRdt = &specs.LinuxIntelRdt{L3CacheSchema: "L3:0=1"}
	if _, err := Create(context.Background(), o); err == nil || !strings.Contains(err.Error(), "linux.intelRdt: no resctrl") {
		t.Errorf("got %v", err)
	}
	o.Spec.Linux.IntelRdt = &specs.LinuxIntelRdt{ClosID: "../x"}
	if _, err := Create(context.Background(), o); err == nil || !strings.Contains(err.Error(), "linux.intelRdt.closID") {
		t.Errorf("got %v", err)
	}
}
