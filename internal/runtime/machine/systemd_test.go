package machine_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/11f9778f/berth/internal/engine/cgroup"
	"github.com/11f9778f/berth/internal/engine/systemd/systemdtest"
	"github.com/11f9778f/berth/internal/runtime"
)

// systemdPlace is a place whose cgroups a systemd of the test's own makes.
func systemdPlace(t *testing.T, p place) (place, *systemdtest.Manager) {
	p.Systemd = true
	m := systemdtest.New(t)
	t.Cleanup(func() { // before the place is looked at
		if left := m.Units(); len(left) > 0 {
			t.Errorf("left units: %v", left)
		}
		if err := p.kernel().RemoveCgroup(context.Background(), p.cgroup()); err != nil {
			t.Error(err)
		}
	})
	return p, m
}

// cgroupOf is what the kernel tells of a process.
func cgroupOf(t *testing.T, pid int) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cgroup"))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// A pod whose cgroups systemd makes: its own is a slice with its limits, and its containers' are scopes in it, through
// updates, the death of its shim, a restart of the daemon, and its end.
func TestSystemdDriver(t *testing.T) {
	p, m := systemdPlace(t, newPlace(t))
	d, err := openDaemon(context.Background(), p, logger(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	pod := p.pod("web", false)
	pod.Namespaces.PID = runtime.NamespacePod // with a keeper
	pod.Resources = &runtime.Resources{MemoryLimit: 256 << 20, CPUShares: 512}
	sb, err := d.rt.RunSandbox(ctx, pod)
	if err != nil {
		t.Fatal(err)
	}
	slice := "berthtest" + p.Name + "-poduid_web.slice"
	if st, _ := d.rt.Sandbox(sb); st.CgroupPath != p.cgroup()+"/"+slice || !st.SystemdCgroup {
		t.Errorf("%+v", st)
	}
	c, err := d.start(ctx, sb, shell("main", "trap 'exit 3' TERM; while :; do sleep 0.1; done"))
	if err != nil {
		t.Fatal(err)
	}
	scope := "cri-berth-" + c + ".scope"
	st, _ := d.rt.Container(c)
	if m.Property(scope, "Slice") != slice || !strings.Contains(cgroupOf(t, st.Pid), ":"+p.cgroup()+"/"+slice+"/"+scope+"\n") {
		t.Errorf("slice %v, process in %s", m.Property(scope, "Slice"), cgroupOf(t, st.Pid))
	}
	d.checkUnits(t, m, sb, slice, c, scope)
	for _, g := range d.shims.Inventory().Groups {
		syscall.Kill(g.Pid, syscall.SIGKILL)
	}
	eventually(t, "the shim's successor answers", func() bool {
		r, err := d.rt.ExecSync(ctx, c, []string{"echo", "here"}, 0)
		return err == nil && string(r.Stdout) == "here\n"
	})
	d.close()
	m.Disconnect() // the bus was restarted, too
	d = p.open(t)
	if after, err := d.rt.Container(c); err != nil || after.State != runtime.ContainerRunning || after.Pid != st.Pid {
		t.Errorf("%+v, %v", after, err)
	}
	if rep, err := d.rt.Fsck(ctx, false); err != nil || !rep.Clean() {
		t.Errorf("fsck: %+v, %v", rep, err)
	}
	if err := d.rt.StopContainer(ctx, c, 20*time.Second); err != nil {
		t.Fatal(err)
	}
	if st, _ := d.rt.Container(c); st.ExitCode != 3 {
		t.Errorf("%+v", st)
	}
	if err := d.rt.RemoveSandbox(ctx, sb); err != nil {
		t.Fatal(err)
	}
	d.checkEmpty(t)
}

// checkUnits changes limits and reads statistics.
func (d *daemon) checkUnits(t *testing.T, m *systemdtest.Manager, sb, slice, c, scope string) {
	t.Helper()
	ctx := context.Background()
	if err := d.rt.UpdateSandboxResources(ctx, sb, runtime.Resources{}, runtime.Resources{MemoryLimit: 512 << 20}); err != nil {
		t.Error(err)
	}
	if err := d.rt.UpdateResources(ctx, c, runtime.Resources{MemoryLimit: 64 << 20}); err != nil {
		t.Error(err)
	}
	for unit, want := range map[string]uint64{slice: 512 << 20, scope: 64 << 20} {
		v1, v2 := m.Property(unit, "MemoryLimit"), m.Property(unit, "MemoryMax")
		if v1 != want && v2 != want {
			t.Errorf("%s: %v, %v", unit, v1, v2)
		}
	}
	if st, err := d.rt.ContainerStats(ctx, c); err != nil || st.Cgroup.MemoryUsage == 0 || st.Cgroup.MemoryLimit != 64<<20 {
		t.Errorf("%+v, %v", st, err)
	}
	if st, err := d.rt.SandboxStats(ctx, sb); err != nil || st.Cgroup.MemoryUsage == 0 || st.Cgroup.MemoryLimit != 512<<20 {
		t.Errorf("%+v, %v", st, err)
	}
}

// A slice that the kubelet has made stays the kubelet's, and what is no slice is refused.
func TestSystemdSliceOfKubelet(t *testing.T) {
	p, m := systemdPlace(t, newPlace(t))
	d := p.open(t)
	ctx := context.Background()
	pod := p.pod("theirs", true)
	for _, bad := range []string{"/kubepods/pod1", "kubepods", "/other.slice/kubepods-pod1.slice", "-.slice", "a--b.slice", "/a.slice/../b.slice"} {
		pod.CgroupParent = bad
		if _, err := d.rt.RunSandbox(ctx, pod); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), bad) {
			t.Errorf("%s: %v", bad, err)
		}
	}
	top := "berthkubelet" + p.Name
	kubelet := p.kernel()
	theirs, err := cgroup.SlicePath(top + "-pod1.slice")
	if err != nil {
		t.Fatal(err)
	}
	if err := kubelet.CreateCgroup(ctx, theirs, nil); err != nil {
		t.Fatal(err)
	}
	for _, given := range []string{theirs, top + "-pod1.slice"} {
		pod.CgroupParent = given
		sb, err := d.rt.RunSandbox(ctx, pod)
		if err != nil {
			t.Fatal(err)
		}
		c, err := d.start(ctx, sb, shell("main", "sleep 1000"))
		if err != nil {
			t.Fatal(err)
		}
		if st, _ := d.rt.Container(c); st.CgroupPath != theirs+"/cri-berth-"+c+".scope" {
			t.Error(st.CgroupPath)
		}
		if err := d.rt.RemoveSandbox(ctx, sb); err != nil {
			t.Fatal(err)
		}
	}
	if units := m.Units(); len(units) != 1 || units[0] != top+"-pod1.slice" || !kubelet.CgroupExists(theirs) {
		t.Errorf("the kubelet's slice is gone: %v", units)
	}
	for _, path := range []string{theirs, "/" + top + ".slice"} {
		if err := kubelet.RemoveCgroup(ctx, path); err != nil {
			t.Error(err)
		}
	}
	d.checkEmpty(t)
}

// containerd's runc shim over an OCI runtime is told to use systemd, too.
func TestSystemdForeignShim(t *testing.T) {
	p, m := systemdPlace(t, foreignPlace(t, built(t, "build", "bin/berth-oci")))
	d := p.open(t)
	ctx := context.Background()
	sb, err := d.rt.RunSandbox(ctx, p.foreignPod("web"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := d.start(ctx, sb, shell("main", "echo hello; exec sleep 1000"))
	if err != nil {
		t.Fatal(err)
	}
	st, _ := d.rt.Container(c)
	if scope := "cri-berth-" + c + ".scope"; m.Property(scope, "Delegate") != true || !strings.Contains(cgroupOf(t, st.Pid), "/"+scope+"\n") {
		t.Errorf("%v: %s", m.Units(), cgroupOf(t, st.Pid))
	}
	eventually(t, "the log has a line", func() bool { b, _ := os.ReadFile(st.LogPath); return bytes.Contains(b, []byte("hello")) })
	if got := d.exec(t, c, "echo here"); got != "here" {
		t.Error(got)
	}
	if err := d.rt.RemoveSandbox(ctx, sb); err != nil {
		t.Fatal(err)
	}
	d.checkEmpty(t)
}
