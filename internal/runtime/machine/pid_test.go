package machine_test

import (
	"context"
	"strings"
	"syscall"
	"testing"

	"github.com/11f9778f/berth/internal/runtime"
)

// Two containers of a pod see each other where the pod shares its PID namespace, a third has its own, and
// a fourth joins the third's. A daemon that comes later knows it all; the end of the keeper is the pod's.
func TestPIDNamespaces(t *testing.T) {
	p := newPlace(t)
	d := p.open(t)
	ctx := context.Background()
	spec := p.pod("shared", false)
	spec.Namespaces.PID = runtime.NamespacePod
	sb, err := d.rt.RunSandbox(ctx, spec)
	if err != nil {
		t.Fatal(err)
	}
	start := func(c runtime.ContainerSpec) string {
		t.Helper()
		id, err := d.start(ctx, sb, c)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	sleep := func(name, seconds string) runtime.ContainerSpec {
		return runtime.ContainerSpec{Name: name, Image: "test.local/busybox:1", Command: []string{"/bin/sleep", seconds}}
	}
	a, b := start(sleep("a", "1001")), start(sleep("b", "1002"))
	own := sleep("own", "1003")
	own.PID = runtime.NamespaceContainer
	c := start(own)
	guest := sleep("guest", "1004")
	guest.PID, guest.PIDTarget = runtime.NamespaceTarget, c
	e := start(guest)

	sees := func(id string) string { return d.exec(t, id, "cat /proc/[0-9]*/cmdline | tr '\\000' ' '") }
	for _, x := range []struct{ who, id, there, absent string }{
		{"a", a, "/pause /bin/sleep 1001 /bin/sleep 1002", "1003"}, {"b", b, "/pause /bin/sleep 1001 /bin/sleep 1002", "1004"},
		{"own", c, "/bin/sleep 1003 /bin/sleep 1004", "pause"}, {"guest", e, "/bin/sleep 1003 /bin/sleep 1004", "pause"},
	} {
		if got := sees(x.id); !strings.HasPrefix(got, x.there) || strings.Contains(got, x.absent) {
			t.Errorf("%s sees %q", x.who, got)
		}
	}
	nobody := sleep("lost", "1")
	nobody.PID, nobody.PIDTarget = runtime.NamespaceTarget, strings.Repeat("f", 64)
	if _, err := d.rt.CreateContainer(ctx, sb, nobody); err == nil || !strings.Contains(err.Error(), "not in its sandbox") {
		t.Errorf("a target that is not there: %v", err)
	}

	d.close()
	d = p.open(t)
	if got := sees(b); !strings.Contains(got, "1001") {
		t.Errorf("after a restart b sees %q", got)
	}
	if err := d.rt.RemoveContainer(ctx, a); err != nil {
		t.Fatal(err)
	}
	if got := sees(b); strings.Contains(got, "1001") || !strings.Contains(got, "1002") {
		t.Errorf("without a, b sees %q", got)
	}
	st, err := d.rt.Sandbox(sb)
	if err != nil || st.Pid == 0 {
		t.Fatalf("%+v, %v", st, err)
	}
	if err := syscall.Kill(st.Pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the pod stops with its keeper", func() bool {
		st, err := d.rt.Sandbox(sb)
		cs, cerr := d.rt.Container(b)
		return err == nil && cerr == nil && st.State == runtime.SandboxStopped && cs.State == runtime.ContainerExited
	})
	if err := d.rt.RemoveSandbox(ctx, sb); err != nil {
		t.Fatal(err)
	}
	d.checkEmpty(t)
}
