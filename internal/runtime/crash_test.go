package runtime

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// childEnv tells the test binary to play a daemon that dies.
const childEnv = "BERTH_RUNTIME_TEST_DAEMON"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		if err := daemonLife(dir); err != nil {
			os.Stderr.WriteString(err.Error() + "\n")
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// daemonLife does every kind of thing once. Pod "old" was there before and runs all the time.
func daemonLife(dir string) error {
	r, _, err := openFake(dir)
	if err != nil {
		return err
	}
	ctx := context.Background()
	shared := pod("new")
	shared.Namespaces.PID = NamespacePod // for the effects of its keeper
	mine := []IDMapping{{HostID: uint32(os.Getuid()), Length: 1}}
	shared.User = &UserNamespace{UIDs: mine, GIDs: []IDMapping{{HostID: uint32(os.Getgid()), Length: 1}}}
	sb, err := r.RunSandbox(ctx, shared)
	if err != nil {
		return err
	}
	var ids []string
	for _, name := range []string{"a", "b"} {
		c, err := r.CreateContainer(ctx, sb, ContainerSpec{Name: name, Image: "img", Mounts: []Mount{
			{ContainerPath: "/a", Image: &ImageVolume{Image: "img"}}, {ContainerPath: "/b", Image: &ImageVolume{Image: "img"}},
		}})
		if err != nil {
			return err
		}
		if err := r.StartContainer(ctx, c); err != nil {
			return err
		}
		ids = append(ids, c)
	}
	for _, f := range []func() error{
		func() error { return r.UpdateResources(ctx, ids[0], Resources{CPUShares: 100}) },
		func() error { return r.StopContainer(ctx, ids[0], time.Second) },
		func() error { return r.RemoveContainer(ctx, ids[0]) },
		func() error { return r.StopSandbox(ctx, sb) },
		func() error { return r.RemoveSandbox(ctx, sb) },
	} {
		if err := f(); err != nil {
			return err
		}
	}
	return r.Close()
}

func runDaemon(t *testing.T, dir, failpoint string) error {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), childEnv+"="+dir, "BERTH_FAILPOINT="+failpoint)
	cmd.Stderr = os.Stderr
	return cmd.Run()
}

// The daemon is killed before and after each of its effects. The next one finds the pod of before
// untouched, can finish or repeat what the dead one was at, and leaves nothing.
func TestKilledAtEveryEffect(t *testing.T) {
	list := filepath.Join(t.TempDir(), "names")
	if err := runDaemon(t, t.TempDir(), "trace:"+list); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(list)
	if err != nil {
		t.Fatal(err)
	}
	names := strings.Fields(string(b))
	if len(names) < 50 {
		t.Fatalf("only %d places were reached: %v", len(names), names)
	}
	slices.Sort(names)
	for _, name := range names {
		for _, nth := range []string{"", "@2"} {
			t.Run(name+nth, func(t *testing.T) {
				t.Parallel()
				killAndRecover(t, name+"=kill"+nth)
			})
		}
	}
}

func killAndRecover(t *testing.T, failpoint string) {
	dir := t.TempDir()
	first, _, err := openFake(dir)
	if err != nil {
		t.Fatal(err)
	}
	oldPod, oldContainer := started(t, first, "old")
	first.Close()

	err = runDaemon(t, dir, failpoint)
	if err == nil && strings.HasSuffix(failpoint, "@2") {
		t.Skip("reached once only")
	}
	ee, ok := err.(*exec.ExitError)
	if !ok || ee.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the daemon ended with %v", err)
	}

	r, w, err := openFake(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if st, err := r.Container(oldContainer); err != nil || st.State != ContainerRunning || !w.has("task", oldContainer) {
		t.Errorf("the old pod's container: %+v, %v", st, err)
	}
	rep, err := r.Fsck(context.Background(), false)
	if err != nil || !rep.Clean() || len(rep.Pending) > 0 {
		t.Errorf("after recovery: %+v, %v", rep, err)
	}
	checkListedExists(t, r, w)

	// The kubelet repeats what it was at, then gives both pods up.
	sb := repeated(t, r)
	for _, id := range []string{sb, oldPod} {
		if err := r.RemoveSandbox(context.Background(), id); err != nil {
			t.Error(err)
		}
	}
	for _, s := range r.Sandboxes() { // one that was stopped and not yet removed
		if err := r.RemoveSandbox(context.Background(), s.ID); err != nil {
			t.Error(err)
		}
	}
	wantNothing(t, r, w)
}

// checkListedExists compares memory with the world after a recovery.
func checkListedExists(t *testing.T, r *Runtime, w *world) {
	t.Helper()
	for _, s := range r.Sandboxes() {
		if s.State == SandboxReady && (!w.has("shim-sandbox", s.ID) || !w.has("netns", s.ID)) {
			t.Errorf("ready sandbox %s lacks what it is made of", s.Spec.Name)
		}
	}
	for _, c := range r.Containers("") {
		waitFor(t, "container "+c.Spec.Name+" and its task agree", func() bool { // a stop is being finished
			task, ok := w.task(c.ID)
			now, err := r.Container(c.ID)
			return err == nil && (ok && task.State == "running") == (now.State == ContainerRunning)
		})
		if !w.has("snapshot", c.ID) {
			t.Errorf("container %s has no snapshot", c.Spec.Name)
		}
	}
}

// repeated runs pod "new" again, at the next attempt where the dead daemon had stopped this one.
func repeated(t *testing.T, r *Runtime) string {
	t.Helper()
	ctx := context.Background()
	spec := pod("new")
	sb, err := r.RunSandbox(ctx, spec)
	if err != nil {
		spec.Attempt = 1
		if sb, err = r.RunSandbox(ctx, spec); err != nil {
			t.Fatal(err)
		}
	}
	c, err := r.CreateContainer(ctx, sb, ContainerSpec{Name: "b", Image: "img"})
	if err != nil {
		t.Fatal(err)
	}
	if st, _ := r.Container(c); st.State == ContainerExited {
		return sb
	}
	if err := r.StartContainer(ctx, c); err != nil {
		t.Fatal(err)
	}
	return sb
}

// A container that ended while there was no daemon is known to have ended, with its code.
func TestExitWhileAway(t *testing.T) {
	dir := t.TempDir()
	r, w, err := openFake(dir)
	if err != nil {
		t.Fatal(err)
	}
	_, c := started(t, r, "a")
	r.Close()
	w.exit(c, 7)
	r, w, err = openFake(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if st, _ := r.Container(c); st.State != ContainerExited || st.ExitCode != 7 {
		t.Errorf("%+v", st)
	}
	waitFor(t, "the task is cleared", func() bool { return !w.has("task", c) })
}

// After a reboot nothing runs; what is on disk without an owner goes.
func TestReboot(t *testing.T) {
	dir := t.TempDir()
	r, w, err := openFake(dir)
	if err != nil {
		t.Fatal(err)
	}
	started(t, r, "a")
	r.Close()
	if err := w.make(context.Background(), "snapshot", strings.Repeat("d", 64), nil); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "boot"), []byte("boot-2"), 0o600); err != nil {
		t.Fatal(err)
	}
	r, w, err = openFake(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	wantNothing(t, r, &world{dir: filepath.Join(w.dir)})
}

// What nobody owns is named, and removed on demand.
func TestFsckFindsOrphans(t *testing.T) {
	r, w := fake(t)
	ctx := context.Background()
	started(t, r, "a")
	ghost := strings.Repeat("e", 64)
	for _, kind := range []string{"netns", "network", "shim", "snapshot"} {
		if err := w.make(ctx, kind, ghost, nil); err != nil {
			t.Fatal(err)
		}
	}
	w.make(ctx, "cgroup", "/berth/podghost", nil)
	w.make(ctx, "mount", r.store.podDir(ghost)+"/shm", nil)
	os.MkdirAll(r.store.bundle(ghost), 0o700)
	os.MkdirAll(r.store.podDir(ghost), 0o700)
	rep, err := r.Fsck(ctx, false)
	if err != nil || len(rep.Orphans) != 8 {
		t.Fatalf("%d orphans: %+v %v", len(rep.Orphans), rep.Orphans, err)
	}
	if rep, err = r.Fsck(ctx, true); err != nil || len(rep.Orphans) != 8 {
		t.Fatalf("%+v %v", rep.Orphans, err)
	}
	for _, o := range rep.Orphans {
		if !o.Repaired {
			t.Errorf("not repaired: %+v", o)
		}
	}
	if rep, _ = r.Fsck(ctx, false); !rep.Clean() || len(rep.Owned) == 0 {
		t.Errorf("after repair: %+v", rep)
	}
}
