package systemd

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/11f9778f/berth/internal/engine"
	"github.com/11f9778f/berth/internal/engine/cgroup"
)

// The machine's own systemd: test/vm/systemd runs this in a virtual machine.
func TestRealSystemd(t *testing.T) {
	if !Runs() || os.Getuid() != 0 {
		t.Skip("needs root and systemd, which does not run this machine: see test/vm/systemd")
	}
	ctx := context.Background()
	d := &Lazy{}
	pod, err := cgroup.SlicePath("berthtest-pod1.slice")
	if err != nil {
		t.Fatal(err)
	}
	if err := d.StartSlice(ctx, "berthtest-pod1.slice", resources()); err != nil {
		t.Fatal(err)
	}
	checkFile(t, pod, "memory.max", "1073741824")
	checkFile(t, pod, "cpu.max", "25000 100000")
	limit := int64(50)
	if err := d.StartSlice(ctx, "berthtest-pod1.slice", &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &limit}}); err != nil {
		t.Error(err) // it is there, and gets the limit
	}
	checkFile(t, pod, "pids.max", "50")
	spec := scopedSpec(t, "berthtest-pod1.slice")
	c, err := engine.Create(ctx, engine.CreateOptions{ID: "web", Bundle: t.TempDir(), Spec: spec, Scopes: d})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(ctx); err != nil {
		t.Error(err)
	}
	scope := pod + "/berth-web.scope"
	if c.State().CgroupPath != scope || c.State().Scope != "berth-web.scope" {
		t.Errorf("%+v", c.State())
	}
	checkFile(t, scope, "memory.max", "67108864")
	if b, err := os.ReadFile(filepath.Join(unifiedRoot, scope, "cgroup.procs")); err != nil || len(b) == 0 {
		t.Errorf("nobody is in the scope: %v", err)
	}
	more := int64(96 << 20)
	if err := c.Update(ctx, &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &more}}); err != nil {
		t.Error(err)
	}
	if out, err := exec.Command("systemctl", "daemon-reload").CombinedOutput(); err != nil {
		t.Errorf("systemctl daemon-reload: %v: %s", err, out)
	}
	checkFile(t, scope, "memory.max", "100663296") // a reload writes what systemd was told
	checkFile(t, pod, "pids.max", "50")
	p, err := c.Exec(ctx, engine.ExecOptions{ID: "e", Process: &specs.Process{Args: []string{"sh", "-c", "exit 7"}, Cwd: "/", Env: []string{"PATH=/bin"}}})
	if err != nil {
		t.Fatal(err)
	}
	if st, err := p.Wait(ctx); err != nil || st.Code != 7 {
		t.Errorf("exec in a scope: %+v, %v", st, err)
	}
	if st, err := c.Stats(); err != nil || st.Pids.Current == 0 || st.Memory.Limit != uint64(more) {
		t.Errorf("%+v, %v", st, err)
	}
	a, err := engine.Adopt(ctx, c.State(), spec, engine.AdoptOptions{Scopes: d})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Delete(ctx); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"berth-web.scope", "berthtest-pod1.slice", "berthtest-pod1.slice", "berthtest.slice"} {
		if err := d.Stop(ctx, name); err != nil {
			t.Error(err)
		}
	}
	for _, path := range []string{scope, pod, "/berthtest.slice"} {
		if _, err := os.Stat(filepath.Join(unifiedRoot, path)); err == nil {
			t.Errorf("left: %s", path)
		}
	}
}

const unifiedRoot = "/sys/fs/cgroup"

func checkFile(t *testing.T, cgroup, file, want string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(unifiedRoot, cgroup, file))
	if got := strings.TrimSpace(string(b)); err != nil || got != want {
		t.Errorf("%s of %s: %q, %v, want %q", file, cgroup, got, err, want)
	}
}
