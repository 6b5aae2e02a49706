package server

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/api/events"
	sandboxv1 "github.com/containerd/containerd/api/runtime/sandbox/v1"
	taskv3 "github.com/containerd/containerd/api/runtime/task/v3"
	eventsv1 "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/11f9778f/berth/internal/engine"
	"github.com/11f9778f/berth/internal/engine/cgroup"
	"github.com/11f9778f/berth/internal/shim/api/pb"
	"github.com/11f9778f/berth/internal/shim/state"
)

// fake is an Engine without a kernel.
type fake struct {
	mu      sync.Mutex
	creates int
	hang    chan struct{} // Create of "hang" waits for it
	made    map[string]*fakeContainer
	rootfs  []engine.Mount // of the last Create
	gone    []string       // abandoned cgroups
}

func (f *fake) LoadSpec(bundle string) (*specs.Spec, error) {
	return &specs.Spec{Process: &specs.Process{Args: []string{"x"}}, Linux: &specs.Linux{CgroupsPath: "/fake/" + filepath.Base(bundle)}}, nil
}

func (f *fake) Create(ctx context.Context, o engine.CreateOptions) (Container, error) {
	f.mu.Lock()
	f.creates, f.rootfs = f.creates+1, o.Rootfs
	f.mu.Unlock()
	switch o.ID {
	case "hang":
		select {
		case <-f.hang:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	case "panic":
		panic("fault in the engine")
	case "fail":
		return nil, errors.New("no")
	}
	c := &fakeContainer{id: o.ID, p: &fakeProcess{pid: 1000, done: make(chan struct{})}}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.made[o.ID] = c
	return c, nil
}

func (f *fake) Adopt(_ context.Context, st engine.State, _ *specs.Spec, _ engine.AdoptOptions) (Container, error) {
	c := &fakeContainer{id: st.ID, started: st.Started, p: &fakeProcess{pid: st.Pid, done: make(chan struct{})}}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.made[st.ID] = c
	return c, nil
}

func (f *fake) Abandon(_ context.Context, path string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.gone = append(f.gone, path)
	return nil
}

func (f *fake) Prepare() error { return nil }

func (f *fake) PinNamespaces(context.Context, engine.PinOptions) error { return nil }
func (f *fake) UnpinNamespaces(string) error                           { return nil }

func (f *fake) end(id string, code int) {
	f.mu.Lock()
	c := f.made[id]
	f.mu.Unlock()
	c.p.end(code)
}

type fakeContainer struct {
	id      string
	p       *fakeProcess
	started bool
}

func (c *fakeContainer) Start(context.Context) error {
	if c.id == "unstartable" {
		return errors.New("no such program")
	}
	c.started = true
	return nil
}
func (c *fakeContainer) Restore(context.Context, engine.RestoreOptions) (Container, error) {
	return c, nil
}
func (c *fakeContainer) Init() Process { return c.p }
func (c *fakeContainer) Exec(context.Context, engine.ExecOptions) (Process, error) {
	return nil, errors.New("no exec")
}
func (c *fakeContainer) State() engine.State {
	return engine.State{ID: c.id, Pid: c.p.pid, Started: c.started}
}
func (c *fakeContainer) Kill(context.Context) error                          { c.p.end(137); return nil }
func (c *fakeContainer) Pause(context.Context) error                         { return nil }
func (c *fakeContainer) Resume(context.Context) error                        { return nil }
func (c *fakeContainer) Update(context.Context, *specs.LinuxResources) error { return nil }
func (c *fakeContainer) Stats() (*cgroup.Stats, error)                       { return &cgroup.Stats{}, nil }
func (c *fakeContainer) Pids() ([]int, error)                                { return []int{c.p.pid}, nil }
func (c *fakeContainer) OOMKills() (uint64, error)                           { return 1, nil }
func (c *fakeContainer) Delete(context.Context) error                        { c.p.end(137); return nil }

type fakeProcess struct {
	pid  int
	once sync.Once
	code int
	done chan struct{}
}

func (p *fakeProcess) end(code int)      { p.once.Do(func() { p.code = code; close(p.done) }) }
func (p *fakeProcess) Pid() int          { return p.pid }
func (p *fakeProcess) PidFD() *os.File   { return nil }
func (p *fakeProcess) Console() *os.File { return nil }
func (p *fakeProcess) Signal(s syscall.Signal) error {
	select {
	case <-p.done:
		return os.ErrProcessDone
	default:
		p.end(128 + int(s))
		return nil
	}
}
func (p *fakeProcess) Wait(ctx context.Context) (engine.ExitStatus, error) {
	select {
	case <-p.done:
		return engine.ExitStatus{Code: p.code, At: time.Now()}, nil
	case <-ctx.Done():
		return engine.ExitStatus{}, ctx.Err()
	}
}

// rig is a Server over a fake engine, and a client of it.
type rig struct {
	t       *testing.T
	dir     string
	fake    *fake
	s       *Server
	served  chan error
	task    taskv3.TTRPCTaskService
	sandbox sandboxv1.TTRPCSandboxService
	shim    pb.ShimService
	ctx     context.Context
}

func newRig(t *testing.T, dir string, managed bool) *rig {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	r := &rig{t: t, dir: dir, fake: &fake{hang: make(chan struct{}), made: map[string]*fakeContainer{}}, served: make(chan error, 1), ctx: ctx}
	var err error
	r.s, err = New(Config{Dir: dir, Group: "g", Generation: 1, Namespace: "ns", Managed: managed, Engine: r.fake})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.s.Recover(ctx); err != nil {
		t.Fatal(err)
	}
	rpc, fd, stream, err := Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	go func() { r.served <- r.s.Serve(ctx, rpc, fd, stream) }()
	conn, err := net.Dial("unix", filepath.Join(dir, SocketTTRPC))
	if err != nil {
		t.Fatal(err)
	}
	c := ttrpc.NewClient(conn)
	t.Cleanup(func() { c.Close() })
	r.task, r.sandbox, r.shim = taskv3.NewTTRPCTaskClient(c), sandboxv1.NewTTRPCSandboxClient(c), pb.NewShimClient(c)
	return r
}

func (r *rig) create(id string) error {
	_, err := r.task.Create(r.ctx, &taskv3.CreateTaskRequest{ID: id, Bundle: "/bundles/" + id})
	return err
}

func (r *rig) run(id string) {
	r.t.Helper()
	if err := r.create(id); err != nil {
		r.t.Fatal(err)
	}
	if _, err := r.task.Start(r.ctx, &taskv3.StartRequest{ID: id}); err != nil {
		r.t.Fatal(err)
	}
}

// A Create that starts answers for a program that runs, and leaves nothing of one that does not.
func TestCreateStarts(t *testing.T) {
	r := newRig(t, t.TempDir(), true)
	if hello, err := r.shim.Hello(r.ctx, &pb.HelloRequest{}); err != nil || !hello.Starts {
		t.Errorf("hello %v, %v", hello, err)
	}
	opts, err := anypb.New(&pb.CreateOptions{Start: true})
	if err != nil {
		t.Fatal(err)
	}
	resp, err := r.task.Create(r.ctx, &taskv3.CreateTaskRequest{ID: "c1", Bundle: "/bundles/c1", Options: opts})
	if err != nil || resp.Pid != 1000 {
		t.Fatalf("%v, %v", resp, err)
	}
	if st, err := r.task.State(r.ctx, &taskv3.StateRequest{ID: "c1"}); err != nil || st.Status != tasktypes.Status_RUNNING {
		t.Errorf("it is %v, %v", st, err)
	}
	_, err = r.task.Create(r.ctx, &taskv3.CreateTaskRequest{ID: "unstartable", Bundle: "/bundles/unstartable", Options: opts})
	if err == nil || !strings.Contains(err.Error(), "no such program") {
		t.Errorf("one that does not start: %v", err)
	}
	if _, err := r.task.State(r.ctx, &taskv3.StateRequest{ID: "unstartable"}); !errdefs.IsNotFound(errgrpc.ToNative(err)) {
		t.Errorf("of it is left: %v", err)
	}
}

func TestHungCreateHoldsUpNoOther(t *testing.T) {
	r := newRig(t, t.TempDir(), true)
	results := make(chan error, 3)
	for range 3 { // repeated calls join the one in flight
		go func() { results <- r.create("hang") }()
	}
	for range 50 {
		r.run("c1")
		if _, err := r.task.Kill(r.ctx, &taskv3.KillRequest{ID: "c1", Signal: 9}); err != nil {
			t.Fatal(err)
		}
		if _, err := r.task.Wait(r.ctx, &taskv3.WaitRequest{ID: "c1"}); err != nil {
			t.Fatal(err)
		}
		if _, err := r.task.Delete(r.ctx, &taskv3.DeleteRequest{ID: "c1"}); err != nil {
			t.Fatal(err)
		}
	}
	list, err := r.shim.List(r.ctx, &pb.ListRequest{})
	if err != nil || len(list.Containers) != 1 {
		t.Errorf("%v, %v", list, err)
	}
	close(r.fake.hang)
	for range 3 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	if r.fake.creates != 51 {
		t.Errorf("the engine was asked %d times", r.fake.creates)
	}
}

func TestErrorsHaveCodes(t *testing.T) {
	r := newRig(t, t.TempDir(), true)
	is := func(what string, err, want error) {
		t.Helper()
		if err := errgrpc.ToNative(err); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
	}
	is("a fault in the engine", r.create("panic"), errdefs.ErrInternal)
	is("the same again", r.create("panic"), errdefs.ErrInternal)
	is("a failure of the engine", r.create("fail"), errdefs.ErrUnknown)
	_, err := r.task.Start(r.ctx, &taskv3.StartRequest{ID: "none"})
	is("unknown container", err, errdefs.ErrNotFound)
	r.run("c1")
	is("create of a running container", r.create("c1"), errdefs.ErrAlreadyExists)
	_, err = r.task.Delete(r.ctx, &taskv3.DeleteRequest{ID: "c1"})
	is("delete of a running container", err, errdefs.ErrFailedPrecondition)
	_, err = r.task.Start(r.ctx, &taskv3.StartRequest{ID: "c1"})
	is("start of a running container", err, nil)
	_, err = r.task.State(r.ctx, &taskv3.StateRequest{ID: "c1", ExecID: "none"})
	is("unknown exec", err, errdefs.ErrNotFound)
	_, err = r.shim.ReopenLog(r.ctx, &pb.ReopenLogRequest{Id: "c1"})
	is("reopen no log", err, errdefs.ErrFailedPrecondition)
	_, err = r.task.ResizePty(r.ctx, &taskv3.ResizePtyRequest{ID: "c1"})
	is("resize no terminal", err, errdefs.ErrFailedPrecondition)
	_, err = r.task.Shutdown(r.ctx, &taskv3.ShutdownRequest{})
	is("shut down a shim that keeps something", err, errdefs.ErrFailedPrecondition)
	_, err = r.sandbox.UpdateSandbox(r.ctx, &sandboxv1.UpdateSandboxRequest{SandboxID: "c1"})
	is("update sandbox", err, errdefs.ErrNotImplemented)
	r.fake.end("c1", 0)
	if _, err := r.task.Wait(r.ctx, &taskv3.WaitRequest{ID: "c1"}); err != nil {
		t.Fatal(err)
	}
	_, err = r.task.Kill(r.ctx, &taskv3.KillRequest{ID: "c1", Signal: 15})
	is("signal to what has ended", err, errdefs.ErrNotFound)
	_, err = r.task.Start(r.ctx, &taskv3.StartRequest{ID: "c1"})
	is("start of what has ended", err, errdefs.ErrFailedPrecondition)
}

// sink is a daemon's events service.
type sink struct{ got chan *eventsv1.ForwardRequest }

func (s sink) Forward(_ context.Context, r *eventsv1.ForwardRequest) (*emptypb.Empty, error) {
	s.got <- r
	return &emptypb.Empty{}, nil
}

func TestEventsWaitForTheDaemon(t *testing.T) {
	r := newRig(t, t.TempDir(), true)
	for range 100 { // nobody listens, and nothing waits for anybody
		r.run("c1")
		r.fake.end("c1", 7)
		if _, err := r.task.Wait(r.ctx, &taskv3.WaitRequest{ID: "c1"}); err != nil {
			t.Fatal(err)
		}
		if _, err := r.task.Delete(r.ctx, &taskv3.DeleteRequest{ID: "c1"}); err != nil {
			t.Fatal(err)
		}
	}
	address := filepath.Join(r.dir, "events.sock")
	l, err := net.Listen("unix", address)
	if err != nil {
		t.Fatal(err)
	}
	srv, _ := ttrpc.NewServer()
	defer srv.Close()
	got := sink{make(chan *eventsv1.ForwardRequest, 1000)}
	eventsv1.RegisterTTRPCEventsService(srv, got)
	go srv.Serve(r.ctx, l)
	h, err := r.shim.Hello(r.ctx, &pb.HelloRequest{EventsAddress: address})
	if err != nil || h.Group != "g" || h.Generation != 1 || h.Pid != uint32(os.Getpid()) {
		t.Fatal(h, err)
	}
	for i := range 100 {
		for _, topic := range []string{"/tasks/start", "/tasks/oom", "/tasks/exit"} {
			select {
			case e := <-got.got:
				if e.Envelope.Topic != topic || e.Envelope.Namespace != "ns" {
					t.Fatalf("event %d is %v, want %s", i, e.Envelope, topic)
				}
				var exit events.TaskExit
				if topic == "/tasks/exit" && (proto.Unmarshal(e.Envelope.Event.Value, &exit) != nil || exit.ExitStatus != 7 || exit.ContainerID != "c1" || exit.ID != "c1") {
					t.Fatalf("exit %v", &exit)
				}
			case <-time.After(2 * time.Minute):
				t.Fatal("no event")
			}
		}
	}
}

func TestSuccessorFinishesOrUndoes(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, dir, true)
	r.run("runs")
	r.run("ended")
	r.fake.end("ended", 5)
	if _, err := r.task.Wait(r.ctx, &taskv3.WaitRequest{ID: "ended"}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.sandbox.CreateSandbox(r.ctx, &sandboxv1.CreateSandboxRequest{SandboxID: "pod", NetnsPath: "/netns"}); err != nil {
		t.Fatal(err)
	}
	// A Create that was killed after its intent, and files that are not what they should be.
	if err := state.Save(filepath.Join(dir, "containers/half.json"), record{ID: "half", Bundle: "/bundles/half", Cgroup: "/fake/half"}); err != nil {
		t.Fatal(err)
	}
	os.WriteFile(filepath.Join(dir, "containers/bad.json"), []byte("{"), 0o600)
	os.WriteFile(filepath.Join(dir, "sandboxes/bad.json"), nil, 0o600)

	next := newRig(t, dir, true)
	list, err := next.shim.List(next.ctx, &pb.ListRequest{})
	if err != nil || len(list.Containers) != 2 || len(list.Sandboxes) != 1 {
		t.Fatal(list, err)
	}
	if c := list.Containers[0]; c.Id != "ended" || c.Status != pb.Status_STATUS_STOPPED || c.Exit.Code != 5 || !c.Exit.OomKilled {
		t.Errorf("%v", c)
	}
	if c := list.Containers[1]; c.Id != "runs" || c.Status != pb.Status_STATUS_RUNNING || !c.Adopted {
		t.Errorf("%v", c)
	}
	if b := list.Sandboxes[0]; b.Id != "pod" || b.NetnsPath != "/netns" || !strings.HasSuffix(b.IpcPath, "pods/pod/ns/ipc") {
		t.Errorf("%v", b)
	}
	if len(next.fake.gone) != 1 || next.fake.gone[0] != "/fake/half" {
		t.Errorf("undone: %q", next.fake.gone)
	}
	if _, err := os.Stat(filepath.Join(dir, "containers/half.json")); err == nil {
		t.Error("the intent is still there")
	}
}

func TestShutdownEndsTheShim(t *testing.T) {
	for _, managed := range []bool{true, false} {
		r := newRig(t, t.TempDir(), managed)
		if _, err := r.sandbox.CreateSandbox(r.ctx, &sandboxv1.CreateSandboxRequest{SandboxID: "pod"}); err != nil {
			t.Fatal(err)
		}
		if _, err := r.sandbox.ShutdownSandbox(r.ctx, &sandboxv1.ShutdownSandboxRequest{SandboxID: "pod"}); err != nil {
			t.Fatal(err)
		}
		if managed { // the daemon says when
			if _, err := r.task.Shutdown(r.ctx, &taskv3.ShutdownRequest{}); err != nil {
				t.Fatal(err)
			}
		}
		select {
		case err := <-r.served:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(2 * time.Minute):
			t.Error("it does not end")
		}
	}
}

func FuzzParseProcess(f *testing.F) {
	f.Add([]byte(`{"args":["x"]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := parseProcess(b); err == nil && len(p.Args) == 0 {
			t.Fatal("a process without args")
		}
	})
}

func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"version":1,"data":{"id":"x","bundle":"/b","engine":{"pid":1}}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var rec record
		_ = state.Parse(b, &rec)
		_ = rec.Stdio.check(true)
	})
}
