package test

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// first is the first number in a container's log, -1 before it.
func (c *counters) first(name string) int {
	b, _ := os.ReadFile(filepath.Join(c.dir, name+".log"))
	line, _, whole := bytes.Cut(b, []byte("\n"))
	f := strings.Fields(string(line))
	if !whole || len(f) < 4 {
		return -1
	}
	n, err := strconv.Atoi(f[3])
	if err != nil {
		return -1
	}
	return n
}

// exec runs a command in a container and returns what it writes.
func (c *counters) exec(id string, args ...string) string {
	r, err := c.ExecSync(c.ctx, &cri.ExecSyncRequest{ContainerId: id, Cmd: args, Timeout: 20})
	if err != nil {
		return err.Error()
	}
	return string(r.Stdout) + string(r.Stderr)
}

// A container that is created of an archive, by its path or as an image, counts on where it was: memory, files and
// confinement are those of the checkpoint.
func TestRestoreContainer(t *testing.T) {
	needsCRIU(t)
	m := newMachine(t)
	m.criDaemon(nil)
	c := newCounters(m, counting, "app")
	archive := filepath.Join(m.dir, "app.tar")
	m.eventually("it counts", func() bool { return c.count("app") > 2 })
	if err := c.checkpoint(c.ids[0], archive, 60); err != nil {
		t.Fatal(err)
	}
	for name, image := range map[string]string{"again": archive, "byimage": c.checkpointImage(archive)} {
		c.restored(m, name, image)
	}
	if left, _ := os.ReadDir(filepath.Join(m.root, "checkpoints")); len(left) > 0 {
		t.Errorf("left in the scratch folder: %v", left)
	}
	c.goesOn(m, "app")
	c.removePod(c.pod)
	m.clean()
	stopCRI(m)
}

// checkpointImage makes an image of an archive, as buildah does, and pulls it.
func (c *counters) checkpointImage(archive string) string {
	t := c.t
	t.Helper()
	layer, err := tarball.LayerFromFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{Architecture: thisArch(t), OS: "linux"})
	if err == nil {
		img, err = mutate.AppendLayers(mutate.MediaType(img, types.OCIManifestSchema1), layer)
	}
	if err != nil {
		t.Fatal(err)
	}
	img = mutate.Annotations(img, map[string]string{"org.criu.checkpoint.container.name": "app"}).(v1.Image)
	ref := newWarehouse(t).push("checkpoints/app:1", img)
	if _, err := c.PullImage(c.ctx, &cri.PullImageRequest{Image: &cri.ImageSpec{Image: ref}}); err != nil {
		t.Fatal(err)
	}
	return ref
}

// restored makes a container of a checkpoint and sees it count on.
func (c *counters) restored(m *machine, name, image string) {
	t := m.t
	config := proto.Clone(c.configs[0]).(*cri.ContainerConfig)
	config.Metadata.Name, config.LogPath, config.Image.Image, config.Command = name, name+".log", image, nil
	made, err := c.CreateContainer(c.ctx, &cri.CreateContainerRequest{PodSandboxId: c.pod, SandboxConfig: c.config, Config: config})
	if err != nil {
		t.Fatal(err)
	}
	if st, err := c.ContainerStatus(c.ctx, &cri.ContainerStatusRequest{ContainerId: made.ContainerId}); err != nil || st.Status.State != cri.ContainerState_CONTAINER_CREATED {
		t.Fatalf("before the start: %v, %v", st, err)
	}
	if _, err := c.StartContainer(c.ctx, &cri.StartContainerRequest{ContainerId: made.ContainerId}); err != nil {
		t.Fatal(err)
	}
	m.eventually("it counts on", func() bool { return c.count(name) > c.first(name)+1 })
	if n := c.first(name); n < 3 {
		t.Errorf("the restored container began with %d", n)
	}
	if got := c.exec(made.ContainerId, "sh", "-c", "cat /new; ls /bin/wget; /bin/busybox grep -E 'Seccomp:|CapBnd' /proc/1/status"); !strings.Contains(got, "mine\n") ||
		!strings.Contains(got, "No such file") || !strings.Contains(got, "Seccomp:\t2") || strings.Contains(got, "CapBnd:\t000001ff") {
		t.Errorf("inside: %q", got)
	}
	if _, err := c.StopContainer(c.ctx, &cri.StopContainerRequest{ContainerId: made.ContainerId, Timeout: 0}); err != nil {
		t.Fatal(err)
	}
	if st, err := c.ContainerStatus(c.ctx, &cri.ContainerStatusRequest{ContainerId: made.ContainerId}); err != nil || st.Status.ExitCode != 137 {
		t.Errorf("its end: %v, %v", st, err)
	}
}

// CheckpointPod and RestorePod: two containers of one moment, their shared memory, in a new sandbox.
func TestRestorePod(t *testing.T) {
	needsCRIU(t)
	m := newMachine(t)
	m.criDaemon(nil)
	c := newCounters(m, "echo $0 >>/dev/shm/both; "+counting, "a", "b")
	dir := filepath.Join(m.dir, "pod")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "b"} {
		m.eventually("it counts", func() bool { return c.count(name) > 2 })
	}
	refusedPodCheckpoints(t, c, dir)
	if _, err := c.CheckpointPod(c.ctx, &cri.CheckpointPodRequest{PodSandboxId: c.pod, OutputPath: dir, ContainerIds: c.ids}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "b"} {
		c.goesOn(m, name)
	}
	c.removePod(c.pod)

	config := proto.Clone(c.config).(*cri.PodSandboxConfig)
	config.Metadata.Uid, config.LogDirectory = "again", filepath.Join(m.dir, "logs2")
	if err := os.Mkdir(config.LogDirectory, 0o755); err != nil {
		t.Fatal(err)
	}
	refusedRestores(t, c, dir, config)
	made, err := c.RestorePod(c.ctx, &cri.RestorePodRequest{CheckpointPath: dir, Config: config, ContainerConfigs: c.configs})
	if err != nil {
		t.Fatal(err)
	}
	c.dir, c.pod = config.LogDirectory, made.PodSandboxId
	if len(made.RestoredContainers) != 2 {
		t.Fatalf("%v", made)
	}
	for _, r := range made.RestoredContainers {
		if st, err := c.ContainerStatus(c.ctx, &cri.ContainerStatusRequest{ContainerId: r.ContainerId}); err != nil || st.Status.State != cri.ContainerState_CONTAINER_CREATED || c.count(r.Name) != -1 {
			t.Errorf("before the start: %v, %v", st, err)
		}
		if _, err := c.StartContainer(c.ctx, &cri.StartContainerRequest{ContainerId: r.ContainerId}); err != nil {
			t.Fatal(err)
		}
		m.eventually(r.Name+" counts on", func() bool { return c.count(r.Name) > c.first(r.Name)+1 })
		if n := c.first(r.Name); n < 3 {
			t.Errorf("%s began with %d", r.Name, n)
		}
		if got := c.exec(r.ContainerId, "cat", "/dev/shm/both"); got != "sh\nsh\n" {
			t.Errorf("shared memory: %q", got)
		}
	}
	c.removePod(c.pod)
	m.clean()
	stopCRI(m)
}

// refusedPodCheckpoints leave no file and a pod that runs on.
func refusedPodCheckpoints(t *testing.T, c *counters, dir string) {
	for what, r := range map[string]*cri.CheckpointPodRequest{
		"no container":      {PodSandboxId: c.pod, OutputPath: dir},
		"one twice":         {PodSandboxId: c.pod, OutputPath: dir, ContainerIds: []string{c.ids[0], c.ids[0]}},
		"an option":         {PodSandboxId: c.pod, OutputPath: dir, ContainerIds: c.ids, Options: map[string]string{"a": "b"}},
		"no folder":         {PodSandboxId: c.pod, OutputPath: dir + "/none", ContainerIds: c.ids},
		"a relative folder": {PodSandboxId: c.pod, OutputPath: "pod", ContainerIds: c.ids},
		"a full folder":     {PodSandboxId: c.pod, OutputPath: filepath.Dir(dir), ContainerIds: c.ids},
	} {
		if _, err := c.CheckpointPod(c.ctx, r); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", what, err)
		}
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("refused checkpoints left %v", left)
	}
}

// refusedRestores leave no sandbox.
func refusedRestores(t *testing.T, c *counters, dir string, config *cri.PodSandboxConfig) {
	other := func(f func(*cri.ContainerConfig)) []*cri.ContainerConfig {
		changed := proto.Clone(c.configs[1]).(*cri.ContainerConfig)
		f(changed)
		return []*cri.ContainerConfig{c.configs[0], changed}
	}
	for what, x := range map[string]struct {
		configs []*cri.ContainerConfig
		code    codes.Code
	}{
		"a container too few": {c.configs[:1], codes.InvalidArgument},
		"another name":        {other(func(c *cri.ContainerConfig) { c.Metadata.Name = "x" }), codes.InvalidArgument},
		"another command":     {other(func(c *cri.ContainerConfig) { c.Command = []string{"true"} }), codes.FailedPrecondition},
		"another variable":    {other(func(c *cri.ContainerConfig) { c.Envs = []*cri.KeyValue{{Key: "A", Value: []byte("b")}} }), codes.FailedPrecondition},
	} {
		if _, err := c.RestorePod(c.ctx, &cri.RestorePodRequest{CheckpointPath: dir, Config: config, ContainerConfigs: x.configs}); status.Code(err) != x.code {
			t.Errorf("%s: %v", what, err)
		}
	}
	if list, err := c.ListPodSandbox(c.ctx, &cri.ListPodSandboxRequest{}); err != nil || len(list.Items) > 0 {
		t.Errorf("refused restores left %v, %v", list, err)
	}
	tighter := other(func(c *cri.ContainerConfig) {
		c.Linux.SecurityContext.Capabilities = &cri.Capability{DropCapabilities: []string{"ALL"}}
	})
	made, err := c.RestorePod(c.ctx, &cri.RestorePodRequest{CheckpointPath: dir, Config: config, ContainerConfigs: tighter})
	if err != nil {
		t.Error(err)
		return
	}
	for _, r := range made.RestoredContainers {
		_, err := c.StartContainer(c.ctx, &cri.StartContainerRequest{ContainerId: r.ContainerId})
		if r.Name == "b" && (status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "capabilities")) {
			t.Errorf("more capabilities than the container has: %v", err)
		}
	}
	c.removePod(made.PodSandboxId)
	logs, _ := filepath.Glob(filepath.Join(config.LogDirectory, "*"))
	for _, l := range logs {
		os.Remove(l)
	}
}

// A daemon that is killed between the creation of a container from a checkpoint and its start leaves it whole for the
// next one, and takes half-made ones back; a restored container outlives daemon and shim as any other.
func TestRestoreSurvivesDaemon(t *testing.T) {
	needsCRIU(t)
	m := newMachine(t)
	d := m.criDaemon(nil)
	c := newCounters(m, counting, "app")
	archive := filepath.Join(m.dir, "app.tar")
	m.eventually("it counts", func() bool { return c.count("app") > 2 })
	if err := c.checkpoint(c.ids[0], archive, 60); err != nil {
		t.Fatal(err)
	}
	again := func() {
		d.signal(syscall.SIGKILL)
		d.wait()
		d = m.criDaemon(nil)
		c.criClient = dialCRI(t, m.criSocket())
	}
	create := func(client criClient, name string) (string, error) {
		config := proto.Clone(c.configs[0]).(*cri.ContainerConfig)
		config.Metadata.Name, config.LogPath, config.Image.Image, config.Command = name, name+".log", archive, nil
		made, err := client.CreateContainer(client.ctx, &cri.CreateContainerRequest{PodSandboxId: c.pod, SandboxConfig: c.config, Config: config})
		return made.GetContainerId(), err
	}
	id, err := create(c.criClient, "later")
	if err != nil {
		t.Fatal(err)
	}
	go create(c.criClient, "never") // it may be made or not
	again()
	if _, err := c.StartContainer(c.ctx, &cri.StartContainerRequest{ContainerId: id}); err != nil {
		t.Fatal(err)
	}
	m.eventually("it counts on", func() bool { return c.count("later") > c.first("later")+1 })
	was := c.pid(id)
	again()
	if err := syscall.Kill(m.shimOf(c.pod).pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	last := c.count("later")
	m.eventually("it counts on without daemon and shim of its start", func() bool { return c.count("later") > last+1 })
	if now := c.pid(id); now != was {
		t.Errorf("before %v, after %v", was, now)
	}
	if list, err := c.ListContainers(c.ctx, &cri.ListContainersRequest{}); err != nil || len(list.Containers) > 3 {
		t.Errorf("%v, %v", list, err)
	}
	c.removePod(c.pod)
	if left, _ := os.ReadDir(filepath.Join(m.root, "checkpoints")); len(left) > 0 {
		t.Errorf("left in the scratch folder: %v", left)
	}
	m.clean()
	stopCRI(m)
}
