package test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/11f9778f/berth/internal/engine/criu"
)

// needsCRIU skips where no CRIU is that could do it.
func needsCRIU(t *testing.T) {
	t.Helper()
	if _, err := criu.Find(t.Context(), ""); err != nil {
		t.Skipf("make criu: %v", err)
	}
}

// counters is a pod whose containers count into their logs.
type counters struct {
	criClient
	dir, pod string
	ids      []string
	config   *cri.PodSandboxConfig
	configs  []*cri.ContainerConfig
}

func newCounters(m *machine, script string, names ...string) *counters {
	m.t.Helper()
	return newCountersOf(m, script, func(*cri.PodSandboxConfig) {}, func(*cri.ContainerConfig) {}, names...)
}

// newCountersOf changes the configurations.
func newCountersOf(m *machine, script string, podOf func(*cri.PodSandboxConfig), containerOf func(*cri.ContainerConfig), names ...string) *counters {
	m.t.Helper()
	ref := newWarehouse(m.t).push("tools/busybox:1", busybox(m.t))
	c := &counters{criClient: dialCRI(m.t, m.criSocket()), dir: filepath.Join(m.dir, "logs")}
	if err := os.MkdirAll(c.dir, 0o755); err != nil {
		m.t.Fatal(err)
	}
	if _, err := c.PullImage(c.ctx, &cri.PullImageRequest{Image: &cri.ImageSpec{Image: ref}}); err != nil {
		m.t.Fatal(err)
	}
	config := &cri.PodSandboxConfig{
		Metadata: &cri.PodSandboxMetadata{Name: "count", Uid: "count", Namespace: "default"}, LogDirectory: c.dir, Linux: &cri.LinuxPodSandboxConfig{
			SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER}},
		},
	}
	podOf(config)
	sb, err := c.RunPodSandbox(c.ctx, &cri.RunPodSandboxRequest{Config: config})
	if err != nil {
		m.t.Fatal(err)
	}
	c.pod, c.config = sb.PodSandboxId, config
	for _, name := range names {
		config := &cri.ContainerConfig{
			Metadata: &cri.ContainerMetadata{Name: name}, Image: &cri.ImageSpec{Image: ref}, LogPath: name + ".log", Command: []string{"sh", "-c", script},
			Linux: &cri.LinuxContainerConfig{SecurityContext: &cri.LinuxContainerSecurityContext{
				NamespaceOptions: &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER}, Seccomp: &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault},
			}},
		}
		containerOf(config)
		made, err := c.CreateContainer(c.ctx, &cri.CreateContainerRequest{PodSandboxId: c.pod, SandboxConfig: c.config, Config: config})
		if err == nil {
			_, err = c.StartContainer(c.ctx, &cri.StartContainerRequest{ContainerId: made.ContainerId})
		}
		if err != nil {
			m.t.Fatal(err)
		}
		c.ids, c.configs = append(c.ids, made.ContainerId), append(c.configs, config)
	}
	return c
}

// count is the last number in a container's log, -1 before the first.
func (c *counters) count(name string) int {
	b, _ := os.ReadFile(filepath.Join(c.dir, name+".log"))
	f := strings.Fields(string(b))
	if len(f) == 0 || b[len(b)-1] != '\n' {
		return -1
	}
	n, err := strconv.Atoi(f[len(f)-1])
	if err != nil {
		return -1
	}
	return n
}

// goesOn waits until a container counts on, without a number left out or said twice.
func (c *counters) goesOn(m *machine, name string) {
	m.t.Helper()
	was := c.count(name)
	m.eventually(name+" runs on", func() bool { return c.count(name) > was+1 })
	b, err := os.ReadFile(filepath.Join(c.dir, name+".log"))
	if err != nil {
		m.t.Fatal(err)
	}
	next := 0
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 4 || f[1] != "stdout" || !strings.HasSuffix(line, "\n") {
			continue
		}
		if f[3] != strconv.Itoa(next) {
			m.t.Fatalf("%s counts %s after %d", name, f[3], next-1)
		}
		next++
	}
}

func (c *counters) checkpoint(id, location string, seconds int64) error {
	_, err := c.CheckpointContainer(c.ctx, &cri.CheckpointContainerRequest{ContainerId: id, Location: location, Timeout: seconds})
	return err
}

// files reads a tar.
func files(t *testing.T, r io.Reader) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		if out[h.Name], err = io.ReadAll(tr); err != nil {
			t.Fatal(err)
		}
	}
}

const counting = "echo mine >/new; /bin/busybox rm /bin/wget; export SECRET=s3cr3t; i=0; while true; do echo $i; i=$((i+1)); sleep 0.1; done"

// A checkpoint holds memory, writable layer, log and spec of a container, which runs on.
func TestCheckpointContainer(t *testing.T) {
	needsCRIU(t)
	m := newMachine(t)
	m.criDaemon(nil)
	c := newCounters(m, counting, "app")
	id, to := c.ids[0], filepath.Join(m.dir, "app.tar")
	m.eventually("it counts", func() bool { return c.count("app") > 2 })
	for range 3 { // again and again, over the archive before
		if err := c.checkpoint(id, to, 60); err != nil {
			t.Fatal(err)
		}
		c.goesOn(m, "app")
	}
	st, err := os.Stat(to)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", st, err)
	}
	f, err := os.Open(to)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got := files(t, f)
	var config struct{ ID, Name, RootfsImageName string }
	if err := json.Unmarshal(got["config.dump"], &config); err != nil || config.ID != id || config.Name != "app" || config.RootfsImageName == "" {
		t.Errorf("config.dump: %+v, %v", config, err)
	}
	if !json.Valid(got["spec.dump"]) || !bytes.Contains(got["container.log"], []byte("stdout F 2\n")) || !bytes.Contains(got["dump.log"], []byte("finished successfully")) {
		t.Errorf("spec.dump, container.log or dump.log is wrong: %.300s", got["container.log"])
	}
	memory := false
	for name, b := range got {
		memory = memory || strings.HasPrefix(name, "checkpoint/pages-") && bytes.Contains(b, []byte("s3cr3t"))
	}
	if !memory || got["checkpoint/pstree.img"] == nil {
		t.Error("the memory of the process is not there")
	}
	diff := files(t, bytes.NewReader(got["rootfs-diff.tar"]))
	if _, gone := diff["bin/.wh.wget"]; string(diff["new"]) != "mine\n" || !gone {
		t.Errorf("rootfs-diff.tar: %q", diff)
	}
	if _, err := c.ExecSync(c.ctx, &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"sh", "-c", "exit 0"}, Timeout: 20}); err != nil {
		t.Errorf("exec afterwards: %v", err)
	}
	c.removePod(c.pod)
	m.clean()
	stopCRI(m)
}

// What can't be done is refused with the right code, leaves nothing, and the container runs on.
func TestCheckpointRefused(t *testing.T) {
	needsCRIU(t)
	m := newMachine(t)
	m.criDaemon(nil)
	c := newCounters(m, counting, "app")
	id, to := c.ids[0], filepath.Join(m.dir, "app.tar")
	m.eventually("it counts", func() bool { return c.count("app") > 2 })
	if err := os.Symlink("/etc/passwd", filepath.Join(m.dir, "link")); err != nil {
		t.Fatal(err)
	}
	for location, want := range map[string]codes.Code{
		"": codes.InvalidArgument, "app.tar": codes.InvalidArgument, m.dir: codes.InvalidArgument, filepath.Join(m.dir, "link"): codes.InvalidArgument,
		filepath.Join(m.dir, "none/app.tar"): codes.InvalidArgument, "/proc/app.tar": codes.Unknown,
	} {
		if err := c.checkpoint(id, location, 60); status.Code(err) != want {
			t.Errorf("location %q: %v", location, err)
		}
	}
	if err := c.checkpoint(id, to, -1); status.Code(err) != codes.InvalidArgument {
		t.Errorf("timeout -1: %v", err)
	}
	if err := c.checkpoint(strings.Repeat("0", 64), to, 1); status.Code(err) != codes.NotFound {
		t.Errorf("unknown container: %v", err)
	}
	// Two at once: one is made, or both one after the other; none is lost.
	ended := make(chan error, 2)
	for _, p := range []string{"1.tar", "2.tar"} {
		go func() { ended <- c.checkpoint(id, filepath.Join(m.dir, p), 60) }()
	}
	for range 2 {
		if err := <-ended; err != nil {
			t.Errorf("two at once: %v", err)
		}
	}
	c.goesOn(m, "app")
	if left, _ := os.ReadDir(filepath.Join(m.root, "checkpoints")); len(left) > 0 {
		t.Errorf("left in the scratch folder: %v", left)
	}
	if _, err := os.Stat(to); err == nil {
		t.Error("a refused checkpoint left an archive")
	}
	c.removePod(c.pod)
	m.clean()
	stopCRI(m)
}

// A daemon that is killed in the middle of a checkpoint leaves no archive, and a container that runs on, at the latest
// when the next daemon is there.
func TestCheckpointSurvivesDaemon(t *testing.T) {
	needsCRIU(t)
	m := newMachine(t)
	d := m.criDaemon(nil)
	c := newCounters(m, counting, "app")
	m.eventually("it counts", func() bool { return c.count("app") > 2 })
	for i := range 8 {
		to := filepath.Join(m.dir, strconv.Itoa(i)+".tar")
		go c.checkpoint(c.ids[0], to, 60)
		time.Sleep(time.Duration(20+i*40) * time.Millisecond)
		d.signal(syscall.SIGKILL)
		d.wait()
		d = m.criDaemon(nil)
		c.goesOn(m, "app")
		if f, err := os.Open(to); err == nil { // then it is whole
			if got := files(t, f); got["container.log"] == nil {
				t.Errorf("half an archive after a kill: %d files", len(got))
			}
			f.Close()
		}
	}
	fresh := dialCRI(t, m.criSocket())
	c.criClient = fresh
	if err := c.checkpoint(c.ids[0], filepath.Join(m.dir, "last.tar"), 60); err != nil {
		t.Error(err)
	}
	c.goesOn(m, "app")
	if left, _ := os.ReadDir(filepath.Join(m.root, "checkpoints")); len(left) > 0 {
		t.Errorf("left in the scratch folder: %v", left)
	}
	c.removePod(c.pod)
	m.clean()
	stopCRI(m)
}
