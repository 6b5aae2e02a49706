package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/11f9778f/berth/internal/engine"
	"github.com/11f9778f/berth/internal/engine/cgroup"
	"github.com/11f9778f/berth/internal/trace"
)

// world is all four rooms below the runtime, made of files: what exists outside outlives the process
// that made it, as it does in the kernel. Each thing is a file <dir>/<kind>/<name>.
type world struct {
	dir string

	mu     sync.Mutex
	fail   map[string]error         // by kind: the next makings fail
	block  map[string]chan struct{} // by kind: makings wait until it is closed or their context ends
	calls  []string
	lists  int // of all mounts
	events chan ShimEvent
}

func newWorld(dir string) *world {
	return &world{dir: dir, fail: map[string]error{}, block: map[string]chan struct{}{}, events: make(chan ShimEvent, 100)}
}

func (w *world) path(kind, name string) string {
	return filepath.Join(w.dir, kind, strings.ReplaceAll(strings.Trim(name, "/"), "/", "!"))
}

// touch is called at each effect: it logs, fails and blocks as told.
func (w *world) touch(ctx context.Context, kind string) error {
	w.mu.Lock()
	w.calls = append(w.calls, kind)
	err, block := w.fail[kind], w.block[kind]
	w.mu.Unlock()
	if block != nil {
		select {
		case <-block:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return err
}

func (w *world) set(f func()) { w.mu.Lock(); defer w.mu.Unlock(); f() }

func (w *world) make(ctx context.Context, kind, name string, v any) error {
	if err := w.touch(ctx, kind); err != nil {
		return err
	}
	b, _ := json.Marshal(v)
	if err := os.MkdirAll(filepath.Join(w.dir, kind), 0o700); err != nil {
		return err
	}
	return os.WriteFile(w.path(kind, name), b, 0o600)
}

func (w *world) unmake(ctx context.Context, kind, name string) error {
	if err := w.touch(ctx, "un"+kind); err != nil {
		return err
	}
	if err := os.Remove(w.path(kind, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (w *world) has(kind, name string) bool {
	_, err := os.Stat(w.path(kind, name))
	return err == nil
}

func (w *world) names(kind string) []string {
	dir, _ := os.ReadDir(filepath.Join(w.dir, kind))
	var out []string
	for _, d := range dir {
		out = append(out, strings.ReplaceAll(d.Name(), "!", "/"))
	}
	return out
}

// left lists everything that exists.
func (w *world) left() []string {
	var out []string
	filepath.WalkDir(w.dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			out = append(out, strings.TrimPrefix(p, w.dir+"/"))
		}
		return nil
	})
	sort.Strings(out)
	return out
}

// Images

type fakeImages struct{ w *world }

func (f fakeImages) Lookup(_ context.Context, ref string) (Image, error) {
	if ref != "img" {
		return Image{}, errdefs.ErrNotFound
	}
	return Image{ID: "sha256:1", Ref: "img@sha256:2", Config: ImageConfig{Cmd: []string{"/serve"}, User: "web", StopSignal: "SIGQUIT"}}, nil
}

func (f fakeImages) Prepare(ctx context.Context, key string, _ Image, _ *UserNamespace, _ int64) ([]engine.Mount, error) {
	return []engine.Mount{{Type: "overlay"}}, f.w.make(ctx, "snapshot", key, nil)
}
func (f fakeImages) View(ctx context.Context, key string, _ Image) ([]string, error) {
	return []string{"/layer"}, f.w.make(ctx, "snapshot", key, nil)
}
func (f fakeImages) Remove(ctx context.Context, key string) error {
	return f.w.unmake(ctx, "snapshot", key)
}
func (f fakeImages) Fill(ctx context.Context, key string, layer io.Reader) error {
	_, err := io.Copy(io.Discard, layer)
	return errors.Join(err, f.w.touch(ctx, "fill"))
}
func (f fakeImages) Usage(context.Context, string) (DiskUsage, error) {
	return DiskUsage{Bytes: 5}, nil
}
func (f fakeImages) ReadFile(_ context.Context, _ Image, path string, _ int64) ([]byte, error) {
	switch path {
	case "/etc/passwd":
		return []byte("root:x:0:0:root:/root:/bin/sh\nweb:x:33:44::/srv:/bin/false\n"), nil
	case "/etc/group":
		return []byte("root:x:0:\nlogs:x:55:web\n"), nil
	}
	return nil, fs.ErrNotExist
}
func (f fakeImages) Keys(context.Context) ([]string, error) { return f.w.names("snapshot"), nil }

// Network

type fakeNetwork struct{ w *world }

func (f fakeNetwork) CreateNetNS(ctx context.Context, id string, _ map[string]string) (string, error) {
	return "/netns/" + id, f.w.make(ctx, "netns", id, nil)
}
func (f fakeNetwork) AdoptNetNS(ctx context.Context, id, _ string) (string, error) {
	return f.CreateNetNS(ctx, id, nil)
}
func (f fakeNetwork) RemoveNetNS(ctx context.Context, id string) error {
	return f.w.unmake(ctx, "netns", id)
}
func (f fakeNetwork) Attach(ctx context.Context, r AttachRequest) ([]netip.Addr, error) {
	return []netip.Addr{netip.MustParseAddr("10.1.2.3")}, f.w.make(ctx, "network", r.SandboxID, nil)
}
func (f fakeNetwork) Detach(ctx context.Context, id string) error {
	return f.w.unmake(ctx, "network", id)
}
func (f fakeNetwork) Inventory(context.Context) ([]Resource, error) {
	var out []Resource
	for _, kind := range []string{"netns", "network"} {
		for _, n := range f.w.names(kind) {
			out = append(out, Resource{Kind: kind, Name: n, Owner: n})
		}
	}
	return out, nil
}

func (f fakeNetwork) Usage(context.Context) (map[string]InterfaceUsage, error) { return nil, nil }

func (f fakeNetwork) Repair(ctx context.Context, live func(string) bool) error {
	for _, kind := range []string{"network", "netns"} {
		for _, n := range f.w.names(kind) {
			if live(n) {
				continue
			}
			if err := f.w.unmake(ctx, kind, n); err != nil {
				return err
			}
		}
	}
	return nil
}

// Shims

type fakeShims struct{ w *world }

type fakeTask struct {
	Sandbox string
	Cgroup  string
	State   string // created, running, exited
	Code    int
}

func (f fakeShims) Acquire(ctx context.Context, p Placement) (Shim, error) {
	return fakeShim(f), f.w.make(ctx, "shim", p.SandboxID, nil)
}
func (f fakeShims) Lookup(id string) (Shim, bool) { return fakeShim(f), f.w.has("shim", id) }
func (f fakeShims) Release(ctx context.Context, id string) error {
	return f.w.unmake(ctx, "shim", id)
}
func (f fakeShims) Events() <-chan ShimEvent { return f.w.events }
func (f fakeShims) Inventory(context.Context) ([]Resource, error) {
	var out []Resource
	for _, n := range f.w.names("shim") {
		out = append(out, Resource{Kind: "shim", Name: n, Owner: n})
	}
	return out, nil
}

type fakeShim struct{ w *world }

func (f fakeShim) CreateSandbox(ctx context.Context, s ShimSandbox) (SandboxPlace, error) {
	return SandboxPlace{IPC: "/ns/ipc", UTS: "/ns/uts"}, f.w.make(ctx, "shim-sandbox", s.ID, nil)
}
func (f fakeShim) RemoveSandbox(ctx context.Context, id string) error {
	return f.w.unmake(ctx, "shim-sandbox", id)
}

// CreateTask makes the process's cgroup as well, as a shim does.
func (f fakeShim) RunTask(ctx context.Context, t Task) (int, error) {
	s, err := engine.LoadSpec(t.Bundle)
	if err != nil {
		return 0, err
	}
	if err := f.w.make(ctx, "cgroup", s.Linux.CgroupsPath, nil); err != nil {
		return 0, err
	}
	if err := f.w.make(ctx, "task", t.ID, fakeTask{Sandbox: t.Sandbox, Cgroup: s.Linux.CgroupsPath, State: "created"}); err != nil {
		return 0, err
	}
	if err := f.w.touch(ctx, "start"); err != nil {
		return 0, err
	}
	return 42, f.w.change(t.ID, func(t *fakeTask) { t.State = "running" })
}

func (w *world) task(id string) (fakeTask, bool) {
	var t fakeTask
	b, err := os.ReadFile(w.path("task", id))
	return t, err == nil && json.Unmarshal(b, &t) == nil
}

func (w *world) change(id string, f func(*fakeTask)) error {
	t, ok := w.task(id)
	if !ok {
		return errdefs.ErrNotFound
	}
	f(&t)
	b, _ := json.Marshal(t)
	return os.WriteFile(w.path("task", id), b, 0o600)
}

// exit ends a task and has the shim report it, unless that is blocked.
func (w *world) exit(id string, code int) {
	t, ok := w.task(id)
	if !ok || t.State != "running" {
		return
	}
	w.change(id, func(t *fakeTask) { t.State, t.Code = "exited", code })
	w.mu.Lock()
	mute := w.block["report"] != nil
	w.mu.Unlock()
	if !mute {
		w.events <- ShimEvent{Kind: ShimExit, ContainerID: id, Exit: Exit{Code: code, At: time.Now()}}
	}
}

func (f fakeShim) PauseTask(ctx context.Context, id string) error  { return f.w.touch(ctx, "pause") }
func (f fakeShim) ResumeTask(ctx context.Context, id string) error { return f.w.touch(ctx, "resume") }
func (f fakeShim) CheckpointTask(ctx context.Context, _, _, _ string) error {
	return f.w.touch(ctx, "checkpoint")
}
func (f fakeShim) Restores() bool { return true }
func (f fakeShim) KillTask(ctx context.Context, id string, sig int) error {
	return f.w.touch(ctx, "kill-task")
}

func (f fakeShim) DeleteTask(ctx context.Context, id string) error {
	t, ok := f.w.task(id)
	if err := f.w.unmake(ctx, "task", id); err != nil || !ok {
		return err
	}
	return f.w.unmake(ctx, "cgroup", t.Cgroup)
}
func (f fakeShim) UpdateTask(ctx context.Context, _ string, _ *specs.LinuxResources) error {
	return f.w.touch(ctx, "update")
}
func (f fakeShim) Tasks(ctx context.Context, sandbox string) ([]TaskState, error) {
	if err := f.w.touch(ctx, "tasks"); err != nil {
		return nil, err
	}
	var out []TaskState
	for _, id := range f.w.names("task") {
		if t, ok := f.w.task(id); ok && t.Sandbox == sandbox {
			out = append(out, TaskState{ID: id, Pid: 42, Created: t.State == "created", Running: t.State == "running", Exit: Exit{Code: t.Code}})
		}
	}
	return out, nil
}
func (f fakeShim) TaskTrace(context.Context, string) ([]trace.Span, error) { return nil, nil }
func (f fakeShim) ExecSync(_ context.Context, r ExecSyncRequest) (ExecResult, error) {
	return ExecResult{Stdout: []byte(strings.Join(r.Process.Args, " "))}, nil
}
func (f fakeShim) Exec(context.Context, string, string, *specs.Process, Streams) (int, error) {
	return 3, nil
}
func (f fakeShim) Attach(context.Context, string, Streams) error  { return nil }
func (f fakeShim) ReopenLog(ctx context.Context, id string) error { return f.w.touch(ctx, "reopen") }

// Kernel

type fakeKernel struct{ w *world }

func (f fakeKernel) CreateCgroup(ctx context.Context, p string, r *Resources) error {
	return f.w.make(ctx, "cgroup", p, r)
}
func (f fakeKernel) CgroupExists(p string) bool { return f.w.has("cgroup", p) }

func (f fakeKernel) RemoveCgroup(ctx context.Context, p string) error {
	if err := f.KillCgroup(ctx, p); err != nil {
		return err
	}
	for _, c := range f.w.names("cgroup") {
		if strings.HasPrefix(c+"/", strings.Trim(p, "/")+"/") {
			if err := f.w.unmake(ctx, "cgroup", c); err != nil {
				return err
			}
		}
	}
	return nil
}

func (f fakeKernel) KillCgroup(ctx context.Context, p string) error {
	if err := f.w.touch(ctx, "kill"); err != nil {
		return err
	}
	for _, id := range f.w.names("task") {
		if t, ok := f.w.task(id); ok && strings.HasPrefix(t.Cgroup+"/", p+"/") {
			f.w.exit(id, 137)
		}
	}
	return nil
}

// Kill ends the process unless it ignores the signal.
func (f fakeKernel) Kill(ctx context.Context, _ int, cgroup string, sig int) error {
	if err := f.w.touch(ctx, fmt.Sprintf("signal-%d", sig)); err != nil {
		return err
	}
	f.w.mu.Lock()
	ignore := f.w.block["obey"] != nil
	f.w.mu.Unlock()
	if !ignore {
		f.w.exit(filepath.Base(cgroup), 128+sig)
	}
	return nil
}
func (f fakeKernel) Heeds(int, int) bool { return true }
func (f fakeKernel) Alive(_ int, cgroup string) bool {
	t, ok := f.w.task(filepath.Base(cgroup))
	return ok && t.State == "running"
}
func (f fakeKernel) SetLimits(context.Context, string, Resources) error { return nil }
func (f fakeKernel) Limits(context.Context, string) (Resources, error)  { return Resources{}, nil }
func (f fakeKernel) Meter(string, bool) (Meter, error)                  { return fakeMeter{}, nil }
func (f fakeKernel) Counters(context.Context, string) (*cgroup.Stats, error) {
	return &cgroup.Stats{At: time.Now()}, nil
}
func (f fakeKernel) ProcessUsage(context.Context, string) (ProcessUsage, error) {
	return ProcessUsage{Processes: 1}, nil
}
func (f fakeKernel) NetworkUsage(context.Context, int, string) ([]InterfaceUsage, error) {
	return []InterfaceUsage{{Name: "eth0", RxBytes: 3}}, nil
}

type fakeMeter struct{}

func (fakeMeter) Close()     {}
func (fakeMeter) Files() int { return 0 }
func (fakeMeter) Read() (Stats, error) {
	return Stats{At: time.Now(), CPUNanos: 7, MemoryUsage: 9}, nil
}
func (f fakeKernel) Processes(context.Context, string) ([]int, error) { return nil, nil }
func (f fakeKernel) Cgroups(_ context.Context, parent string) ([]string, error) {
	seen := map[string]bool{}
	var out []string
	for _, c := range f.w.names("cgroup") {
		rest, ok := strings.CutPrefix("/"+c, parent+"/")
		if !ok {
			continue
		}
		first, _, _ := strings.Cut(rest, "/")
		if p := parent + "/" + first; !seen[p] {
			seen[p] = true
			out = append(out, p)
		}
	}
	return out, nil
}
func (f fakeKernel) MountTmpfs(ctx context.Context, dir string, _ int64) error {
	return f.w.make(ctx, "mount", dir, nil)
}
func (f fakeKernel) PinNamespaces(ctx context.Context, p PinnedNamespaces) error {
	return f.w.make(ctx, "mount", p.Dir+"/user", nil)
}
func (f fakeKernel) UnpinNamespaces(ctx context.Context, dir string) error {
	return f.w.unmake(ctx, "mount", dir+"/user")
}
func (f fakeKernel) MountLayers(ctx context.Context, dir string, _ []string) error {
	return f.w.make(ctx, "mount", dir, nil)
}
func (f fakeKernel) Unmount(ctx context.Context, dir string) error {
	return f.w.unmake(ctx, "mount", dir)
}
func (f fakeKernel) Mounts(_ context.Context, dir string) ([]string, error) {
	f.w.mu.Lock()
	f.w.lists++
	f.w.mu.Unlock()
	var out []string
	for _, m := range f.w.names("mount") {
		if strings.HasPrefix("/"+m, dir+"/") {
			out = append(out, "/"+m)
		}
	}
	return out, nil
}
func (f fakeKernel) BootID() (string, error) {
	if b, err := os.ReadFile(filepath.Join(filepath.Dir(f.w.dir), "boot")); err == nil {
		return string(b), nil
	}
	return "boot-1", nil
}

// openFake opens a runtime on a world; dir holds both.
func openFake(dir string) (*Runtime, *world, error) {
	w := newWorld(filepath.Join(dir, "world"))
	r, err := Open(context.Background(), Config{
		RunDir: filepath.Join(dir, "run"), Images: fakeImages{w}, Network: fakeNetwork{w}, Shims: fakeShims{w}, Kernel: fakeKernel{w},
		ShimTimeout: 2 * time.Second, DeathTimeout: 100 * time.Millisecond, ResolvConf: "/dev/null",
	})
	return r, w, err
}

func fake(t *testing.T) (*Runtime, *world) {
	t.Helper()
	r, w, err := openFake(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r, w
}

func pod(name string) SandboxSpec {
	return SandboxSpec{Name: name, UID: "uid-" + name, Namespace: "default", Namespaces: Namespaces{PID: NamespaceContainer}, LogDir: "/logs"}
}

func web() ContainerSpec { return ContainerSpec{Name: "web", Image: "img", LogPath: "web/0.log"} }

// started makes a running container.
func started(t *testing.T, r *Runtime, name string) (sandbox, container string) {
	t.Helper()
	ctx := context.Background()
	sandbox, err := r.RunSandbox(ctx, pod(name))
	if err != nil {
		t.Fatal(err)
	}
	container, err = r.CreateContainer(ctx, sandbox, web())
	if err != nil {
		t.Fatal(err)
	}
	if err := r.StartContainer(ctx, container); err != nil {
		t.Fatal(err)
	}
	return sandbox, container
}

// wantNothing fails if anything is left in the world, in memory or on disk.
func wantNothing(t *testing.T, r *Runtime, w *world) {
	t.Helper()
	if left := w.left(); len(left) > 0 {
		t.Errorf("left in the world: %v", left)
	}
	rep, err := r.Fsck(context.Background(), false)
	if err != nil {
		t.Fatal(err)
	}
	if !rep.Clean() || len(rep.Owned)+len(rep.Pending) > 0 {
		t.Errorf("fsck: %+v", rep)
	}
	filepath.WalkDir(r.store.dir, func(p string, d fs.DirEntry, _ error) error {
		if d != nil && !d.IsDir() && d.Name() != "boot" {
			t.Errorf("left on disk: %s", p)
		}
		return nil
	})
	if n := len(r.Sandboxes()) + len(r.Containers("")); n > 0 {
		t.Errorf("%d objects are still listed", n)
	}
}
