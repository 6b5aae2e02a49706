package test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// start is runPod without a verdict: under fire calls may fail.
func (c criClient) start(ctx context.Context, name string, attempt uint32, logs string, args ...string) (pod, container string, err error) {
	sandbox := &cri.PodSandboxConfig{
		Metadata: &cri.PodSandboxMetadata{Name: name, Uid: name, Namespace: "default", Attempt: attempt}, LogDirectory: logs,
		Linux: &cri.LinuxPodSandboxConfig{},
	}
	sb, err := c.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: sandbox})
	if err != nil {
		return "", "", err
	}
	made, err := c.CreateContainer(ctx, &cri.CreateContainerRequest{PodSandboxId: sb.PodSandboxId, SandboxConfig: sandbox, Config: &cri.ContainerConfig{
		Metadata: &cri.ContainerMetadata{Name: "app"}, Image: &cri.ImageSpec{Image: demoImage}, Args: args,
		LogPath: name + ".log", Linux: &cri.LinuxContainerConfig{},
	}})
	if err != nil {
		return sb.PodSandboxId, "", err
	}
	_, err = c.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: made.ContainerId})
	return sb.PodSandboxId, made.ContainerId, err
}

func (c criClient) pullDemo() {
	c.t.Helper()
	if _, err := c.PullImage(c.ctx, &cri.PullImageRequest{Image: &cri.ImageSpec{Image: demoImage}}); err != nil {
		c.t.Fatal(err)
	}
}

// crowd starts n pods, four at a time.
func (c criClient) crowd(n int, logs string) (pods, containers []string) {
	c.t.Helper()
	pods, containers = make([]string, n), make([]string, n)
	var g errgroup.Group
	g.SetLimit(4)
	for i := range n {
		g.Go(func() (err error) {
			pods[i], containers[i], err = c.start(c.ctx, fmt.Sprintf("crowd-%d", i), 0, logs, "demo", "show", "--wait", "1h")
			return err
		})
	}
	if err := g.Wait(); err != nil {
		c.t.Fatal(err)
	}
	return pods, containers
}

// disperse removes all pods, four at a time.
func (c criClient) disperse() {
	c.t.Helper()
	list, err := c.ListPodSandbox(c.ctx, &cri.ListPodSandboxRequest{})
	if err != nil {
		c.t.Fatal(err)
	}
	var g errgroup.Group
	g.SetLimit(4)
	for _, sb := range list.Items {
		g.Go(func() error { c.removePod(sb.Id); return nil })
	}
	g.Wait()
}

// number is an environment variable's, or the other one.
func number(env string, otherwise int) int {
	if n, err := strconv.Atoi(os.Getenv(env)); err == nil {
		return n
	}
	return otherwise
}

// median is how long a call takes, the median of eleven.
func median(t *testing.T, f func() error) time.Duration {
	t.Helper()
	var took []time.Duration
	for range 11 {
		began := time.Now()
		if err := f(); err != nil {
			t.Error(err)
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	return took[len(took)/2].Round(100 * time.Microsecond)
}

// A daemon that starts again among many pods takes all of them over, and disturbs none.
func TestRestartAmongManyPods(t *testing.T) {
	busybox(t)
	m := newMachine(t)
	d := m.criDaemon(nil)
	c := dialCRI(t, m.criSocket())
	c.pullDemo()
	log := newCounters(m, counting, "stream")
	n := number("BERTH_TEST_PODS", 200)
	_, containers := c.crowd(n, m.dir)
	before := map[string]process{}
	for _, id := range containers {
		before[id] = c.pid(id)
	}
	for _, how := range []syscall.Signal{syscall.SIGKILL, syscall.SIGUSR2} {
		pid := d.cmd.Process.Pid
		began := time.Now()
		if how == syscall.SIGKILL {
			d.signal(how)
			d.wait()
			d = m.criDaemon(nil)
		} else { // the binary of an upgrade: the same one, in the same process
			said := strings.Count(d.err.String(), "node is up")
			d.signal(how)
			m.eventually("the new binary is up", func() bool { return strings.Count(d.err.String(), "node is up") > said })
			if d.cmd.Process.Pid != pid || d.over() {
				t.Errorf("the process is another one")
			}
		}
		c = dialCRI(t, m.criSocket())
		list, err := c.ListContainers(c.ctx, &cri.ListContainersRequest{})
		if err != nil || len(list.Containers) != n+1 {
			t.Fatalf("after %s: %d containers, %v", how, len(list.GetContainers()), err)
		}
		t.Logf("%s with %d pods: serving again after %s", how, n, time.Since(began).Round(time.Millisecond))
		for id, was := range before {
			if now := c.pid(id); now != was {
				t.Errorf("container %s: before %v, after %v", id, was, now)
			}
		}
		log.goesOn(m, "stream") // and no line of its log is missing, or there twice
	}
	t.Logf("with %d pods: ListContainerStats %s, ListPodSandboxStats %s (medians)", n,
		median(t, func() error {
			r, err := c.ListContainerStats(c.ctx, &cri.ListContainerStatsRequest{})
			if err == nil && len(r.Stats) != n+1 {
				err = fmt.Errorf("%d statistics", len(r.Stats))
			}
			return err
		}),
		median(t, func() error {
			r, err := c.ListPodSandboxStats(c.ctx, &cri.ListPodSandboxStatsRequest{})
			if err == nil && len(r.Stats) != n+1 {
				err = fmt.Errorf("%d statistics", len(r.Stats))
			}
			return err
		}))
	rss, _ := exec.Command("ps", "-o", "rss=", "-p", fmt.Sprint(d.cmd.Process.Pid)).Output()
	t.Logf("the daemon's RSS with %d pods: %s KiB", n, strings.TrimSpace(string(rss)))
	c.disperse()
	m.clean()
	stopCRI(m)
}

// The daemon is killed at random moments while pods come and go: no pod is lost, no exit code unknown, no
// line of a log lost, and nothing without an owner is left.
func TestDaemonKilledUnderChurn(t *testing.T) {
	busybox(t)
	m := newMachine(t)
	d := m.criDaemon(nil)
	c := dialCRI(t, m.criSocket())
	c.pullDemo()
	kept, keptContainer, err := c.start(c.ctx, "kept", 0, m.dir, "demo", "show", "--wait", "1h")
	if err != nil {
		t.Fatal(err)
	}
	before := c.pid(keptContainer)
	stream := newCounters(m, counting, "stream")
	kills := number("BERTH_TEST_KILLS", 40)
	ctx, stop := context.WithCancel(c.ctx)
	defer stop()
	var lives atomic.Int64
	var churn sync.WaitGroup
	for i := range 20 {
		churn.Go(func() {
			for round := uint32(0); ctx.Err() == nil; round++ {
				c.life(ctx, fmt.Sprintf("churn-%d", i), round, m.dir)
				lives.Add(1)
			}
		})
	}
	for range kills {
		time.Sleep(time.Duration(50+rand.IntN(250)) * time.Millisecond)
		d.signal(syscall.SIGKILL)
		d.wait()
		d = m.criDaemon(nil)
	}
	stop()
	churn.Wait()
	t.Logf("%d kills, %d lives of pods", kills, lives.Load())
	c = dialCRI(t, m.criSocket())
	if after := c.pid(keptContainer); after != before {
		t.Errorf("the bystander: before %v, after %v", before, after)
	}
	stream.goesOn(m, "stream") // no line of its log is missing, and none is there twice
	c.removePod(kept)
	c.disperse()
	m.clean()
	stopCRI(m)
}

// insist calls until the answer is one of the daemon's: a connection that broke is tried again.
func insist(ctx context.Context, f func() error) error {
	for {
		err := f()
		if code := status.Code(err); code != codes.Unavailable && code != codes.Canceled || ctx.Err() != nil {
			return err
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// life is a pod's: it starts, says a line, ends with a code, and is removed. A kill may come at any moment,
// and whoever asks again gets on with it.
func (c criClient) life(ctx context.Context, name string, attempt uint32, dir string) {
	var pod, id string
	err := insist(ctx, func() (err error) {
		pod, id, err = c.start(ctx, name, attempt, dir, "demo", "show", "--env", "NOTHING", "--exit", "7")
		if status.Code(err) == codes.FailedPrecondition && id != "" {
			return nil // it was started by the call that broke
		}
		return err
	})
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		c.t.Errorf("%s, attempt %d: %v", name, attempt, err)
		return
	}
	var st *cri.ContainerStatus
	err = insist(ctx, func() error {
		r, err := c.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: id})
		if err == nil && r.Status.State != cri.ContainerState_CONTAINER_EXITED {
			return status.Error(codes.Unavailable, "it runs")
		}
		st = r.GetStatus()
		return err
	})
	if ctx.Err() != nil {
		return
	}
	if err != nil || st.ExitCode != 7 {
		c.t.Errorf("%s, attempt %d: exit code %d (%s %s), %v", name, attempt, st.GetExitCode(), st.GetReason(), st.GetMessage(), err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, name+".log")); err != nil || strings.Count(string(b), "NOTHING=") == 0 || !strings.Contains(string(b), "uid=0") {
		c.t.Errorf("%s, attempt %d: its log is %q, %v", name, attempt, b, err)
	}
	os.Remove(filepath.Join(dir, name+".log"))
	err = errors.Join(
		insist(ctx, func() error {
			_, err := c.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: pod})
			return err
		}),
		insist(ctx, func() error {
			_, err := c.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: pod})
			return err
		}))
	if err != nil && ctx.Err() == nil {
		c.t.Errorf("%s, attempt %d: %v", name, attempt, err)
	}
}
