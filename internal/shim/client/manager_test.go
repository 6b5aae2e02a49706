package client

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	sandboxv1 "github.com/containerd/containerd/api/runtime/sandbox/v1"
	taskv3 "github.com/containerd/containerd/api/runtime/task/v3"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"

	"github.com/11f9778f/berth/internal/shim/api"
	"github.com/11f9778f/berth/internal/shim/api/pb"
)

func TestRun(t *testing.T) {
	b := newBench(t)
	s := b.sandbox("pod1")
	if err := b.create(s, ctr{id: "c1", sandbox: "pod1", args: []string{"sh", "-c", "echo out; echo err >&2; printf rest; exit 3"}}); err != nil {
		t.Fatal(err)
	}
	if c := b.state(s, "c1"); c.Status != pb.Status_STATUS_CREATED || c.Pid == 0 || c.SandboxId != "pod1" {
		t.Errorf("created: %v", c)
	}
	if _, err := s.Task().Start(b.ctx(), &taskv3.StartRequest{ID: "c1"}); err != nil {
		t.Fatal(err)
	}
	if code := b.wait(s, "c1"); code != 3 {
		t.Errorf("exit code %d", code)
	}
	// All of the output is in the log when the end is known.
	got := b.log("c1")
	if len(got) != 3 || !strings.Contains(strings.Join(got, ";"), "stdout F out") || !strings.Contains(strings.Join(got, ";"), "stderr F err") ||
		!strings.Contains(strings.Join(got, ";"), "stdout P rest") {
		t.Errorf("log %q", got)
	}
	e := b.event("exit", exitOf("c1"))
	if e.Exit.Code != 3 {
		t.Errorf("event %v", e)
	}
	r, err := s.Task().Delete(b.ctx(), &taskv3.DeleteRequest{ID: "c1"})
	if err != nil || r.ExitStatus != 3 {
		t.Errorf("delete: %v, %v", r, err)
	}
	if _, err := s.Task().Delete(b.ctx(), &taskv3.DeleteRequest{ID: "c1"}); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("second delete: %v", err)
	}
}

func TestOutputCanBeReopenedByUser(t *testing.T) {
	b := newBench(t)
	s := b.sandbox("pod1")
	b.run(s, ctr{id: "c1", sandbox: "pod1", uid: 1000, args: []string{"sh", "-c", "echo one >/proc/self/fd/1; echo two >/proc/self/fd/2"}})
	if code := b.wait(s, "c1"); code != 0 {
		t.Errorf("exit code %d, log %q", code, b.log("c1"))
	}
	b.remove(s, "c1")
}

func TestStartFailureSaysWhy(t *testing.T) {
	b := newBench(t)
	s := b.sandbox("pod1")
	if err := b.create(s, ctr{id: "c1", sandbox: "pod1", args: []string{"no-such-program"}}); err != nil {
		t.Fatal(err)
	}
	_, err := s.Task().Start(b.ctx(), &taskv3.StartRequest{ID: "c1"})
	if err == nil || !strings.Contains(err.Error(), "executable file not found in $PATH") {
		t.Errorf("start: %v", err)
	}
	b.remove(s, "c1")
}

func TestCreateIsUndone(t *testing.T) {
	b := newBench(t)
	s := b.sandbox("pod1")
	c := ctr{id: "c1", sandbox: "pod1", args: []string{"true"}}
	r := &taskv3.CreateTaskRequest{ID: "c1", Bundle: b.bundle(c), Stdout: api.SchemeCRILog + filepath.Join(b.dir, "none", "0.log")}
	if _, err := s.Task().Create(b.ctx(), r); err == nil {
		t.Fatal("created without a place for its log")
	}
	b.remains(s, 0)
	if err := b.create(s, c); err != nil { // the name is free
		t.Fatal(err)
	}
	if err := b.create(s, c); err != nil { // the same question, the same answer
		t.Errorf("repeated create: %v", err)
	}
	b.remove(s, "c1")
}

func (b *bench) remains(s *Shim, n int) {
	b.t.Helper()
	list, err := s.Berth().List(b.ctx(), &pb.ListRequest{})
	if err != nil || len(list.Containers) != n {
		b.t.Errorf("%d containers remain, want %d (%v)", len(list.GetContainers()), n, err)
	}
	files, _ := filepath.Glob(filepath.Join(b.dir, "run/shims/*/containers/*"))
	if len(files) != n {
		b.t.Errorf("records: %q", files)
	}
}

func TestExecSync(t *testing.T) {
	b := newBench(t)
	s := b.sandbox("pod1")
	b.run(s, ctr{id: "c1", sandbox: "pod1", args: []string{"sleep", "1000"}})
	r, err := s.ExecSync(b.ctx(), "c1", program("sh", "-c", "echo out; echo err >&2; exit 4"), 0, 0)
	if err != nil || string(r.Stdout) != "out\n" || string(r.Stderr) != "err\n" || r.Exit.Code != 4 {
		t.Errorf("%v, %v", r, err)
	}
	r, err = s.ExecSync(b.ctx(), "c1", program("sleep", "1000"), 50*time.Millisecond, 0)
	if err != nil || !r.TimedOut || r.Exit.Code != 137 {
		t.Errorf("timeout: %v, %v", r, err)
	}
	r, err = s.ExecSync(b.ctx(), "c1", program("sh", "-c", "sleep 1000 & echo gone"), 0, 0)
	if err != nil || string(r.Stdout) != "gone\n" {
		t.Errorf("a child that keeps the output open: %v, %v", r, err)
	}
	r, err = s.ExecSync(b.ctx(), "c1", program("yes"), 300*time.Millisecond, 1000)
	if err != nil || len(r.Stdout) != 1000 || !r.Truncated {
		t.Errorf("endless output: %d bytes, %v, %v", len(r.GetStdout()), r.GetTruncated(), err)
	}
	r, err = s.ExecSync(b.ctx(), "c1", program("dd", "if=/dev/zero", "bs=1M", "count=20"), 0, 0)
	if err != nil || len(r.Stdout) != 16<<20 || !r.Truncated {
		t.Errorf("much output: %d bytes, %v", len(r.GetStdout()), err)
	}
	if _, err = s.ExecSync(b.ctx(), "c1", program("no-such-program"), 0, 0); err == nil || !strings.Contains(err.Error(), "not found in $PATH") {
		t.Errorf("missing program: %v", err)
	}
	if _, err = s.ExecSync(b.ctx(), "c2", program("true"), 0, 0); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("missing container: %v", err)
	}
	spilled, _ := filepath.Glob(filepath.Join(b.dir, "run/shims/*/io/exec-*"))
	if len(spilled) > 0 {
		t.Errorf("left: %q", spilled)
	}
	b.remove(s, "c1")
}

func TestExecStream(t *testing.T) {
	b := newBench(t)
	s := b.sandbox("pod1")
	b.run(s, ctr{id: "c1", sandbox: "pod1", args: []string{"sleep", "1000"}})
	var out, errs bytes.Buffer
	in := strings.Repeat("0123456789abcde\n", 20_000)
	exit, err := s.Exec(b.ctx(), "c1", "e1", program("sh", "-c", "cat; echo done >&2; exit 5"), Streams{
		Stdin: strings.NewReader(in), Stdout: &out, Stderr: &errs,
	})
	if err != nil || exit.Code != 5 || out.String() != in || errs.String() != "done\n" {
		t.Errorf("%v, %v, %d bytes, %q", exit, err, out.Len(), errs.String())
	}
	out.Reset()
	p := program("sh", "-c", "stty size; stty -echo; echo ready; cat")
	p.Terminal = true
	sizes := make(chan Size, 1)
	sizes <- Size{100, 40}
	r, w := io.Pipe()
	ready := &notice{want: "ready", then: func() { w.Write([]byte("hello\n\x04")) }}
	exit, err = s.Exec(b.ctx(), "c1", "e2", p, Streams{Stdin: r, Stdout: ready, Resize: sizes})
	if got := ready.String(); err != nil || exit.Code != 0 || got != "40 100\r\nready\r\nhello\r\n" {
		t.Errorf("terminal: %v, %v, %q", exit, err, got)
	}
	_, err = s.Exec(b.ctx(), "c1", "e3", program("no-such-program"), Streams{Stdout: &out})
	if err == nil || !strings.Contains(err.Error(), "not found in $PATH") {
		t.Errorf("missing program: %v", err)
	}
	b.remove(s, "c1")
}

func TestExecEndsWithItsClient(t *testing.T) {
	b := newBench(t)
	s := b.sandbox("pod1")
	b.run(s, ctr{id: "c1", sandbox: "pod1", args: []string{"sleep", "1000"}})
	r, err := s.Berth().Exec(b.ctx(), &pb.ExecRequest{Id: "c1", ExecId: "e", Process: []byte(`{"args":["sleep","999"],"cwd":"/","env":["PATH=/bin"]}`), Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := contextWithCancel(b)
	done := make(chan error)
	go func() { _, err := stream(ctx, r, Streams{Stdout: io.Discard}); done <- err }()
	pids := func() int {
		p, err := s.Task().Pids(b.ctx(), &taskv3.PidsRequest{ID: "c1"})
		if err != nil {
			t.Fatal(err)
		}
		return len(p.Processes)
	}
	b.until("exec", func() bool { return pids() == 2 })
	cancel()
	<-done
	b.until("end of exec", func() bool { return pids() == 1 })
	b.remove(s, "c1")
}

func TestAttach(t *testing.T) {
	b := newBench(t)
	s := b.sandbox("pod1")
	b.run(s, ctr{id: "c1", sandbox: "pod1", stdin: true, args: []string{"sh", "-c", "cat; echo end >&2; exit 6"}})
	var out, errs bytes.Buffer
	exit, err := s.Attach(b.ctx(), "c1", Streams{Stdin: strings.NewReader("hello\n"), Stdout: &out, Stderr: &errs})
	if err != nil || exit.Code != 6 || out.String() != "hello\n" || errs.String() != "end\n" {
		t.Errorf("%v, %v, %q, %q", exit, err, out.String(), errs.String())
	}
	// Two FIFOs: the order of nearly simultaneous lines of the two streams is not known to anybody.
	if got := strings.Join(b.log("c1"), ";"); got != "stdout F hello;stderr F end" && got != "stderr F end;stdout F hello" {
		t.Errorf("log %q", got)
	}
	b.remove(s, "c1")
}

func TestTerminal(t *testing.T) {
	b := newBench(t)
	s := b.sandbox("pod1")
	b.run(s, ctr{id: "c1", sandbox: "pod1", tty: true, stdin: true, args: []string{"sh", "-c", "read x; echo got $x; stty size"}})
	if _, err := s.Task().ResizePty(b.ctx(), &taskv3.ResizePtyRequest{ID: "c1", Width: 90, Height: 30}); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	r, w := io.Pipe()
	go w.Write([]byte("word\n"))
	exit, err := s.Attach(b.ctx(), "c1", Streams{Stdin: r, Stdout: &out})
	w.Close()
	if err != nil || exit.Code != 0 {
		t.Fatal(exit, err)
	}
	if got := strings.Join(b.log("c1"), ";"); !strings.Contains(got, "stdout F got word\r") || !strings.Contains(got, "stdout F 30 90\r") {
		t.Errorf("log %q, attached %q", got, out.String())
	}
	b.remove(s, "c1")
}

func TestStandardStdioAndExec(t *testing.T) {
	b := newBench(t)
	s := b.sandbox("pod1")
	fifo := func(name string) (string, *os.File) {
		path := filepath.Join(b.dir, name)
		if err := syscall.Mkfifo(path, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return path, f
	}
	in, inW := fifo("in")
	out, outR := fifo("out")
	c := ctr{id: "c1", sandbox: "pod1", args: []string{"cat"}}
	if _, err := s.Task().Create(b.ctx(), &taskv3.CreateTaskRequest{ID: "c1", Bundle: b.bundle(c), Stdin: in, Stdout: out}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Task().Start(b.ctx(), &taskv3.StartRequest{ID: "c1"}); err != nil {
		t.Fatal(err)
	}
	inW.WriteString("through\n")
	buf := make([]byte, 100)
	if n, err := outR.Read(buf); err != nil || string(buf[:n]) != "through\n" {
		t.Errorf("%q, %v", buf[:n], err)
	}

	spec := &anyJSON{`{"args":["sh","-c","echo exec; exit 7"],"cwd":"/","env":["PATH=/bin"]}`}
	if _, err := s.Task().Exec(b.ctx(), &taskv3.ExecProcessRequest{ID: "c1", ExecID: "e1", Stdout: out, Spec: spec.any()}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Task().Start(b.ctx(), &taskv3.StartRequest{ID: "c1", ExecID: "e1"}); err != nil {
		t.Fatal(err)
	}
	w, err := s.Task().Wait(b.ctx(), &taskv3.WaitRequest{ID: "c1", ExecID: "e1"})
	if err != nil || w.ExitStatus != 7 {
		t.Errorf("%v, %v", w, err)
	}
	if n, err := outR.Read(buf); err != nil || string(buf[:n]) != "exec\n" {
		t.Errorf("%q, %v", buf[:n], err)
	}
	if _, err := s.Task().Delete(b.ctx(), &taskv3.DeleteRequest{ID: "c1", ExecID: "e1"}); err != nil {
		t.Error(err)
	}

	inW.Close() // the shim keeps the input open until CloseIO
	time.Sleep(20 * time.Millisecond)
	if st, err := s.Task().State(b.ctx(), &taskv3.StateRequest{ID: "c1"}); err != nil || st.Status != tasktypes.Status_RUNNING {
		t.Errorf("%v, %v", st, err)
	}
	if _, err := s.Task().CloseIO(b.ctx(), &taskv3.CloseIORequest{ID: "c1", Stdin: true}); err != nil {
		t.Error(err)
	}
	if code := b.wait(s, "c1"); code != 0 {
		t.Errorf("exit code %d", code)
	}
	b.remove(s, "c1")
}

func TestPauseStatsPids(t *testing.T) {
	b := newBench(t)
	s := b.sandbox("pod1")
	b.run(s, ctr{id: "c1", sandbox: "pod1", args: []string{"sleep", "1000"}})
	if _, err := s.Task().Pause(b.ctx(), &taskv3.PauseRequest{ID: "c1"}); err != nil {
		t.Fatal(err)
	}
	if c := b.state(s, "c1"); c.Status != pb.Status_STATUS_PAUSED {
		t.Errorf("%v", c)
	}
	if _, err := s.Task().Resume(b.ctx(), &taskv3.ResumeRequest{ID: "c1"}); err != nil {
		t.Fatal(err)
	}
	st, err := s.Berth().Stats(b.ctx(), &pb.StatsRequest{})
	if err != nil || len(st.Containers) != 1 || st.Containers[0].MemoryUsage == 0 || st.Containers[0].Pids != 1 {
		t.Errorf("%v, %v", st, err)
	}
	tr, err := s.Berth().Trace(b.ctx(), &pb.TraceRequest{Id: "c1"})
	if err != nil || len(tr.Spans) < 4 {
		t.Errorf("%v, %v", tr, err)
	}
	if _, err := s.Task().Checkpoint(b.ctx(), &taskv3.CheckpointTaskRequest{ID: "c1", Path: "relative"}); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("checkpoint: %v", err)
	}
	b.remove(s, "c1")
}

func TestGroups(t *testing.T) {
	b := newBench(t)
	b.m.cfg.GroupSize = 2
	acquire := func(id, tenant string) string {
		s, err := b.m.Acquire(b.ctx(), Placement{SandboxID: id, Tenant: tenant})
		if err != nil {
			t.Fatal(err)
		}
		return s.Group()
	}
	a1, a2, a3 := acquire("a1", "a"), acquire("a2", "a"), acquire("a3", "a")
	other := acquire("b1", "b")
	if a1 != a2 || a3 == a1 || other == a1 || other == a3 {
		t.Errorf("groups %q %q %q, other tenant %q", a1, a2, a3, other)
	}
	if again := acquire("a1", "a"); again != a1 {
		t.Errorf("a1 moved from %q to %q", a1, again)
	}
	s, _ := b.m.Lookup("a3")
	pid := s.Pid()
	if err := b.m.Release(b.ctx(), "a3"); err != nil {
		t.Fatal(err)
	}
	b.until("end of the shim without sandboxes", func() bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) })
	if err := b.m.Release(b.ctx(), "a3"); err != nil {
		t.Errorf("second release: %v", err)
	}
	if _, err := b.m.Acquire(b.ctx(), Placement{SandboxID: "../x"}); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("%v", err)
	}
	if _, err := b.m.Acquire(b.ctx(), Placement{SandboxID: "x", Handler: "none"}); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("%v", err)
	}
}

// An empty group waits for another pod of its tenant, and ends if none comes.
func TestEmptyGroupLingers(t *testing.T) {
	b := newBench(t)
	b.crash()
	b.cfg.Linger = 300 * time.Millisecond
	b.open()
	acquire := func(id, tenant string) *Shim {
		t.Helper()
		s, err := b.m.Acquire(b.ctx(), Placement{SandboxID: id, Tenant: tenant})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	release := func(id string) {
		t.Helper()
		if err := b.m.Release(b.ctx(), id); err != nil {
			t.Fatal(err)
		}
	}
	first := acquire("p1", "a")
	release("p1")
	if next := acquire("p2", "a"); next.Group() != first.Group() {
		t.Errorf("another shim, %q after %q", next.Group(), first.Group())
	}
	release("p2")
	if other := acquire("p3", "b"); other.Group() == first.Group() {
		t.Error("a shim was given to another tenant")
	}
	b.until("the end of the empty shim", func() bool { return len(b.m.Inventory().Groups) == 1 })
	release("p3")
	pid := acquire("p4", "c").Pid()
	release("p4")
	if err := b.m.Close(); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		t.Error("a shim without pods outlives the manager")
	}
	b.open()
}

func TestSpare(t *testing.T) {
	b := newBench(t)
	b.crash()
	b.cfg.Spare = true
	b.open()
	groups := func() int { return len(b.m.Inventory().Groups) }
	b.until("spare", func() bool { return groups() == 1 })
	spare := b.m.Inventory().Groups[0].ID
	if s := b.sandbox("pod1"); s.Group() != spare {
		t.Errorf("pod1 got %q, the spare is %q", s.Group(), spare)
	}
	b.until("another spare", func() bool { return groups() == 2 })
	b.crash()
	b.cfg.Spare = false
	b.open()
	b.until("end of the old spare", func() bool { return groups() == 1 })
}

func TestSandbox(t *testing.T) {
	b := newBench(t)
	s := b.sandbox("pod1")
	if _, err := s.Sandbox().StartSandbox(b.ctx(), &sandboxv1.StartSandboxRequest{SandboxID: "pod1"}); err != nil {
		t.Fatal(err)
	}
	st, err := s.Sandbox().SandboxStatus(b.ctx(), &sandboxv1.SandboxStatusRequest{SandboxID: "pod1"})
	if err != nil || st.State != "ready" || st.Info["ipc"] == "" || st.Info["uts"] == "" {
		t.Fatal(st, err)
	}
	for _, ns := range []string{"ipc", "uts"} {
		host, _ := os.Stat("/proc/self/ns/" + ns)
		own, err := os.Stat(st.Info[ns])
		if err != nil || os.SameFile(host, own) {
			t.Errorf("%s: %v", ns, err)
		}
	}
	b.run(s, ctr{id: "c1", sandbox: "pod1", args: []string{"sleep", "1000"}})
	if _, err := s.Sandbox().StopSandbox(b.ctx(), &sandboxv1.StopSandboxRequest{SandboxID: "pod1"}); err != nil {
		t.Fatal(err)
	}
	if code := b.wait(s, "c1"); code != 137 {
		t.Errorf("exit code %d", code)
	}
	if _, err := s.Sandbox().ShutdownSandbox(b.ctx(), &sandboxv1.ShutdownSandboxRequest{SandboxID: "pod1"}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Sandbox().SandboxStatus(b.ctx(), &sandboxv1.SandboxStatusRequest{SandboxID: "pod1"}); !errors.Is(err, errdefs.ErrNotFound) {
		t.Error(err)
	}
}
