package server

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	stats1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	stats2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	taskv2 "github.com/containerd/containerd/api/runtime/task/v2"
	taskv3 "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types"
	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/11f9778f/berth/internal/engine"
	"github.com/11f9778f/berth/internal/engine/cgroup"
	"github.com/11f9778f/berth/internal/shim/state"
	"github.com/11f9778f/berth/internal/shim/wire"
	"github.com/11f9778f/berth/internal/sys"
)

// The Task service of containerd before 2.0 has another name and the same messages.
func TestOlderTaskService(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, dir, false)
	conn, err := net.Dial("unix", filepath.Join(dir, SocketTTRPC))
	if err != nil {
		t.Fatal(err)
	}
	c := ttrpc.NewClient(conn)
	defer c.Close()
	old := taskv2.NewTTRPCTaskClient(c)
	created, err := old.Create(r.ctx, &taskv2.CreateTaskRequest{ID: "c", Bundle: "/bundles/c"})
	if err != nil || created.Pid != 1000 {
		t.Fatalf("create: %v, %v", created, err)
	}
	if _, err := old.Start(r.ctx, &taskv2.StartRequest{ID: "c"}); err != nil {
		t.Fatal(err)
	}
	st, err := r.task.State(r.ctx, &taskv3.StateRequest{ID: "c"})
	if err != nil || st.Status != tasktypes.Status_RUNNING {
		t.Errorf("state %v, %v", st, err)
	}
	r.fake.end("c", 3)
	if w, err := old.Wait(r.ctx, &taskv2.WaitRequest{ID: "c"}); err != nil || w.ExitStatus != 3 {
		t.Errorf("wait: %v, %v", w, err)
	}
	if p, err := old.Pids(r.ctx, &taskv2.PidsRequest{ID: "c"}); err != nil || len(p.Processes) != 1 {
		t.Errorf("an ended task that nobody has deleted has no process (%v, %v): containerd would take it for a leak", p, err)
	}
	if d, err := old.Delete(r.ctx, &taskv2.DeleteRequest{ID: "c"}); err != nil || d.ExitStatus != 3 {
		t.Errorf("delete: %v, %v", d, err)
	}
	if _, err := old.Shutdown(r.ctx, &taskv2.ShutdownRequest{ID: "c"}); err != nil && !errors.Is(err, ttrpc.ErrClosed) {
		t.Error(err)
	}
	if err := <-r.served; err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a shim that nobody manages leaves its directory: %v", err)
	}
}

func packed(t *testing.T, url string, m proto.Message) *anypb.Any {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return &anypb.Any{TypeUrl: url, Value: b}
}

// The mounts of a snapshotter, each at its own target, reach the engine as containerd sends them.
func TestRootfsMountsAreHandedOn(t *testing.T) {
	r := newRig(t, t.TempDir(), false)
	_, err := r.task.Create(r.ctx, &taskv3.CreateTaskRequest{ID: "c", Bundle: "/bundles/c", Rootfs: []*types.Mount{
		{Type: "overlay", Source: "overlay", Options: []string{"lowerdir=/a"}}, {Type: "bind", Source: "/b", Target: "/srv", Options: []string{"rbind", "ro"}},
	}})
	want := []engine.Mount{
		{Type: "overlay", Source: "overlay", Options: []string{"lowerdir=/a"}}, {Type: "bind", Source: "/b", Target: "/srv", Options: []string{"rbind", "ro"}},
	}
	if err != nil || !reflect.DeepEqual(r.fake.rootfs, want) {
		t.Errorf("%+v, %v", r.fake.rootfs, err)
	}
}

func TestOptions(t *testing.T) {
	runc := func(o *runcoptions.Options) *anypb.Any { return packed(t, "containerd.runc.v1.Options", o) }
	generic := func(o *runtimeoptions.Options) *anypb.Any { return packed(t, "runtimeoptions.v1.Options", o) }
	for _, c := range []struct {
		name string
		in   *anypb.Any
		bad  string // in the error
	}{
		{"none", nil, ""},
		{"empty", &anypb.Any{}, ""},
		{"default", runc(&runcoptions.Options{Root: "/run/x", NoNewKeyring: true, CriuWorkPath: "/x"}), ""},
		{"prefixed", packed(t, "type.googleapis.com/containerd.runc.v1.Options", &runcoptions.Options{}), ""},
		{"binary", runc(&runcoptions.Options{BinaryName: "/usr/bin/crun"}), "BinaryName"},
		{"systemd", runc(&runcoptions.Options{SystemdCgroup: true}), ""},
		{"garbage", &anypb.Any{TypeUrl: "containerd.runc.v1.Options", Value: []byte{0xff}}, "options"},
		{"unknown", &anypb.Any{TypeUrl: "a.b.C", Value: []byte{1}}, "a.b.C"},
		{"table", generic(&runtimeoptions.Options{ConfigBody: []byte("IoUid = 7\nNoPivotRoot = true\nOther = 1\n")}), ""},
		{"table systemd", generic(&runtimeoptions.Options{ConfigBody: []byte("SystemdCgroup = true\n")}), ""},
		{"file", generic(&runtimeoptions.Options{ConfigPath: "/etc/x.toml"}), "ConfigPath"},
	} {
		var rec record
		var in *wire.Any
		if c.in != nil {
			in = &wire.Any{TypeURL: c.in.TypeUrl, Value: c.in.Value}
		}
		_, err := parseOptions(in, &rec)
		if c.bad == "" && err != nil || c.bad != "" && (!errors.Is(err, errdefs.ErrInvalidArgument) || !strings.Contains(err.Error(), c.bad)) {
			t.Errorf("%s: %v", c.name, err)
		}
		if strings.HasSuffix(c.name, "systemd") != rec.Scoped {
			t.Errorf("%s: %+v", c.name, rec)
		}
		if c.name == "table" && (!rec.NoPivot || rec.Stdio.UID != 7) {
			t.Errorf("%s: %+v", c.name, rec)
		}
	}
}

func TestMetrics(t *testing.T) {
	s := &cgroup.Stats{
		CPU:    cgroup.CPUStats{Usage: 5000, User: 3000, System: 2000},
		Memory: cgroup.MemoryStats{Usage: 100, WorkingSet: 60, Limit: cgroup.Unlimited, SwapLimit: cgroup.Unlimited, OOMKills: 2},
		Pids:   cgroup.PidsStats{Current: 3, Limit: cgroup.Unlimited},
		IO:     cgroup.IOStats{Devices: []cgroup.DeviceIO{{Major: 8, ReadBytes: 512}}},
	}
	a := metrics(s)
	var v1 stats1.Metrics
	if a.TypeURL != "io.containerd.cgroups.v1.Metrics" || proto.Unmarshal(a.Value, &v1) != nil {
		t.Fatal(a)
	}
	if v1.CPU.Usage.Total != 5000 || v1.Memory.Usage.Usage-v1.Memory.TotalInactiveFile != 60 || v1.Pids.Limit != 0 || v1.MemoryOomControl.OomKill != 2 ||
		v1.Memory.Swap.Limit != cgroup.Unlimited || v1.Blkio.IoServiceBytesRecursive[0].Value != 512 {
		t.Errorf("v1: %v", &v1)
	}
	s.Unified = true
	a = metrics(s)
	var v2 stats2.Metrics
	if a.TypeURL != "io.containerd.cgroups.v2.Metrics" || proto.Unmarshal(a.Value, &v2) != nil {
		t.Fatal(a)
	}
	if v2.CPU.UsageUsec != 5 || v2.Memory.Usage-v2.Memory.InactiveFile != 60 || v2.Io.Usage[0].Rbytes != 512 || v2.MemoryEvents.OomKill != 2 {
		t.Errorf("v2: %v", &v2)
	}
}

// A relay gives up what nobody reads, and loses nothing of what somebody does.
func TestRelay(t *testing.T) {
	relay, w, path := relayToFifo(t)
	if _, err := w.Write(make([]byte, 60<<10+2)); err != nil {
		t.Fatal(err)
	}
	reader, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	w.Close() // who reads has come before what writes has gone
	got := 0
	for buf := make([]byte, 4096); ; {
		n, err := reader.Read(buf)
		got += n
		if err != nil {
			break // the end: the relay has closed its side
		}
	}
	if got != 60<<10+2 {
		t.Errorf("%d bytes arrived", got)
	}
	relay.finish(time.Now())
}

// Who reads may come when what writes has gone already: it finds all that was written, and the end.
func TestRelayBeforeItsReader(t *testing.T) {
	for _, written := range []int{0, 1000} {
		relay, w, path := relayToFifo(t)
		if _, err := w.Write(make([]byte, written)); err != nil {
			t.Fatal(err)
		}
		w.Close()
		select {
		case <-relay.done:
			t.Fatal("it waited for nobody")
		case <-time.After(50 * time.Millisecond):
		}
		got, err := os.ReadFile(path)
		if err != nil || len(got) != written {
			t.Errorf("%d bytes of %d arrived: %v", len(got), written, err)
		}
		<-relay.done
	}
}

// relayToFifo starts a relay from what is written to w to the named pipe at path.
func relayToFifo(t *testing.T) (r *relay, w *os.File, path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	to, err := openOutlet(path)
	if err != nil {
		t.Fatal(err)
	}
	from, w, err := sys.Pipe(0, 0)
	if err != nil {
		t.Fatal(err)
	}
	r = newRelay(from, to)
	r.run()
	return r, w, path
}

func TestRelayWithoutReader(t *testing.T) {
	relay, w, _ := relayToFifo(t)
	go w.Write(make([]byte, 200<<10)) // ends with EPIPE
	time.Sleep(50 * time.Millisecond)
	relay.finish(time.Now().Add(100 * time.Millisecond))
	select {
	case <-relay.done:
	default:
		t.Error("the relay goes on")
	}
}

// What a dead shim left of a bundle that is gone is swept; a living shim's and a wanted one's is not.
func TestSweep(t *testing.T) {
	dir := t.TempDir()
	f := &fake{made: map[string]*fakeContainer{}}
	for group, bundle := range map[string]string{"dead": "/no/such/bundle", "wanted": dir, "alive": "/no/such/bundle"} {
		if err := os.MkdirAll(filepath.Join(dir, group, "containers"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := state.Save(filepath.Join(dir, group, "containers", "c.json"), record{ID: "c", Bundle: bundle, Cgroup: "/cg/" + group}); err != nil {
			t.Fatal(err)
		}
	}
	if err := Sweep(t.Context(), f, dir, func(d string) bool { return filepath.Base(d) == "alive" }); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 2 || len(f.gone) != 1 || f.gone[0] != "/cg/dead" {
		t.Errorf("left %v, removed %v, %v", left, f.gone, err)
	}
}

func FuzzOptions(f *testing.F) {
	f.Add("containerd.runc.v1.Options", []byte{0x32, 1, 'x'})
	f.Add("runtimeoptions.v1.Options", []byte{0x1a, 3, 'a', '=', 'b'})
	f.Fuzz(func(t *testing.T, url string, value []byte) {
		var rec record
		_, _ = parseOptions(&wire.Any{TypeURL: url, Value: value}, &rec)
	})
}
