package test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// deadFUSE mounts a file system whose server never answers: whoever touches it waits.
func deadFUSE(m *machine) string {
	m.t.Helper()
	dev, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		m.t.Skipf("needs FUSE: %v", err)
	}
	dir := filepath.Join(m.dir, "dead")
	if err := os.Mkdir(dir, 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := syscall.Mount("dead", dir, "fuse", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", dev.Fd())); err != nil {
		dev.Close()
		m.t.Skipf("needs FUSE: %v", err)
	}
	m.t.Cleanup(func() {
		dev.Close() // ends all that wait
		syscall.Unmount(dir, syscall.MNT_DETACH)
	})
	return dir
}

// One shim is stopped and one pod sits on a file system that does not answer: all other pods go on as
// before, and the two can be removed by force.
func TestOneStuckPodHoldsUpNoOther(t *testing.T) {
	m := newMachine(t)
	m.criDaemon([]string{"BERTH_GROUP_SIZE=8"})
	c := dialCRI(t, m.criSocket())
	c.pullDemo()
	n := number("BERTH_TEST_PODS", 100)
	pods, containers := c.crowd(n, m.dir)
	stopped := m.shimOf(pods[0]) // not the one that waits for the next pod
	if err := syscall.Kill(stopped.pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer syscall.Kill(stopped.pid, syscall.SIGCONT)
	dead := deadFUSE(m)

	// The pod on the dead file system: whatever its creation does, it does it to itself.
	sandbox := &cri.PodSandboxConfig{Metadata: &cri.PodSandboxMetadata{Name: "on-dead", Uid: "on-dead", Namespace: "other"}, Linux: &cri.LinuxPodSandboxConfig{}}
	sb, err := c.RunPodSandbox(c.ctx, &cri.RunPodSandboxRequest{Config: sandbox})
	if err != nil {
		t.Fatal(err)
	}
	creating := make(chan error, 1)
	go func() {
		_, err := c.CreateContainer(c.ctx, &cri.CreateContainerRequest{PodSandboxId: sb.PodSandboxId, SandboxConfig: sandbox, Config: &cri.ContainerConfig{
			Metadata: &cri.ContainerMetadata{Name: "app"}, Image: &cri.ImageSpec{Image: demoImage}, Args: []string{"demo", "show", "--wait", "1h"},
			Mounts: []*cri.Mount{{HostPath: filepath.Join(dead, "volume"), ContainerPath: "/volume"}}, Linux: &cri.LinuxContainerConfig{},
		}})
		creating <- err
	}()
	time.Sleep(200 * time.Millisecond)

	var slow []time.Duration
	worst := func(what string, f func(ctx context.Context) error) {
		t.Helper()
		ctx, cancel := context.WithTimeout(c.ctx, 20*time.Second)
		defer cancel()
		began := time.Now()
		if err := f(ctx); err != nil {
			t.Errorf("%s beside the stuck ones: %v", what, err)
		}
		slow = append(slow, time.Since(began))
	}
	for range 20 {
		worst("ListPodSandbox", func(ctx context.Context) error {
			_, err := c.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{})
			return err
		})
		worst("ListContainers", func(ctx context.Context) error {
			_, err := c.ListContainers(ctx, &cri.ListContainersRequest{})
			return err
		})
	}
	worst("a new pod", func(ctx context.Context) error {
		pod, _, err := c.start(ctx, "new", 0, m.dir, "demo", "show", "--wait", "1h")
		if err == nil {
			c.removePod(pod)
		}
		return err
	})
	answered := 0
	for _, id := range containers {
		ctx, cancel := context.WithTimeout(c.ctx, 2*time.Second)
		if x, err := c.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"/berth", "version"}}); err == nil && x.ExitCode == 0 {
			answered++
		}
		cancel()
	}
	if answered < n-8 {
		t.Errorf("exec works in %d of %d containers; 8 at most are the stopped shim's", answered, n)
	}
	slices.Sort(slow)
	t.Logf("%d pods, one shim of 8 stopped, one pod on a dead mount: exec in %d, slowest other call %s", n, answered, slow[len(slow)-1].Round(time.Millisecond))
	if err := <-creating; err == nil {
		t.Error("a container was made on a file system that does not answer")
	}
	// By force, with the shim still stopped and the mount still dead.
	worst("removal of the pod on the dead mount", func(ctx context.Context) error {
		if _, err := c.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: sb.PodSandboxId}); err != nil {
			return err
		}
		_, err := c.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: sb.PodSandboxId})
		return err
	})
	began := time.Now()
	var g errgroup.Group
	g.SetLimit(8)
	for _, pod := range pods {
		g.Go(func() error { c.removePod(pod); return nil })
	}
	g.Wait()
	t.Logf("all %d pods, those of the stopped shim too, were removed in %s", n, time.Since(began).Round(time.Millisecond))
	syscall.Kill(stopped.pid, syscall.SIGCONT) // whatever is left of it can end
	c.disperse()
	m.clean()
	stopCRI(m)
}
