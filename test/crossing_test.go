package test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/11f9778f/berth/internal/node"
)

// appOf is the configuration of a container of the demo image.
func appOf(args ...string) *cri.ContainerConfig {
	return &cri.ContainerConfig{
		Metadata: &cri.ContainerMetadata{Name: "app"}, Image: &cri.ImageSpec{Image: demoImage}, Args: args, Linux: &cri.LinuxContainerConfig{},
	}
}

func podOf(name string, attempt uint32) *cri.PodSandboxConfig {
	return &cri.PodSandboxConfig{
		Metadata: &cri.PodSandboxMetadata{Name: name, Uid: name, Namespace: "default", Attempt: attempt}, Linux: &cri.LinuxPodSandboxConfig{},
	}
}

// Two kubelets on one socket that want the same pods at the same time get the same ones, each once.
func TestTwoKubeletsOnOneSocket(t *testing.T) {
	m := newMachine(t)
	m.criDaemon(nil)
	kubelets := []criClient{dialCRI(t, m.criSocket()), dialCRI(t, m.criSocket())}
	kubelets[0].pullDemo()
	const pods, calls = 4, 3
	var got [pods][2 * calls]string
	var g errgroup.Group
	for p := range pods {
		name := "both-" + string(rune('a'+p))
		for i := range 2 * calls {
			g.Go(func() error {
				pod, id, err := kubelets[i%2].start(t.Context(), name, 0, m.dir, "demo", "show", "--wait", "1h")
				got[p][i] = pod + " " + id
				return err
			})
		}
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	for p := range pods {
		for _, g := range got[p] {
			if g != got[p][0] {
				t.Errorf("pod %d: %s and %s", p, got[p][0], g)
			}
		}
	}
	c := kubelets[1]
	sandboxes, err := c.ListPodSandbox(c.ctx, &cri.ListPodSandboxRequest{})
	containers, cerr := c.ListContainers(c.ctx, &cri.ListContainersRequest{})
	if err != nil || cerr != nil || len(sandboxes.Items) != pods || len(containers.Containers) != pods {
		t.Errorf("%d sandboxes, %d containers, %v, %v", len(sandboxes.GetItems()), len(containers.GetContainers()), err, cerr)
	}
	// Both remove them, too.
	for _, sb := range sandboxes.GetItems() {
		for _, k := range kubelets {
			g.Go(func() error { k.removePod(sb.Id); return nil })
		}
	}
	g.Wait()
	m.clean()
	stopCRI(m)
}

// A pod that is removed while its container is created: the creation ends with the container or with an error, and
// nothing is left.
func TestRemoveDuringCreate(t *testing.T) {
	m := newMachine(t)
	m.criDaemon(nil)
	c := dialCRI(t, m.criSocket())
	c.pullDemo()
	var g errgroup.Group
	g.SetLimit(4)
	for round := range uint32(24) {
		g.Go(func() error {
			config := podOf("gone", round)
			sb, err := c.RunPodSandbox(c.ctx, &cri.RunPodSandboxRequest{Config: config})
			if err != nil {
				return err
			}
			ended := make(chan error, 1)
			go func() {
				made, err := c.CreateContainer(c.ctx, &cri.CreateContainerRequest{PodSandboxId: sb.PodSandboxId, SandboxConfig: config, Config: appOf("demo", "show", "--wait", "1h")})
				if err == nil {
					_, err = c.StartContainer(c.ctx, &cri.StartContainerRequest{ContainerId: made.ContainerId})
				}
				ended <- err
			}()
			time.Sleep(time.Duration(round) * time.Millisecond) // another moment each time
			c.removePod(sb.PodSandboxId)
			switch err := <-ended; status.Code(err) {
			case codes.OK, codes.NotFound, codes.FailedPrecondition, codes.Canceled, codes.Unavailable, codes.Unknown:
			default:
				t.Errorf("the creation ended with %v", err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	left, err := c.ListContainers(c.ctx, &cri.ListContainersRequest{})
	sandboxes, serr := c.ListPodSandbox(c.ctx, &cri.ListPodSandboxRequest{})
	if err != nil || serr != nil || len(left.Containers)+len(sandboxes.Items) > 0 {
		t.Errorf("left: %v, %v, %v, %v", left, sandboxes, err, serr)
	}
	m.clean()
	stopCRI(m)
}

// processesIn counts the processes of a container.
func (m *machine) processesIn(id string) int {
	for _, dir := range cgroups(node.NamesFor(m.run).CgroupParent) {
		if b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs")); err == nil && filepath.Base(dir) == id && len(b) > 0 {
			return len(strings.Fields(string(b)))
		}
	}
	return 0
}

// A container that is stopped while commands of exec run in it: they end with it, and nobody waits for their time.
func TestStopDuringExec(t *testing.T) {
	m := newMachine(t)
	m.criDaemon(nil)
	c := dialCRI(t, m.criSocket())
	c.pullDemo()
	pod, id, err := c.start(c.ctx, "busy", 0, m.dir, "demo", "show", "--wait", "1h")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(c.ctx, time.Minute)
	defer cancel()
	ended := make(chan error, 3)
	for range cap(ended) {
		go func() {
			r, err := c.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"/berth", "demo", "show", "--wait", "1h"}})
			if err == nil && r.ExitCode == 0 {
				t.Error("a command that waits for an hour has ended well")
			}
			ended <- err
		}()
	}
	m.eventually("the commands run", func() bool { return m.processesIn(id) > cap(ended) })
	if _, err := c.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: id, Timeout: 0}); err != nil {
		t.Error(err)
	}
	for range cap(ended) {
		if err := <-ended; status.Code(err) == codes.DeadlineExceeded {
			t.Errorf("a command outlived its container: %v", err)
		}
	}
	if st, err := c.ContainerStatus(c.ctx, &cri.ContainerStatusRequest{ContainerId: id}); err != nil || st.Status.ExitCode != 137 {
		t.Errorf("%v, %v", st, err)
	}
	if r, err := c.ExecSync(c.ctx, &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"/berth", "version"}}); err == nil {
		t.Errorf("exec in a stopped container: %v", r)
	}
	c.removePod(pod)
	m.clean()
	stopCRI(m)
}

// The disk of the run directory fills up in the middle: what is asked for then fails with the reason and leaves
// nothing, what runs goes on, and once there is room everything works again.
func TestDiskFullDuringCreate(t *testing.T) {
	m := newMachine(t)
	if err := os.MkdirAll(m.run, 0o700); err != nil {
		t.Fatal(err)
	}
	run(t, "mount", "-t", "tmpfs", "-o", "size=64m,mode=700", "tmpfs", m.run)
	defer func() {
		run(t, "umount", "-l", m.run)
		os.Remove(m.run)
	}()
	m.criDaemon(nil)
	c := dialCRI(t, m.criSocket())
	c.pullDemo()
	pod, id, err := c.start(c.ctx, "before", 0, m.dir, "demo", "show", "--wait", "1h")
	if err != nil {
		t.Fatal(err)
	}
	before := c.pid(id)
	config := podOf("half", 0)
	half, err := c.RunPodSandbox(c.ctx, &cri.RunPodSandboxRequest{Config: config})
	if err != nil {
		t.Fatal(err)
	}
	ballast := filepath.Join(m.run, "ballast")
	fill(t, ballast)
	_, err = c.CreateContainer(c.ctx, &cri.CreateContainerRequest{PodSandboxId: half.PodSandboxId, SandboxConfig: config, Config: appOf("demo", "show", "--wait", "1h")})
	if err == nil || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("CreateContainer on a full disk: %v", err)
	}
	if _, err := c.RunPodSandbox(c.ctx, &cri.RunPodSandboxRequest{Config: podOf("full", 0)}); err == nil || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("RunPodSandbox on a full disk: %v", err)
	}
	if now := c.pid(id); now != before {
		t.Errorf("the pod that ran: %v, then %v", before, now)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	list, err := c.ListPodSandbox(c.ctx, &cri.ListPodSandboxRequest{})
	if err != nil || len(list.Items) != 2 {
		t.Errorf("sandboxes afterwards: %v, %v", list, err)
	}
	made, err := c.CreateContainer(c.ctx, &cri.CreateContainerRequest{PodSandboxId: half.PodSandboxId, SandboxConfig: config, Config: appOf("demo", "show", "--wait", "1h")})
	if err == nil {
		_, err = c.StartContainer(c.ctx, &cri.StartContainerRequest{ContainerId: made.ContainerId})
	}
	if err != nil {
		t.Errorf("with room again: %v", err)
	}
	full, _, err := c.start(c.ctx, "full", 0, m.dir, "demo", "show", "--wait", "1h")
	if err != nil {
		t.Errorf("with room again: %v", err)
	}
	for _, p := range []string{pod, half.PodSandboxId, full} {
		c.removePod(p)
	}
	m.clean()
	stopCRI(m)
}

// fill writes a file until its filesystem is full.
func fill(t *testing.T, name string) {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for block := make([]byte, 4096); err == nil; {
		_, err = f.Write(block)
	}
}
