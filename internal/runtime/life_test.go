package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
)

// waitFor polls a state that some other goroutine brings about.
func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for i := 0; i < 1000; i++ {
		if ok() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("never happened: %s", what)
}

func TestLife(t *testing.T) {
	r, w := fake(t)
	ctx := context.Background()
	before := r.EventPosition()
	sb, c := started(t, r, "a")
	st, err := r.Container(c)
	if err != nil || st.State != ContainerRunning || st.Pid != 42 {
		t.Fatalf("started container: %+v, %v", st, err)
	}
	if want := (User{UID: 33, GID: 44, Groups: []uint32{44, 55}}); !cmp.Equal(st.User, want) {
		t.Errorf("user %+v, want %+v", st.User, want)
	}
	if st.LogPath != "/logs/web/0.log" || st.StopSignal != "SIGQUIT" || st.CgroupPath != "/berth/poduid-a/"+c {
		t.Errorf("status %+v", st)
	}
	if s, _ := r.Sandbox(sb); len(s.IPs) != 1 || s.NetNS == "" || s.IPC == "" {
		t.Errorf("sandbox %+v", s)
	}
	if b, err := os.ReadFile(filepath.Join(r.store.podDir(sb), "hosts")); err != nil || !strings.Contains(string(b), "\n10.1.2.3\t") {
		t.Errorf("hosts file: %s, %v", b, err)
	}
	if res, err := r.ExecSync(ctx, c, []string{"echo", "hi"}, 0); err != nil || string(res.Stdout) != "echo hi" {
		t.Errorf("exec: %v %v", res, err)
	}
	if err := r.StopContainer(ctx, c, time.Minute); err != nil {
		t.Fatal(err)
	}
	if st, _ := r.Container(c); st.State != ContainerExited || st.ExitCode != 131 || st.Reason != "Error" {
		t.Errorf("stopped container: %+v", st)
	}
	waitFor(t, "the ended task is cleared", func() bool { return len(w.names("task")) == 0 })
	if err := r.StopSandbox(ctx, sb); err != nil {
		t.Fatal(err)
	}
	if s, _ := r.Sandbox(sb); s.State != SandboxStopped {
		t.Errorf("stopped sandbox: %+v", s)
	}
	if _, err := r.CreateContainer(ctx, sb, ContainerSpec{Name: "late", Image: "img"}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("create in a stopped sandbox: %v", err)
	}
	if err := r.RemoveSandbox(ctx, sb); err != nil {
		t.Fatal(err)
	}
	wantNothing(t, r, w)
	got := eventKinds(t, r, before, 7)
	want := []EventKind{SandboxStarted, ContainerCreatedEv, ContainerStarted, ContainerStopped, SandboxStoppedEv, ContainerRemoved, SandboxRemoved}
	if !cmp.Equal(got, want) {
		t.Errorf("events %v, want %v", got, want)
	}
}

func eventKinds(t *testing.T, r *Runtime, since uint64, n int) []EventKind {
	t.Helper()
	var got []EventKind
	done := errors.New("enough")
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	err := r.Events(ctx, since, func(e Event) error {
		if got = append(got, e.Kind); len(got) == n {
			return done
		}
		return nil
	})
	if err != done {
		t.Errorf("events %v: %v", got, err)
	}
	return got
}

func TestCallsAreIdempotent(t *testing.T) {
	r, w := fake(t)
	ctx := context.Background()
	sb, c := started(t, r, "a")
	for i := 0; i < 2; i++ {
		if again, err := r.RunSandbox(ctx, pod("a")); err != nil || again != sb {
			t.Errorf("repeated RunSandbox: %s, %v", again, err)
		}
		if again, err := r.CreateContainer(ctx, sb, web()); err != nil || again != c {
			t.Errorf("repeated CreateContainer: %s, %v", again, err)
		}
		if err := r.StartContainer(ctx, c); err != nil {
			t.Errorf("repeated StartContainer: %v", err)
		}
	}
	for i := 0; i < 2; i++ {
		for _, f := range []func() error{
			func() error { return r.StopContainer(ctx, c, 0) }, func() error { return r.RemoveContainer(ctx, c) },
		} {
			if err := f(); err != nil {
				t.Error(err)
			}
		}
	}
	for i := 0; i < 2; i++ {
		if err := r.StopSandbox(ctx, sb); err != nil {
			t.Error(err)
		}
	}
	if _, err := r.RunSandbox(ctx, pod("a")); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "next attempt") {
		t.Errorf("RunSandbox of a stopped attempt: %v", err)
	}
	for i := 0; i < 2; i++ {
		if err := r.RemoveSandbox(ctx, sb); err != nil {
			t.Error(err)
		}
	}
	wantNothing(t, r, w)
}

func TestCallsJoin(t *testing.T) {
	r, w := fake(t)
	gate := make(chan struct{})
	w.set(func() { w.block["netns"], w.block["snapshot"], w.block["start"] = gate, gate, gate })
	ctx := context.Background()

	// A caller that gives up does not stop what others wait for.
	short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	if _, err := r.RunSandbox(short, pod("a")); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("impatient call: %v", err)
	}
	var wg sync.WaitGroup
	ids := make([]string, 20)
	for i := range ids {
		wg.Add(1)
		go func() {
			defer wg.Done()
			sb, err := r.RunSandbox(ctx, pod("a"))
			if err != nil {
				t.Error(err)
				return
			}
			c, err := r.CreateContainer(ctx, sb, web())
			if err == nil {
				err = r.StartContainer(ctx, c)
			}
			if err != nil {
				t.Error(err)
			}
			ids[i] = sb + c
		}()
	}
	time.Sleep(20 * time.Millisecond)
	close(gate)
	wg.Wait()
	for _, id := range ids {
		if id != ids[0] {
			t.Errorf("joined calls got %s and %s", ids[0], id)
		}
	}
	count := map[string]int{}
	w.set(func() {
		for _, c := range w.calls {
			count[c]++
		}
	})
	for _, k := range []string{"netns", "snapshot", "task", "start"} {
		if count[k] != 1 {
			t.Errorf("%s happened %d times", k, count[k])
		}
	}
}

// Every step that fails is answered with an error that names it, and nothing is left.
func TestFailuresLeaveNothing(t *testing.T) {
	for _, kind := range []string{"cgroup", "netns", "network", "shim", "shim-sandbox", "mount", "snapshot", "task", "start"} {
		t.Run(kind, func(t *testing.T) {
			r, w := fake(t)
			ctx := context.Background()
			boom := errors.New("boom")
			w.set(func() { w.fail[kind] = boom })
			sb, err := r.RunSandbox(ctx, pod("a"))
			if err == nil {
				var c string
				if c, err = r.CreateContainer(ctx, sb, web()); err == nil {
					err = r.StartContainer(ctx, c)
					if st, _ := r.Container(c); st.State != ContainerExited || st.Reason != "StartError" || st.ExitCode != 128 {
						t.Errorf("container that did not start: %+v", st)
					}
				}
				if rerr := r.RemoveSandbox(ctx, sb); rerr != nil {
					t.Error(rerr)
				}
			}
			if !errors.Is(err, boom) {
				t.Errorf("error %v", err)
			}
			wantNothing(t, r, w)
			// The same identity works once the cause is gone.
			w.set(func() { delete(w.fail, kind) })
			started(t, r, "a")
		})
	}
}

// A shim that is stopped must not keep anybody from killing and removing; it is told later.
func TestHungShim(t *testing.T) {
	r, w := fake(t)
	ctx := context.Background()
	r.cfg.ShimTimeout = 100 * time.Millisecond
	sb, c := started(t, r, "a")
	other, _ := started(t, r, "b")
	gate := make(chan struct{})
	w.set(func() {
		for _, k := range []string{"untask", "unshim-sandbox", "report", "tasks"} {
			w.block[k] = gate
		}
	})
	if err := r.StopContainer(ctx, c, 50*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if st, _ := r.Container(c); st.State != ContainerExited || st.ExitCode != 137 {
		t.Errorf("killed container: %+v", st)
	}
	if err := r.RemoveSandbox(ctx, sb); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Sandbox(sb); !errdefs.IsNotFound(err) {
		t.Error("the removed sandbox is still listed")
	}
	for _, k := range []string{"netns", "network", "snapshot"} {
		if w.has(k, sb) || w.has(k, c) {
			t.Errorf("%s is left although no shim has to do with it", k)
		}
	}
	if rep, _ := r.Fsck(ctx, false); !rep.Clean() || len(rep.Pending) == 0 {
		t.Errorf("fsck while the shim hangs: %+v", rep)
	}
	w.set(func() { clear(w.block) })
	close(gate)
	r.debts.wake()
	waitFor(t, "the shim is told", func() bool { return !w.has("shim", sb) })
	if err := r.RemoveSandbox(ctx, other); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "all is forgotten", func() bool { return r.sandbox(sb) == nil && len(w.left()) == 0 })
	wantNothing(t, r, w)
}

// A start that hangs in the shim is interrupted by a stop, and by a removal of the pod.
func TestStopInterruptsStart(t *testing.T) {
	for _, how := range []string{"stop container", "remove container", "remove sandbox"} {
		t.Run(how, func(t *testing.T) {
			r, w := fake(t)
			ctx := context.Background()
			sb, err := r.RunSandbox(ctx, pod("a"))
			if err != nil {
				t.Fatal(err)
			}
			c, err := r.CreateContainer(ctx, sb, web())
			if err != nil {
				t.Fatal(err)
			}
			w.set(func() { w.block["start"] = make(chan struct{}) })
			failed := make(chan error, 1)
			go func() { failed <- r.StartContainer(ctx, c) }()
			waitFor(t, "the start hangs", func() bool { _, ok := w.task(c); return ok })
			switch how {
			case "stop container":
				err = r.StopContainer(ctx, c, time.Hour)
			case "remove container":
				err = r.RemoveContainer(ctx, c)
			default:
				err = r.RemoveSandbox(ctx, sb)
			}
			if err != nil {
				t.Error(err)
			}
			if err := <-failed; !errors.Is(err, context.Canceled) {
				t.Errorf("the start ended with %v", err)
			}
			if err := r.RemoveSandbox(ctx, sb); err != nil {
				t.Error(err)
			}
			wantNothing(t, r, w)
		})
	}
}

func TestSecondStopHurries(t *testing.T) {
	r, w := fake(t)
	ctx := context.Background()
	_, c := started(t, r, "a")
	w.set(func() { w.block["obey"] = make(chan struct{}) })
	first := make(chan error, 1)
	go func() { first <- r.StopContainer(ctx, c, time.Hour) }()
	waitFor(t, "the signal is sent", func() bool {
		found := false
		w.set(func() {
			for _, call := range w.calls {
				found = found || call == "signal-3"
			}
		})
		return found
	})
	if err := r.StopContainer(ctx, c, 0); err != nil {
		t.Fatal(err)
	}
	if err := <-first; err != nil {
		t.Fatal(err)
	}
	if st, _ := r.Container(c); st.ExitCode != 137 {
		t.Errorf("%+v", st)
	}
}

func TestExitIsHeard(t *testing.T) {
	r, w := fake(t)
	_, c := started(t, r, "a")
	w.events <- ShimEvent{Kind: ShimOOM, ContainerID: c}
	w.exit(c, 137)
	waitFor(t, "the container has exited", func() bool { st, _ := r.Container(c); return st.State == ContainerExited })
	if st, _ := r.Container(c); st.Reason != "OOMKilled" || st.FinishedAt.IsZero() {
		t.Errorf("%+v", st)
	}
	if err := r.StartContainer(context.Background(), c); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("start of an ended container: %v", err)
	}
}

func TestLostShimEndsThePod(t *testing.T) {
	r, w := fake(t)
	sb, c := started(t, r, "a")
	w.events <- ShimEvent{Kind: ShimLost, Sandboxes: []string{sb}}
	waitFor(t, "the sandbox is stopped", func() bool { s, _ := r.Sandbox(sb); return s.State == SandboxStopped })
	waitFor(t, "the container has exited", func() bool { st, _ := r.Container(c); return st.State == ContainerExited })
	if err := r.RemoveSandbox(context.Background(), sb); err != nil {
		t.Fatal(err)
	}
	wantNothing(t, r, w)
}

func TestUpdateResources(t *testing.T) {
	r, _ := fake(t)
	ctx := context.Background()
	sb, c := started(t, r, "a")
	if err := r.UpdateResources(ctx, c, Resources{CPUShares: 512}); err != nil {
		t.Fatal(err)
	}
	if err := r.UpdateResources(ctx, c, Resources{MemoryLimit: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	if st, _ := r.Container(c); st.Spec.Resources.CPUShares != 512 || st.Spec.Resources.MemoryLimit != 1<<20 {
		t.Errorf("%+v", st.Spec.Resources)
	}
	late, err := r.CreateContainer(ctx, sb, ContainerSpec{Name: "late", Image: "img"})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.UpdateResources(ctx, late, Resources{CPUShares: 100}); err != nil {
		t.Fatal(err)
	}
}

func TestHostNetworkPod(t *testing.T) {
	r, w := fake(t)
	spec := pod("a")
	spec.Namespaces = Namespaces{Network: NamespaceNode, PID: NamespaceNode, IPC: NamespaceNode}
	sb, err := r.RunSandbox(context.Background(), spec)
	if err != nil {
		t.Fatal(err)
	}
	if len(w.names("netns"))+len(w.names("network"))+len(w.names("mount")) > 0 {
		t.Errorf("a pod in the host's namespaces got: %v", w.left())
	}
	if err := r.RemoveSandbox(context.Background(), sb); err != nil {
		t.Fatal(err)
	}
	wantNothing(t, r, w)
}

// Two attempts of one pod share its cgroup; the end of one must not take it from the other.
// A pod's own limits are those of the cgroup that is made for it. One that is there has its maker's.
func TestSizeOfAPod(t *testing.T) {
	r, w := fake(t)
	ctx := context.Background()
	size := Resources{CPUQuota: 50_000, CPUPeriod: 100_000, MemoryLimit: 1 << 20}.Plus(Resources{CPUQuota: 5_000, CPUPeriod: 50_000, MemoryLimit: 4096})
	for _, x := range []struct {
		parent string
		there  bool
		want   Resources
	}{
		{"", false, Resources{CPUQuota: 60_000, CPUPeriod: 100_000, MemoryLimit: 1<<20 + 4096}},
		{"/kubepods/made", false, size}, {"/kubepods/there", true, Resources{}},
	} {
		if x.there {
			if err := w.make(ctx, "cgroup", x.parent, nil); err != nil {
				t.Fatal(err)
			}
		}
		spec := pod("a")
		spec.CgroupParent, spec.Resources = x.parent, &size
		id, err := r.RunSandbox(ctx, spec)
		if err != nil {
			t.Fatal(err)
		}
		st, _ := r.Sandbox(id)
		var have Resources
		if b, err := os.ReadFile(w.path("cgroup", st.CgroupPath)); err != nil || json.Unmarshal(b, &have) != nil || !reflect.DeepEqual(have, x.want) {
			t.Errorf("%q: limits %+v, %v", x.parent, have, err)
		}
		if a := r.sandbox(id).annotations(); a["io.kubernetes.cri.sandbox-cpu-quota"] != "60000" || a["io.kubernetes.cri.sandbox-memory"] != "1052672" {
			t.Errorf("a foreign shim is told %v", a)
		}
		if err := r.RemoveSandbox(ctx, id); err != nil {
			t.Fatal(err)
		}
	}
	if !w.has("cgroup", "/kubepods/there") {
		t.Error("somebody else's cgroup was removed")
	}
}

func TestAttemptsShareACgroup(t *testing.T) {
	r, w := fake(t)
	ctx := context.Background()
	a, err := r.RunSandbox(ctx, pod("a"))
	if err != nil {
		t.Fatal(err)
	}
	next := pod("a")
	next.Attempt = 1
	b, err := r.RunSandbox(ctx, next)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.RemoveSandbox(ctx, a); err != nil {
		t.Fatal(err)
	}
	if !w.has("cgroup", "/berth/poduid-a") {
		t.Error("the cgroup is gone")
	}
	if err := r.RemoveSandbox(ctx, b); err != nil {
		t.Fatal(err)
	}
	wantNothing(t, r, w)
}

func TestManyPodsAtOnce(t *testing.T) {
	r, w := fake(t)
	ctx := context.Background()
	var wg sync.WaitGroup
	w.lists = 0
	for i := range 50 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			sb, err := r.RunSandbox(ctx, pod(fmt.Sprint("p", i)))
			if err != nil {
				t.Error(err)
				return
			}
			for _, n := range []string{"a", "b"} {
				c, err := r.CreateContainer(ctx, sb, ContainerSpec{Name: n, Image: "img"})
				if err == nil {
					err = r.StartContainer(ctx, c)
				}
				if err != nil {
					t.Error(err)
				}
			}
			if err := r.RemoveSandbox(ctx, sb); err != nil {
				t.Error(err)
			}
		}()
	}
	wg.Wait()
	if w.lists > 0 { // it costs as much as there are mounts on the node (runc #4853)
		t.Errorf("the table of all mounts was read %d times", w.lists)
	}
	wantNothing(t, r, w)
}
