package systemd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/11f9778f/berth/internal/engine"
	"github.com/11f9778f/berth/internal/engine/cgroup"
	"github.com/11f9778f/berth/internal/engine/systemd/systemdtest"
)

// connect returns a driver of the test's own systemd.
func connect(t *testing.T, unified bool) *Driver {
	t.Helper()
	d, err := Connect(context.Background(), unified)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return d
}

func resources() *specs.LinuxResources {
	memory, shares, quota, period, pids := int64(1<<30), uint64(2048), int64(25000), uint64(100000), int64(-1)
	return &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: &memory}, Pids: &specs.LinuxPids{Limit: &pids},
		CPU: &specs.LinuxCPU{Shares: &shares, Quota: &quota, Period: &period},
	}
}

func TestScope(t *testing.T) {
	for unified, want := range map[bool]map[string]any{
		false: {"MemoryLimit": uint64(1 << 30), "CPUShares": uint64(2048)},
		true:  {"MemoryMax": uint64(1 << 30), "CPUWeight": uint64(174)},
	} {
		m := systemdtest.New(t)
		m.PlainUnits = true
		d := connect(t, unified)
		ctx := context.Background()
		if err := d.Start(ctx, engine.Scope{ID: "web", Name: "berth-web.scope", Slice: "pods.slice", PID: 42, Resources: resources()}); err != nil {
			t.Fatal(err)
		}
		want["Slice"], want["Delegate"], want["DefaultDependencies"], want["CPUQuotaPerSecUSec"], want["TasksMax"] = "pods.slice", true, false, uint64(250000), ^uint64(0)
		for name, v := range want {
			if have := m.Property("berth-web.scope", name); have != v {
				t.Errorf("unified %v: %s is %v, want %v", unified, name, have, v)
			}
		}
		for limit, want := range map[int64]uint64{5: 5, 0: 1} { // systemd takes no 0
			if err := d.Update(ctx, "berth-web.scope", &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &limit}}); err != nil || m.Property("berth-web.scope", "TasksMax") != want {
				t.Errorf("update: %v, %v", m.Property("berth-web.scope", "TasksMax"), err)
			}
		}
		for range 2 {
			if err := d.Stop(ctx, "berth-web.scope"); err != nil || len(m.Units()) != 0 {
				t.Errorf("stop: %v, left: %v", err, m.Units())
			}
		}
		m.Fail("berth-web.scope") // of an earlier life
		if err := d.Start(ctx, engine.Scope{Name: "berth-web.scope", Slice: "pods.slice", PID: 42}); err != nil {
			t.Error(err)
		}
		m.EndJobsAs("failed")
		if err := d.Start(ctx, engine.Scope{Name: "other.scope", Slice: "pods.slice", PID: 42}); err == nil || !strings.Contains(err.Error(), `"failed"`) {
			t.Errorf("a failed job: %v", err)
		}
	}
}

func TestNoSystemd(t *testing.T) {
	if _, err := os.Stat("/run/systemd/private"); err == nil {
		t.Skip("systemd runs here")
	}
	if _, err := Connect(context.Background(), true); err == nil || !strings.Contains(err.Error(), "systemd") {
		t.Errorf("got %v", err)
	}
}

func TestSlice(t *testing.T) {
	m := systemdtest.New(t)
	m.PlainUnits = true
	d, ctx := &Lazy{}, context.Background()
	for range 2 { // the second time it is there
		if err := d.StartSlice(ctx, "berth-pod1.slice", resources()); err != nil || m.Property("berth-pod1.slice", "TasksMax") != ^uint64(0) {
			t.Error(m.Property("berth-pod1.slice", "TasksMax"), err)
		}
	}
	m.Disconnect() // the bus is restarted
	limit := int64(7)
	for {
		err := d.Update(ctx, "berth-pod1.slice", &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &limit}})
		if err == nil {
			break
		}
		t.Log("before the end is noticed: ", err)
	}
	if got := m.Property("berth-pod1.slice", "TasksMax"); got != uint64(7) {
		t.Error(got)
	}
	if err := d.Stop(ctx, "berth-pod1.slice"); err != nil || len(m.Units()) > 0 {
		t.Error(m.Units(), err)
	}
	if err := d.StartSlice(ctx, "berth-pod1.slice", nil); err != nil {
		t.Error(err)
	}
}

// A job of whose end nobody tells any more, for the bus is gone.
func TestLostJob(t *testing.T) {
	m := systemdtest.New(t)
	m.PlainUnits = true
	m.EndJobsAs("")
	ended := make(chan error, 1)
	go func() {
		ended <- (&Lazy{}).Start(t.Context(), engine.Scope{Name: "a.scope", Slice: "pods.slice", PID: 42})
	}()
	for len(m.Units()) == 0 {
		time.Sleep(time.Millisecond)
	}
	m.Disconnect()
	if err := <-ended; err == nil {
		t.Error("it succeeded")
	}
}

// A bus that takes connections and says nothing holds up nobody longer than he wants.
func TestDeafBus(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bus")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+path)
	var d Lazy
	var calls sync.WaitGroup
	for range 2 {
		calls.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			if err := d.Stop(ctx, "a.scope"); !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
		})
	}
	calls.Wait()
}

// scopedSpec is of a container in a scope of a slice.
func scopedSpec(t *testing.T, slice string) *specs.Spec {
	t.Helper()
	root := t.TempDir()
	for _, dir := range []string{"bin", "proc", "dev", "sys"} {
		os.Mkdir(filepath.Join(root, dir), 0o755)
	}
	b, err := os.ReadFile("/usr/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "bin/sh"), b, 0o755); err != nil {
		t.Fatal(err)
	}
	spec := engine.DefaultSpec()
	spec.Root.Path, spec.Process.Args = root, []string{"sh", "-c", "while :; do read x; done < /dev/zero"}
	spec.Linux.CgroupsPath = slice + ":berth:web"
	limit := int64(64 << 20)
	spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit}
	return spec
}

// A whole container in a scope; the manager makes the cgroup, as systemd does.
func TestContainerInAScope(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: namespaces, mounts and cgroups")
	}
	if _, err := os.Stat("/usr/bin/busybox"); err != nil {
		t.Skip("needs Debian's busybox-static: " + err.Error())
	}
	slice := fmt.Sprintf("berthtest%d", os.Getpid())
	m := systemdtest.New(t)
	d := connect(t, false)
	spec, ctx := scopedSpec(t, slice+".slice"), context.Background()
	c, err := engine.Create(ctx, engine.CreateOptions{ID: "web", Bundle: t.TempDir(), Spec: spec, Scopes: d})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if parent, err := cgroup.Load("/" + slice + ".slice"); err == nil {
			parent.Delete(ctx)
		}
	}()
	if err := c.Start(ctx); err != nil {
		t.Error(err)
	}
	if want := "/" + slice + ".slice/berth-web.scope"; c.State().CgroupPath != want || c.State().Scope != "berth-web.scope" {
		t.Errorf("state %+v", c.State())
	}
	if st, err := c.Stats(); err != nil || st.Memory.Limit != 64<<20 || st.Pids.Current == 0 {
		t.Errorf("stats %+v, %v", st, err)
	}
	// Another process takes it over and removes it.
	a, err := engine.Adopt(ctx, c.State(), spec, engine.AdoptOptions{Scopes: d})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Delete(ctx); err != nil {
		t.Error(err)
	}
	if err := c.Delete(ctx); err != nil {
		t.Error(err)
	}
	if len(m.Units()) != 0 || c.Cgroup().Exists() {
		t.Errorf("left: %v", m.Units())
	}
	for _, bad := range []string{"/plain/path", "x:y:z", "a--b.slice::n", "a.slice:b:../c"} {
		spec.Linux.CgroupsPath = bad
		if _, err := engine.Create(ctx, engine.CreateOptions{ID: "web", Bundle: t.TempDir(), Spec: spec, Scopes: d}); err == nil || !strings.Contains(err.Error(), "linux.cgroupsPath") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}
