package client

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	sandboxv1 "github.com/containerd/containerd/api/runtime/sandbox/v1"
	taskv3 "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/11f9778f/berth/internal/engine"
	"github.com/11f9778f/berth/internal/engine/cgroup"
	"github.com/11f9778f/berth/internal/shim/api"
	"github.com/11f9778f/berth/internal/shim/api/pb"
)

const busybox = "/usr/bin/busybox"

// buildShim builds the shim once for all tests of the package.
var buildShim = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "berth-shim-test-")
	if err != nil {
		return "", err
	}
	bin := filepath.Join(dir, DefaultBinary)
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", bin, "github.com/11f9778f/berth/cmd/containerd-shim-berth-v1")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // as it is shipped
	out, err := build.CombinedOutput()
	if err != nil {
		return dir, fmt.Errorf("build shim: %w: %s", err, out)
	}
	return bin, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if os.Getuid() == 0 && built {
		if bin, _ := buildShim(); bin != "" {
			os.RemoveAll(strings.TrimSuffix(bin, "/"+DefaultBinary))
		}
	}
	os.Exit(code)
}

var built bool

// bench is a daemon's surroundings: a run directory, a rootfs, a cgroup parent, and at most one Manager at a time.
type bench struct {
	t      testing.TB
	dir    string
	bin    string
	cgroup string
	rootfs string
	cfg    Config
	m      *Manager
	logs   *bytes.Buffer
	logDir string // of the containers' logs, if not dir

	mu     sync.Mutex
	events []Event
}

func newBench(t testing.TB) *bench {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: containers are made")
	}
	if _, err := os.Stat(busybox); err != nil {
		t.Skip("needs " + busybox + " (package busybox-static) as a root filesystem")
	}
	built = true
	bin, err := buildShim()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "bs") // short: sockets live in it
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, dir: dir, bin: bin, cgroup: "/berth-shim-test-" + filepath.Base(dir), rootfs: filepath.Join(dir, "rootfs"), logs: &bytes.Buffer{}}
	b.makeRootfs()
	b.cfg = Config{RunDir: filepath.Join(dir, "run"), Handlers: map[string]Handler{"": {Binary: bin}}, Logger: slog.New(slog.NewTextHandler(b.logs, nil))}
	t.Cleanup(b.tearDown)
	b.open()
	return b
}

func (b *bench) makeRootfs() {
	b.t.Helper()
	for _, d := range []string{"bin", "dev", "proc", "sys", "tmp", "etc"} {
		if err := os.MkdirAll(filepath.Join(b.rootfs, d), 0o755); err != nil {
			b.t.Fatal(err)
		}
	}
	os.Chmod(filepath.Join(b.rootfs, "tmp"), 0o1777)
	data, err := os.ReadFile(busybox)
	if err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(b.rootfs, "bin/busybox"), data, 0o755); err != nil {
		b.t.Fatal(err)
	}
	for _, name := range strings.Fields("sh cat echo sleep true false id stty seq head yes usleep dd tr od cut") {
		os.Symlink("busybox", filepath.Join(b.rootfs, "bin", name))
	}
}

func (b *bench) open() {
	b.t.Helper()
	m, err := Open(b.ctx(), b.cfg)
	if err != nil {
		b.t.Fatal(err)
	}
	b.m = m
	go func() {
		for e := range m.Events() {
			b.mu.Lock()
			b.events = append(b.events, e)
			b.mu.Unlock()
		}
	}()
}

// crash drops the manager as a kill -9 of the daemon would: connections end, nothing is told to anybody.
func (b *bench) crash() {
	b.m.Close()
	b.m = nil
}

func (b *bench) tearDown() {
	if b.t.Failed() {
		b.t.Logf("manager's log:\n%s", b.logs)
		logs, _ := filepath.Glob(filepath.Join(b.dir, "run/shims/*/shim.log"))
		for _, l := range logs {
			text, _ := os.ReadFile(l)
			b.t.Logf("%s:\n%s", l, text)
		}
	}
	if b.m == nil {
		b.open()
	}
	for _, g := range b.m.Inventory().Groups {
		for _, id := range g.Sandboxes {
			if err := b.m.Release(b.ctx(), id); err != nil {
				b.t.Errorf("release %s: %v", id, err)
			}
		}
	}
	if err := b.m.Close(); err != nil {
		b.t.Error(err)
	}
	left, _ := os.ReadDir(filepath.Join(b.dir, "run/shims"))
	for _, e := range left {
		b.t.Errorf("%s is left in the shims' directory", e.Name())
	}
	if g, err := cgroup.Load(b.cgroup); err == nil && g.Exists() {
		if pids, _ := g.Pids(); len(pids) > 0 {
			b.t.Errorf("processes are left: %v", pids)
			g.Kill(b.ctx())
		}
		if err := g.Delete(b.ctx()); err != nil {
			b.t.Error(err)
		}
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	if bytes.Contains(mounts, []byte(b.dir)) {
		b.t.Errorf("mounts are left in %s", b.dir)
	}
	if err := os.RemoveAll(b.dir); err != nil {
		b.t.Error(err)
	}
}

func (b *bench) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	b.t.Cleanup(cancel)
	return ctx
}

// sandbox makes a sandbox.
func (b *bench) sandbox(id string) *Shim {
	b.t.Helper()
	s, err := b.m.Acquire(b.ctx(), Placement{SandboxID: id, Tenant: "t"})
	if err != nil {
		b.t.Fatal(err)
	}
	o, _ := anypb.New(&pb.SandboxOptions{Hostname: id})
	if _, err := s.Sandbox().CreateSandbox(b.ctx(), &sandboxv1.CreateSandboxRequest{SandboxID: id, Options: o}); err != nil {
		b.t.Fatal(err)
	}
	return s
}

// ctr is a container to make.
type ctr struct {
	id, sandbox string
	args        []string
	tty, stdin  bool
	uid         uint32
	change      func(*specs.Spec)
}

func (b *bench) bundle(c ctr) string {
	b.t.Helper()
	dir := filepath.Join(b.dir, "bundles", c.id)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		b.t.Fatal(err)
	}
	s := engine.DefaultSpec()
	s.Root = &specs.Root{Path: b.rootfs}
	s.Process.Args = c.args
	s.Process.Terminal = c.tty
	s.Process.User = specs.User{UID: c.uid, GID: c.uid}
	s.Linux.CgroupsPath = b.cgroup + "/" + c.id
	s.Annotations = map[string]string{api.AnnotationSandboxID: c.sandbox}
	if c.change != nil {
		c.change(s)
	}
	data, err := json.Marshal(s)
	if err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), data, 0o600); err != nil {
		b.t.Fatal(err)
	}
	return dir
}

func (b *bench) logPath(id string) string { return filepath.Join(cmp.Or(b.logDir, b.dir), id+".log") }

// create makes a container that logs to logPath.
func (b *bench) create(s *Shim, c ctr) error {
	b.t.Helper()
	r := &taskv3.CreateTaskRequest{
		ID: c.id, Bundle: b.bundle(c), Terminal: c.tty, Stdout: api.SchemeCRILog + b.logPath(c.id), Stderr: api.SchemeCRILog + b.logPath(c.id),
		Rootfs: []*types.Mount{{Type: "bind", Source: b.rootfs, Options: []string{"rbind"}}},
	}
	if c.stdin {
		r.Stdin = api.SchemeAttach
		r.Options, _ = anypb.New(&pb.CreateOptions{StdinOnce: true})
	}
	_, err := s.Task().Create(b.ctx(), r)
	return err
}

// run makes and starts a container.
func (b *bench) run(s *Shim, c ctr) {
	b.t.Helper()
	if err := b.create(s, c); err != nil {
		b.t.Fatal(err)
	}
	if _, err := s.Task().Start(b.ctx(), &taskv3.StartRequest{ID: c.id}); err != nil {
		b.t.Fatal(err)
	}
}

// wait returns a container's exit code once it has ended.
func (b *bench) wait(s *Shim, id string) int {
	b.t.Helper()
	r, err := s.Task().Wait(b.ctx(), &taskv3.WaitRequest{ID: id})
	if err != nil {
		b.t.Fatal(err)
	}
	return int(r.ExitStatus)
}

// remove kills and deletes a container.
func (b *bench) remove(s *Shim, id string) {
	b.t.Helper()
	s.Task().Kill(b.ctx(), &taskv3.KillRequest{ID: id, Signal: uint32(syscall.SIGKILL), All: true})
	b.wait(s, id)
	if _, err := s.Task().Delete(b.ctx(), &taskv3.DeleteRequest{ID: id}); err != nil {
		b.t.Fatal(err)
	}
	left, _ := os.ReadDir(filepath.Join(b.dir, "bundles", id))
	for _, e := range left {
		if e.Name() != "config.json" {
			b.t.Errorf("%s is left in the bundle of %s", e.Name(), id)
		}
	}
}

// log returns tag and text of each record of a container's log.
func (b *bench) log(id string) []string {
	b.t.Helper()
	data, err := os.ReadFile(b.logPath(id))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		b.t.Fatal(err)
	}
	var out []string
	for line := range strings.Lines(string(data)) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 2)
		if len(f) != 2 {
			b.t.Fatalf("record %q", line)
		}
		out = append(out, f[1])
	}
	return out
}

func (b *bench) until(what string, ok func() bool) {
	b.t.Helper()
	for range 12000 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	b.t.Fatalf("%s did not happen", what)
}

// event waits for an event.
func (b *bench) event(what string, ok func(Event) bool) Event {
	b.t.Helper()
	var found Event
	b.until(what, func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, e := range b.events {
			if ok(e) {
				found = e
				return true
			}
		}
		return false
	})
	return found
}

func (b *bench) forget() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.events = nil
}

func exitOf(id string) func(Event) bool {
	return func(e Event) bool { return e.Kind == EventExit && e.ContainerID == id && e.ExecID == "" }
}

func kindOf(k EventKind) func(Event) bool { return func(e Event) bool { return e.Kind == k } }

func (b *bench) state(s *Shim, id string) *pb.Container {
	b.t.Helper()
	list, err := s.Berth().List(b.ctx(), &pb.ListRequest{})
	if err != nil {
		b.t.Fatal(err)
	}
	for _, c := range list.Containers {
		if c.Id == id {
			return c
		}
	}
	b.t.Fatalf("container %s is not listed", id)
	return nil
}

func program(args ...string) *specs.Process {
	p := engine.DefaultSpec().Process
	p.Args = args
	return p
}

func contextWithCancel(b *bench) (context.Context, context.CancelFunc) {
	return context.WithCancel(b.ctx())
}

// anyJSON is a spec as containerd's clients send it.
type anyJSON struct{ json string }

func (a anyJSON) any() *anypb.Any {
	return &anypb.Any{TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/Process", Value: []byte(a.json)}
}

// notice is output that reacts, once, to what is in it.
type notice struct {
	bytes.Buffer
	want string
	then func()
}

func (n *notice) Write(p []byte) (int, error) {
	n.Buffer.Write(p)
	if n.then != nil && bytes.Contains(n.Bytes(), []byte(n.want)) {
		go n.then()
		n.then = nil
	}
	return len(p), nil
}
