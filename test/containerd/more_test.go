package containerd

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/11f9778f/berth/internal/engine/criu"
)

// api is containerd's own Tasks service, for what ctr has no command for.
func (s *space) api() (context.Context, tasks.TasksClient) {
	conn, err := grpc.NewClient("unix://"+s.socket(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	s.t.Cleanup(func() { cancel(); conn.Close() })
	return metadata.AppendToOutgoingContext(ctx, "containerd-namespace", s.ns), tasks.NewTasksClient(conn)
}

func testResources(s *space) {
	s.must(s.run("-d --memory-limit 67108864", "box", "sleep", "1000")...)
	limit, pids := int64(33554432), int64(77)
	raw, err := json.Marshal(specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}, Pids: &specs.LinuxPids{Limit: &pids}})
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, client := s.api()
	update := func(raw []byte) error {
		_, err := client.Update(ctx, &tasks.UpdateTaskRequest{
			ContainerID: "box", Resources: &anypb.Any{TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources", Value: raw},
		})
		return err
	}
	if err := update(raw); err != nil {
		s.t.Fatal(err)
	}
	var out struct {
		Memory struct{ Usage struct{ Limit int64 } }
		Pids   struct{ Limit int64 }
	}
	if err := json.Unmarshal([]byte(s.must("tasks", "metrics", "--format", "json", "box")), &out); err != nil {
		s.t.Fatal(err)
	}
	if out.Pids.Limit != pids {
		s.t.Errorf("after the update the limits are %+v", out)
	}
	if err := update([]byte("{")); err == nil {
		s.t.Error("resources that are no JSON were taken")
	}
}

func testLogURIs(s *space) {
	file := filepath.Join(s.dir, s.ns, "sub", "out.log")
	s.must(s.run("-d --log-uri file://"+file, "tofile", "sh", "-c", "echo to out; echo to err >&2")...)
	s.until("the file", func() bool {
		b, _ := os.ReadFile(file)
		return strings.Contains(string(b), "to out\n") && strings.Contains(string(b), "to err\n")
	})
	seen := filepath.Join(s.dir, s.ns, "seen")
	program := filepath.Join(s.dir, s.ns, "logger")
	script := fmt.Sprintf("#!/bin/sh\nexec >%[1]s.new\necho $CONTAINER_NAMESPACE $CONTAINER_ID $*\nexec 5>&-\ncat <&3\ncat <&4\nmv %[1]s.new %[1]s\n", seen)
	if err := os.WriteFile(program, []byte(script), 0o700); err != nil {
		s.t.Fatal(err)
	}
	s.must(s.run("-d --log-uri binary://"+program+"?k=v", "toprogram", "sh", "-c", "echo to out; echo to err >&2")...)
	s.until("the program's word", func() bool {
		b, _ := os.ReadFile(seen)
		return string(b) == s.ns+" toprogram k v\nto out\nto err\n"
	})
	if _, stderr := s.fails(1, s.run("-d --log-uri binary:///no/such/logger", "nologger", "true")...); !strings.Contains(stderr, "/no/such/logger") {
		s.t.Errorf("error %q does not name the program", stderr)
	}
	if err := os.RemoveAll(filepath.Join(s.dir, s.ns)); err != nil {
		s.t.Error(err)
	}
}

func testOptions(s *space) {
	if out := s.must(s.run("--rm --no-pivot", "nopivot", "echo", "ok")...); out != "ok\n" {
		s.t.Errorf("--no-pivot: %q", out)
	}
	if out := s.must(s.run("--rm --memory-limit 33554432 --cpus 0.5", "limits", "echo", "ok")...); out != "ok\n" {
		s.t.Errorf("limits: %q", out)
	}
}

func testNamespaces(s *space) {
	other := &space{daemon: s.daemon, t: s.t, ns: s.ns + "2"}
	defer other.close()
	s.must(s.run("-d", "box", "sleep", "1000")...)
	other.must(other.run("-d", "box", "sleep", "1001")...)
	for sp, want := range map[*space]string{s: "sleep 1000", other: "sleep 1001"} {
		if out := sp.must("tasks", "exec", "--exec-id", "e", "box", "sh", "-c", "tr '\\0' ' ' </proc/1/cmdline || cat /proc/1/cmdline"); !strings.Contains(strings.ReplaceAll(out, "\x00", " "), want) {
			s.t.Errorf("in %s runs %q, want %q", sp.ns, out, want)
		}
	}
	s.must("tasks", "kill", "-s", "SIGKILL", "box")
	s.until("its end", func() bool { return s.status("box") == "STOPPED" })
	if st := other.status("box"); st != "RUNNING" {
		s.t.Errorf("the namesake is %s", st)
	}
}

// Containers of one sandbox share a shim; those of another do not.
func testGroups(s *space) {
	group := func(name string) string { return "-d --annotation io.kubernetes.cri.sandbox-id=" + name }
	s.must(s.run(group("p1"), "a1", "sleep", "1000")...)
	s.must(s.run(group("p1"), "a2", "sleep", "1000")...)
	if n := len(s.shims()); n != 1 {
		s.t.Errorf("%d shims for one sandbox", n)
	}
	s.must(s.run(group("p2"), "b1", "sleep", "1000")...)
	if n := len(s.shims()); n != 2 {
		s.t.Errorf("%d shims for two sandboxes", n)
	}
	s.must("tasks", "kill", "-s", "SIGKILL", "a1")
	s.until("its end", func() bool { return s.status("a1") == "STOPPED" })
	s.ctr("tasks", "rm", "a1")
	time.Sleep(100 * time.Millisecond)
	if st := s.status("a2"); st != "RUNNING" {
		s.t.Errorf("its neighbour is %s", st)
	}
	if out := s.must("tasks", "exec", "--exec-id", "e", "a2", "echo", "ok"); out != "ok\n" {
		s.t.Errorf("its neighbour says %q", out)
	}
}

// testImage runs from an image, by containerd's snapshots.
func testImage(s *space) {
	file := filepath.Join(s.dir, "image.tar")
	if err := s.writeImage(file); err != nil {
		s.t.Fatal(err)
	}
	s.must("images", "import", file)
	for range 2 {
		if out := s.must("run", "--rm", "--runtime", "io.containerd.berth.v1", "test.local/box:1", "box", "sh", "-c", "echo new >/tmp/file; cat /tmp/file /etc/layer"); out != "new\nlayer\n" {
			s.t.Errorf("output %q", out)
		}
	}
	if out := s.must("run", "--rm", "--read-only", "--user", "1000", "--runtime", "io.containerd.berth.v1", "test.local/box:1", "box", "sh", "-c", "echo x >/etc/x || echo refused"); out != "refused\n" {
		s.t.Errorf("a read-only root: %q", out)
	}
	s.must("images", "rm", "--sync", "test.local/box:1")
}

func (s *space) writeImage(file string) error {
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return err
	}
	for _, dir := range []string{"bin", "etc", "tmp", "proc", "sys", "dev"} {
		w.WriteHeader(&tar.Header{Name: dir + "/", Typeflag: tar.TypeDir, Mode: 0o755})
	}
	w.WriteHeader(&tar.Header{Name: "bin/busybox", Mode: 0o755, Size: int64(len(busybox))})
	w.Write(busybox)
	for _, a := range applets {
		w.WriteHeader(&tar.Header{Name: "bin/" + a, Typeflag: tar.TypeSymlink, Linkname: "busybox"})
	}
	w.WriteHeader(&tar.Header{Name: "etc/layer", Mode: 0o644, Size: 6})
	w.Write([]byte("layer\n"))
	if err := w.Close(); err != nil {
		return err
	}
	tarfile := filepath.Join(s.dir, "layer.tar")
	if err := os.WriteFile(tarfile, layer.Bytes(), 0o600); err != nil {
		return err
	}
	l, err := tarball.LayerFromFile(tarfile)
	if err != nil {
		return err
	}
	img, err := mutate.AppendLayers(empty.Image, l)
	if err != nil {
		return err
	}
	if img, err = mutate.ConfigFile(img, &v1.ConfigFile{
		Architecture: "amd64", OS: "linux", RootFS: v1.RootFS{Type: "layers", DiffIDs: diffIDs(img)}, Config: v1.Config{Env: []string{"PATH=/bin"}},
	}); err != nil {
		return err
	}
	tag, err := name.NewTag("test.local/box:1")
	if err != nil {
		return err
	}
	return tarball.WriteToFile(file, tag, img)
}

func diffIDs(img v1.Image) []v1.Hash {
	config, err := img.ConfigFile()
	if err != nil {
		return nil
	}
	return config.RootFS.DiffIDs
}

// Containers outlive containerd, and the next one finds them: what ended meanwhile, and how, too.
func TestContainerdRestarts(t *testing.T) {
	d := newDaemon(t)
	s := d.space(t)
	s.must(s.run("-d", "stays", "sh", "-c", "while :; do sleep 0.1; done")...)
	s.must(s.run("-d", "grouped1", "sleep", "1000")...)
	s.must(s.run("-d --annotation io.kubernetes.cri.sandbox-id=g", "grouped2", "sleep", "1000")...)
	s.must(s.run("-d", "ends", "sh", "-c", "while ! ls /tmp/go; do sleep 0.05; done 2>/dev/null; exit 42")...)
	s.must(s.run("-d --log-uri file://"+filepath.Join(d.dir, "talks.log"), "talks", "sh", "-c", "i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done")...)
	before := s.shims()
	d.kill()
	if err := os.WriteFile(filepath.Join(d.dir, "rootfs/tmp/go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	time.Sleep(500 * time.Millisecond)
	if after := s.shims(); len(after) != len(before) {
		t.Fatalf("shims %v became %v", before, after)
	}
	if err := d.start(); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"stays", "grouped1", "grouped2", "talks"} {
		if st := s.status(id); st != "RUNNING" {
			t.Errorf("%s is %q", id, st)
		}
		if out := s.must("tasks", "exec", "--exec-id", "e", id, "echo", "ok"); out != "ok\n" {
			t.Errorf("%s says %q", id, out)
		}
	}
	if st := s.status("ends"); st != "STOPPED" {
		t.Errorf("what ended is %q", st)
	}
	ctx, client := s.api()
	if r, err := client.Delete(ctx, &tasks.DeleteTaskRequest{ContainerID: "ends"}); err != nil || r.ExitStatus != 42 {
		t.Errorf("what ended has code %d (%v), want 42", r.GetExitStatus(), err)
	}
	b, err := os.ReadFile(filepath.Join(d.dir, "talks.log"))
	if err != nil {
		t.Fatal(err)
	}
	for i, line := range strings.Fields(string(b)) {
		if line != fmt.Sprint(i+1) {
			t.Fatalf("line %d of the log is %q", i+1, line)
		}
	}
}

// testCheckpoint: ctr keeps a running container as an image, and makes another one of that, which runs on.
func testCheckpoint(s *space) {
	if _, err := criu.Find(s.t.Context(), ""); err != nil {
		s.t.Skipf("make criu: %v", err)
	}
	file := filepath.Join(s.dir, "image.tar")
	if err := s.writeImage(file); err != nil {
		s.t.Fatal(err)
	}
	s.must("images", "import", file)
	const script = "echo mine >/tmp/file; i=0; while true; do i=$((i+1)); echo $i >/tmp/count; sleep 0.1; done"
	s.must("run", "-d", "--null-io", "--runtime", "io.containerd.berth.v1", "test.local/box:1", "box", "sh", "-c", script)
	count := func(id string) int {
		out, _ := s.ctr("tasks", "exec", "--exec-id", "count", id, "cat", "/tmp/count")
		n, _ := strconv.Atoi(strings.TrimSpace(out))
		return n
	}
	s.until("it counts", func() bool { return count("box") > 3 })
	s.must("containers", "checkpoint", "--rw", "--image", "--task", "box", "test.local/saved:1")
	at := count("box")
	s.until("it counts on", func() bool { return count("box") > at })
	s.must("tasks", "kill", "-s", "KILL", "box")
	s.until("it ends", func() bool { return s.status("box") == "STOPPED" })
	s.must("tasks", "rm", "box")
	s.must("containers", "rm", "box")
	go s.ctr("containers", "restore", "--rw", "--live", "again", "test.local/saved:1") // it stays with the container
	s.until("the restored one counts on", func() bool { return count("again") > 3 })
	if out := s.must("tasks", "exec", "--exec-id", "e", "again", "cat", "/tmp/file"); out != "mine\n" {
		s.t.Errorf("its file: %q", out)
	}
	s.must("tasks", "kill", "-s", "KILL", "again")
	s.must("images", "rm", "--sync", "test.local/box:1", "test.local/saved:1")
}
