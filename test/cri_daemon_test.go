package test

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/11f9778f/berth/internal/node"
)

func (m *machine) criSocket() string { return filepath.Join(m.run, "cri.sock") }

// criDaemon starts `berth cri` and waits until it answers.
func (m *machine) criDaemon(env []string, args ...string) *command {
	m.t.Helper()
	c := m.beginWith(env, append([]string{"cri"}, args...)...)
	c.says("node is up")
	return c
}

// criClient is a client of a CRI socket.
type criClient struct {
	cri.RuntimeServiceClient
	cri.ImageServiceClient
	t   *testing.T
	ctx context.Context
}

func dialCRI(t *testing.T, socket string) criClient {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(func() { cancel(); conn.Close() })
	return criClient{cri.NewRuntimeServiceClient(conn), cri.NewImageServiceClient(conn), t, ctx}
}

const demoImage = "berth.local/demo:latest"

// runPod starts a pod of one container of the demo image and returns both IDs.
func (c criClient) runPod(name string, args ...string) (pod, container string) {
	c.t.Helper()
	if _, err := c.PullImage(c.ctx, &cri.PullImageRequest{Image: &cri.ImageSpec{Image: demoImage}}); err != nil {
		c.t.Fatalf("pull: %v", err)
	}
	sandbox := &cri.PodSandboxConfig{
		Metadata: &cri.PodSandboxMetadata{Name: name, Uid: name, Namespace: "default"}, Hostname: name,
		LogDirectory: "/tmp", Linux: &cri.LinuxPodSandboxConfig{},
	}
	sb, err := c.RunPodSandbox(c.ctx, &cri.RunPodSandboxRequest{Config: sandbox})
	if err != nil {
		c.t.Fatalf("run sandbox %s: %v", name, err)
	}
	made, err := c.CreateContainer(c.ctx, &cri.CreateContainerRequest{PodSandboxId: sb.PodSandboxId, SandboxConfig: sandbox, Config: &cri.ContainerConfig{
		Metadata: &cri.ContainerMetadata{Name: "app"}, Image: &cri.ImageSpec{Image: demoImage}, Args: args,
		Linux: &cri.LinuxContainerConfig{},
	}})
	if err != nil {
		c.t.Fatalf("create container of %s: %v", name, err)
	}
	if _, err := c.StartContainer(c.ctx, &cri.StartContainerRequest{ContainerId: made.ContainerId}); err != nil {
		c.t.Fatalf("start container of %s: %v", name, err)
	}
	return sb.PodSandboxId, made.ContainerId
}

// pid is the process of a running container.
func (c criClient) pid(container string) process {
	c.t.Helper()
	st, err := c.ContainerStatus(c.ctx, &cri.ContainerStatusRequest{ContainerId: container, Verbose: true})
	if err != nil {
		c.t.Fatalf("status of %s: %v", container, err)
	}
	if st.Status.State != cri.ContainerState_CONTAINER_RUNNING {
		c.t.Fatalf("container %s is %s", container, st.Status.State)
	}
	_, rest, _ := strings.Cut(st.Info["info"], `"pid":`)
	var pid int
	if _, err := fmt.Sscanf(rest, "%d", &pid); err != nil {
		c.t.Fatalf("no pid in %s", st.Info["info"])
	}
	return process{pid, startOf(pid)}
}

func (c criClient) removePod(pod string) {
	c.t.Helper()
	if _, err := c.StopPodSandbox(c.ctx, &cri.StopPodSandboxRequest{PodSandboxId: pod}); err != nil {
		c.t.Errorf("stop pod %s: %v", pod, err)
	}
	if _, err := c.RemovePodSandbox(c.ctx, &cri.RemovePodSandboxRequest{PodSandboxId: pod}); err != nil {
		c.t.Errorf("remove pod %s: %v", pod, err)
	}
}

// SIGTERM, and kill -9 too, leave the pods of a CRI daemon running; the next one takes them over. One
// that ends without pods leaves nothing.
func TestCRIDaemonLeavesPodsRunning(t *testing.T) {
	m := newMachine(t)
	d := m.criDaemon(nil)
	c := dialCRI(t, m.criSocket())
	pod, ctr := c.runPod("kept", "demo", "show", "--wait", "1h")
	before := c.pid(ctr)
	for _, end := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		d.signal(end)
		if r := d.wait(); end == syscall.SIGTERM && r.code != 0 {
			t.Errorf("after SIGTERM: exit code %d\n%s", r.code, r.stderr)
		}
		if !before.lives() {
			t.Fatalf("%s ended the pod", end)
		}
		if r := m.berth("ps"); r.code == 0 || !strings.Contains(r.stderr, "berth cri") {
			t.Errorf("berth ps beside a dead CRI daemon: exit code %d, %s", r.code, r.stderr)
		}
		d = m.criDaemon(nil)
		c = dialCRI(t, m.criSocket())
		if after := c.pid(ctr); after != before {
			t.Errorf("before %v, after %v", before, after)
		}
	}
	if x, err := c.ExecSync(c.ctx, &cri.ExecSyncRequest{ContainerId: ctr, Cmd: []string{"/berth", "version"}}); err != nil || x.ExitCode != 0 {
		t.Errorf("exec: %v %v", x, err)
	}
	c.removePod(pod)
	m.clean()
	d.signal(syscall.SIGTERM)
	if r := d.wait(); r.code != 0 {
		t.Errorf("exit code %d\n%s", r.code, r.stderr)
	}
}

// A second daemon is refused, on the same folders and on the same socket; verbs for pods of manifests
// say whose the pods are.
func TestCRIDaemonSharesNothing(t *testing.T) {
	m := newMachine(t)
	d := m.criDaemon(nil)
	for _, verb := range []string{"cri", "node"} {
		if r := m.berth(verb); r.code == 0 || !strings.Contains(r.stderr, fmt.Sprintf("another node (berth cri, process %d)", d.cmd.Process.Pid)) {
			t.Errorf("berth %s beside it: exit code %d, %s", verb, r.code, r.stderr)
		}
	}
	other := newMachine(t)
	if r := other.berth("cri", "--listen", m.criSocket()); r.code == 0 || !strings.Contains(r.stderr, "another program answers on the socket "+m.criSocket()) {
		t.Errorf("another on its socket: exit code %d, %s", r.code, r.stderr)
	}
	if r := m.berth("ps"); r.code == 0 || !strings.Contains(r.stderr, "crictl") {
		t.Errorf("berth ps: exit code %d, %s", r.code, r.stderr)
	}
	if out := m.must("images", "-o", "json").stdout; strings.TrimSpace(out) != "[]" {
		t.Errorf("berth images: %s", out)
	}
	m.must("fsck")
	d.signal(syscall.SIGTERM)
	d.wait()
}

// systemd is told when the daemon serves and when it ends; the socket may be anywhere.
func TestCRIDaemonTellsSystemd(t *testing.T) {
	m := newMachine(t)
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(m.dir, "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer notify.Close()
	told := func() string {
		t.Helper()
		b := make([]byte, 4096)
		notify.SetReadDeadline(time.Now().Add(patience))
		n, err := notify.Read(b)
		if err != nil {
			t.Fatalf("systemd was told nothing: %v", err)
		}
		return string(b[:n])
	}
	socket := filepath.Join(m.dir, "elsewhere", "b.sock")
	d := m.beginWith([]string{"NOTIFY_SOCKET=" + notify.LocalAddr().String()}, "cri", "--listen", "unix://"+socket)
	if s := told(); !strings.Contains(s, "READY=1") {
		t.Errorf("told %q", s)
	}
	c := dialCRI(t, socket)
	if v, err := c.Version(c.ctx, &cri.VersionRequest{}); err != nil || v.RuntimeName != "berth" {
		t.Errorf("version right after READY=1: %v %v", v, err)
	}
	d.signal(syscall.SIGTERM)
	if s := told(); !strings.Contains(s, "STOPPING=1") {
		t.Errorf("told %q", s)
	}
	if r := d.wait(); r.code != 0 {
		t.Errorf("exit code %d\n%s", r.code, r.stderr)
	}
	if left, _ := os.ReadDir(filepath.Dir(socket)); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	if node.Lives(m.run) {
		t.Error("the lock is held")
	}
}
