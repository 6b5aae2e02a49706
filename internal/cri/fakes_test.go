package cri

import (
	"context"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/11f9778f/berth/internal/engine"
	"github.com/11f9778f/berth/internal/engine/cgroup"
	"github.com/11f9778f/berth/internal/image"
	"github.com/11f9778f/berth/internal/runtime"
	"github.com/11f9778f/berth/internal/trace"
)

// rooms are all rooms below the runtime: everything succeeds and nothing happens.
type rooms struct{}

func (rooms) Lookup(_ context.Context, ref string) (runtime.Image, error) {
	if ref != "img" {
		return runtime.Image{}, errdefs.ErrNotFound
	}
	return runtime.Image{ID: "sha256:1", Ref: "img@sha256:2", Config: runtime.ImageConfig{Cmd: []string{"/x"}}}, nil
}
func (rooms) Prepare(context.Context, string, runtime.Image, *runtime.UserNamespace, int64) ([]engine.Mount, error) {
	return nil, nil
}
func (rooms) View(context.Context, string, runtime.Image) ([]string, error) { return nil, nil }
func (rooms) Remove(context.Context, string) error                          { return nil }
func (rooms) Fill(context.Context, string, io.Reader) error                 { return nil }
func (rooms) Usage(context.Context, string) (runtime.DiskUsage, error) {
	return runtime.DiskUsage{Bytes: 5, Inodes: 2, Limit: 9, At: time.Now()}, nil
}
func (rooms) ReadFile(context.Context, runtime.Image, string, int64) ([]byte, error) {
	return nil, fs.ErrNotExist
}
func (rooms) Keys(context.Context) ([]string, error) { return nil, nil }

type netRoom struct{}

func (netRoom) CreateNetNS(_ context.Context, id string, _ map[string]string) (string, error) {
	return "/netns/" + id, nil
}
func (netRoom) AdoptNetNS(_ context.Context, id, _ string) (string, error) {
	return "/netns/" + id, nil
}
func (netRoom) RemoveNetNS(context.Context, string) error { return nil }
func (netRoom) Attach(context.Context, runtime.AttachRequest) ([]netip.Addr, error) {
	return []netip.Addr{netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("fd00::2")}, nil
}
func (netRoom) Usage(context.Context) (map[string]runtime.InterfaceUsage, error) { return nil, nil }
func (netRoom) Repair(context.Context, func(string) bool) error                  { return nil }
func (netRoom) Detach(context.Context, string) error                             { return nil }
func (netRoom) Inventory(context.Context) ([]runtime.Resource, error)            { return nil, nil }

type shimRoom struct{ events chan runtime.ShimEvent }

func (s shimRoom) Acquire(context.Context, runtime.Placement) (runtime.Shim, error) { return s, nil }
func (s shimRoom) Lookup(string) (runtime.Shim, bool)                               { return s, true }
func (shimRoom) Release(context.Context, string) error                              { return nil }
func (s shimRoom) Events() <-chan runtime.ShimEvent                                 { return s.events }
func (shimRoom) Inventory(context.Context) ([]runtime.Resource, error)              { return nil, nil }
func (shimRoom) CreateSandbox(context.Context, runtime.ShimSandbox) (runtime.SandboxPlace, error) {
	return runtime.SandboxPlace{IPC: "/ipc", UTS: "/uts"}, nil
}
func (shimRoom) RemoveSandbox(context.Context, string) error                     { return nil }
func (shimRoom) RunTask(context.Context, runtime.Task) (int, error)              { return 7, nil }
func (shimRoom) PauseTask(context.Context, string) error                         { return nil }
func (shimRoom) ResumeTask(context.Context, string) error                        { return nil }
func (shimRoom) CheckpointTask(context.Context, string, string, string) error    { return nil }
func (shimRoom) Restores() bool                                                  { return true }
func (shimRoom) KillTask(context.Context, string, int) error                     { return nil }
func (shimRoom) DeleteTask(context.Context, string) error                        { return nil }
func (shimRoom) UpdateTask(context.Context, string, *specs.LinuxResources) error { return nil }
func (shimRoom) Tasks(context.Context, string) ([]runtime.TaskState, error)      { return nil, nil }
func (shimRoom) TaskTrace(context.Context, string) ([]trace.Span, error)         { return nil, nil }
func (shimRoom) ExecSync(_ context.Context, r runtime.ExecSyncRequest) (runtime.ExecResult, error) {
	if r.Process.Args[0] == "sleep" {
		return runtime.ExecResult{TimedOut: true}, nil
	}
	return runtime.ExecResult{Stdout: []byte(r.Process.Args[0]), Stderr: []byte("said"), ExitCode: 3}, nil
}

// Exec echoes its input and ends with code 5.
func (shimRoom) Exec(_ context.Context, _, _ string, _ *specs.Process, s runtime.Streams) (int, error) {
	buf := make([]byte, 100)
	if s.In != nil {
		n, _ := s.In.Read(buf)
		s.Out.Write(buf[:n])
	}
	return 5, nil
}
func (shimRoom) Attach(_ context.Context, _ string, s runtime.Streams) error {
	_, err := s.Out.Write([]byte("attached"))
	return err
}
func (shimRoom) ReopenLog(context.Context, string) error { return nil }

type kernelRoom struct{ events chan runtime.ShimEvent }

func (kernelRoom) CreateCgroup(context.Context, string, *runtime.Resources) error { return nil }
func (kernelRoom) CgroupExists(string) bool                                       { return false }
func (kernelRoom) RemoveCgroup(context.Context, string) error                     { return nil }
func (k kernelRoom) KillCgroup(_ context.Context, p string) error {
	k.events <- runtime.ShimEvent{Kind: runtime.ShimExit, ContainerID: filepath.Base(p), Exit: runtime.Exit{Code: 137, At: time.Now()}}
	return nil
}
func (k kernelRoom) Kill(_ context.Context, _ int, p string, sig int) error {
	k.events <- runtime.ShimEvent{Kind: runtime.ShimExit, ContainerID: filepath.Base(p), Exit: runtime.Exit{Code: 128 + sig, At: time.Now()}}
	return nil
}
func (kernelRoom) Heeds(int, int) bool                                        { return true }
func (kernelRoom) Alive(int, string) bool                                     { return true }
func (kernelRoom) SetLimits(context.Context, string, runtime.Resources) error { return nil }
func (kernelRoom) Limits(context.Context, string) (runtime.Resources, error) {
	return runtime.Resources{}, nil
}
func (kernelRoom) Meter(string, bool) (runtime.Meter, error) { return meter{}, nil }
func (kernelRoom) Counters(context.Context, string) (*cgroup.Stats, error) {
	s := &cgroup.Stats{At: time.Now()}
	s.CPU.Usage, s.CPU.User, s.CPU.System = 5e9, 3e9, 2e9
	s.Memory.WorkingSet, s.Memory.Limit = 100, cgroup.Unlimited
	s.IO.Devices = []cgroup.DeviceIO{{Major: 8, ReadBytes: 4096, ReadOps: 1}}
	s.CPU.Pressure = &cgroup.Pressure{Some: cgroup.PressureLine{Total: 7_000_000}}
	return s, nil
}
func (kernelRoom) ProcessUsage(context.Context, string) (runtime.ProcessUsage, error) {
	return runtime.ProcessUsage{Processes: 2, Threads: 3, FileDescriptors: 9, Sockets: 1}, nil
}
func (kernelRoom) NetworkUsage(context.Context, int, string) ([]runtime.InterfaceUsage, error) {
	return []runtime.InterfaceUsage{{Name: "eth0", RxBytes: 3, TxBytes: 4, RxErrors: 1, TxErrors: 2}, {Name: "net1", RxBytes: 5, TxBytes: 6, RxErrors: 3, TxErrors: 4}}, nil
}

// meter is of a cgroup that uses little.
type meter struct{}

func (meter) Close()     {}
func (meter) Files() int { return 0 }
func (meter) Read() (runtime.Stats, error) {
	swap, line := uint64(10), cgroup.PressureLine{Avg10: 1.5, Avg60: 1, Avg300: 0.5, Total: 7}
	pressure := &cgroup.Pressure{Some: line, Full: line}
	return runtime.Stats{
		At: time.Now(), CPUNanos: 11, CPURate: 3, MemoryUsage: 120, MemoryWorkingSet: 100, MemoryRSS: 90, MemoryLimit: 1000, PageFaults: 6, MajorPageFaults: 2,
		SwapUsage: 4, SwapLimit: &swap, Pids: 2, CPUPressure: pressure, MemoryPressure: pressure, IOPressure: pressure,
	}, nil
}
func (kernelRoom) Processes(context.Context, string) ([]int, error)              { return nil, nil }
func (kernelRoom) Cgroups(context.Context, string) ([]string, error)             { return nil, nil }
func (kernelRoom) MountTmpfs(context.Context, string, int64) error               { return nil }
func (kernelRoom) PinNamespaces(context.Context, runtime.PinnedNamespaces) error { return nil }
func (kernelRoom) UnpinNamespaces(context.Context, string) error                 { return nil }
func (kernelRoom) MountLayers(context.Context, string, []string) error           { return nil }
func (kernelRoom) Unmount(context.Context, string) error                         { return nil }
func (kernelRoom) Mounts(context.Context, string) ([]string, error)              { return nil, nil }
func (kernelRoom) BootID() (string, error)                                       { return "b", nil }

// store is an image store with one image.
type store struct{}

var oneImage = &image.Image{ID: digest.FromString("x"), RepoTags: []string{"docker.io/library/img:1"}, Size: 9}

func (store) Pull(_ context.Context, ref string, o image.PullOptions) (*image.Image, error) {
	switch ref {
	case "img":
		if o.Progress != nil {
			o.Progress(image.Progress{Phase: image.PhasePulling, Layers: []image.LayerProgress{{Downloaded: 3, Size: 9}, {Downloaded: 1, Size: 1}}})
		}
		return oneImage, nil
	case "secret":
		return nil, image.ErrUnauthorized
	}
	return nil, image.ErrNotFound
}
func (store) Annotations(*image.Image) (map[string]string, error) { return nil, nil }
func (store) Get(ref string) (*image.Image, error) {
	if ref == "img" {
		return oneImage, nil
	}
	return nil, image.ErrNotFound
}
func (store) List() []*image.Image                       { return []*image.Image{oneImage} }
func (store) Remove(_ context.Context, ref string) error { return image.ErrNotFound }
func (store) Allowed(string, string) error               { return nil }
func (store) FSInfo(context.Context) (a, b image.FSInfo, err error) {
	used := image.Usage{Bytes: 1, Inodes: 2}
	return image.FSInfo{Path: "/images", Used: used, Time: time.Now()}, image.FSInfo{Path: "/snapshots", Used: used, Time: time.Now()}, nil
}

func newServer(t testing.TB) *Server {
	t.Helper()
	return newServerIn(t, t.TempDir())
}

// newServerIn makes a Server whose runtime keeps its state in a folder.
func newServerIn(t testing.TB, run string) *Server {
	t.Helper()
	events := make(chan runtime.ShimEvent, 100)
	rt, err := runtime.Open(context.Background(), runtime.Config{
		RunDir: run, Images: rooms{}, Network: netRoom{}, Shims: shimRoom{events}, Kernel: kernelRoom{events}, ResolvConf: "/dev/null",
	})
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(Config{Runtime: rt, Images: store{}, SnapshotDir: "/snapshots", Version: "1.2.3"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close(); rt.Close() })
	return s
}

// dial serves s on a socket and connects to it.
func dial(t *testing.T, s *Server) (runtimeapi.RuntimeServiceClient, runtimeapi.ImageServiceClient, string) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "cri.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	conn, err := grpc.NewClient("passthrough:///"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)),
		grpc.WithContextDialer(func(ctx context.Context, p string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", p)
		}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return runtimeapi.NewRuntimeServiceClient(conn), runtimeapi.NewImageServiceClient(conn), socket
}
