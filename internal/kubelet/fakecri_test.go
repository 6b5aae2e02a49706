package kubelet

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// fakeCRI is a runtime in memory. A container's image decides what it does:
//
//	sleep      lives until it is stopped
//	exit-N     ends at once with code N
//	deaf       lives and ignores SIGTERM
//	nofile     can't be started
//	absent     is in no registry
type fakeCRI struct {
	mu         sync.Mutex
	ids        int
	sandboxes  map[string]*runtimeapi.PodSandboxStatus
	configs    map[string]*runtimeapi.PodSandboxConfig
	containers map[string]*fakeContainer
	streams    map[int]chan *runtimeapi.ContainerEventResponse
	pulls      int
	exec       func(id string) int32
	sandboxErr error
	calls      []string
}

type fakeContainer struct {
	*runtimeapi.ContainerStatus
	sandbox string
	config  *runtimeapi.ContainerConfig
	ended   chan struct{}
}

func newFakeCRI() *fakeCRI {
	return &fakeCRI{sandboxes: map[string]*runtimeapi.PodSandboxStatus{}, configs: map[string]*runtimeapi.PodSandboxConfig{},
		containers: map[string]*fakeContainer{}, streams: map[int]chan *runtimeapi.ContainerEventResponse{}}
}

func missing(kind, id string) error { return status.Errorf(codes.NotFound, "no %s %s", kind, id) }

func (f *fakeCRI) id(prefix string) string { f.ids++; return fmt.Sprintf("%s%d", prefix, f.ids) }

// emit tells every stream. f.mu is held.
func (f *fakeCRI) emit(t runtimeapi.ContainerEventType, id, sandbox string) {
	s := f.sandboxes[sandbox]
	if s == nil {
		return
	}
	e := &runtimeapi.ContainerEventResponse{ContainerId: id, ContainerEventType: t, PodSandboxStatus: clone(s)}
	for _, c := range f.containers {
		if c.sandbox == sandbox {
			e.ContainersStatuses = append(e.ContainersStatuses, clone(c.ContainerStatus))
		}
	}
	for _, ch := range f.streams {
		ch <- e
	}
}

func clone[T runtimeapi.PodSandboxStatus | runtimeapi.ContainerStatus](v *T) *T {
	switch v := any(v).(type) {
	case *runtimeapi.PodSandboxStatus:
		return any(&runtimeapi.PodSandboxStatus{Id: v.Id, Metadata: v.Metadata, State: v.State, CreatedAt: v.CreatedAt, Network: v.Network, Labels: v.Labels}).(*T)
	case *runtimeapi.ContainerStatus:
		return any(&runtimeapi.ContainerStatus{Id: v.Id, Metadata: v.Metadata, State: v.State, CreatedAt: v.CreatedAt, StartedAt: v.StartedAt,
			FinishedAt: v.FinishedAt, ExitCode: v.ExitCode, Labels: v.Labels, Annotations: v.Annotations, ImageRef: v.ImageRef}).(*T)
	}
	panic("no such type")
}

func (f *fakeCRI) RunPodSandbox(_ context.Context, r *runtimeapi.RunPodSandboxRequest) (*runtimeapi.RunPodSandboxResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.sandboxErr != nil {
		return nil, f.sandboxErr
	}
	id := f.id("s")
	f.sandboxes[id] = &runtimeapi.PodSandboxStatus{Id: id, Metadata: r.Config.Metadata, CreatedAt: time.Now().UnixNano(), Labels: r.Config.Labels,
		Network: &runtimeapi.PodSandboxNetworkStatus{Ip: "127.0.0.1"}}
	f.configs[id] = r.Config
	return &runtimeapi.RunPodSandboxResponse{PodSandboxId: id}, nil
}

func (f *fakeCRI) StopPodSandbox(_ context.Context, r *runtimeapi.StopPodSandboxRequest) (*runtimeapi.StopPodSandboxResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.sandboxes[r.PodSandboxId]
	if s == nil {
		return nil, missing("sandbox", r.PodSandboxId)
	}
	s.State = runtimeapi.PodSandboxState_SANDBOX_NOTREADY
	for _, c := range f.containers {
		if c.sandbox == r.PodSandboxId {
			f.exit(c, 137)
		}
	}
	return &runtimeapi.StopPodSandboxResponse{}, nil
}

func (f *fakeCRI) RemovePodSandbox(_ context.Context, r *runtimeapi.RemovePodSandboxRequest) (*runtimeapi.RemovePodSandboxResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.sandboxes, r.PodSandboxId)
	for id, c := range f.containers {
		if c.sandbox == r.PodSandboxId {
			delete(f.containers, id)
		}
	}
	return &runtimeapi.RemovePodSandboxResponse{}, nil
}

func (f *fakeCRI) PodSandboxStatus(_ context.Context, r *runtimeapi.PodSandboxStatusRequest) (*runtimeapi.PodSandboxStatusResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.sandboxes[r.PodSandboxId]
	if s == nil {
		return nil, missing("sandbox", r.PodSandboxId)
	}
	return &runtimeapi.PodSandboxStatusResponse{Status: clone(s)}, nil
}

func (f *fakeCRI) ListPodSandbox(_ context.Context, r *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := &runtimeapi.ListPodSandboxResponse{}
	for _, s := range f.sandboxes {
		match := true
		for k, v := range r.GetFilter().GetLabelSelector() {
			match = match && s.Labels[k] == v
		}
		if match {
			out.Items = append(out.Items, &runtimeapi.PodSandbox{Id: s.Id, Metadata: s.Metadata, State: s.State, CreatedAt: s.CreatedAt, Labels: s.Labels})
		}
	}
	return out, nil
}

func (f *fakeCRI) CreateContainer(_ context.Context, r *runtimeapi.CreateContainerRequest) (*runtimeapi.CreateContainerResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.sandboxes[r.PodSandboxId] == nil {
		return nil, missing("sandbox", r.PodSandboxId)
	}
	for _, m := range r.Config.Mounts {
		if _, err := os.Stat(m.HostPath); err != nil {
			return nil, status.Errorf(codes.Internal, "mount %s: %v", m.ContainerPath, err)
		}
	}
	id := f.id("c")
	f.containers[id] = &fakeContainer{sandbox: r.PodSandboxId, config: r.Config, ended: make(chan struct{}),
		ContainerStatus: &runtimeapi.ContainerStatus{Id: id, Metadata: r.Config.Metadata, CreatedAt: time.Now().UnixNano(),
			Labels: r.Config.Labels, Annotations: r.Config.Annotations, ImageRef: r.Config.Image.Image}}
	f.calls = append(f.calls, "create "+r.Config.Metadata.Name)
	f.emit(runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT, id, r.PodSandboxId)
	return &runtimeapi.CreateContainerResponse{ContainerId: id}, nil
}

func (f *fakeCRI) StartContainer(_ context.Context, r *runtimeapi.StartContainerRequest) (*runtimeapi.StartContainerResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.containers[r.ContainerId]
	if c == nil {
		return nil, missing("container", r.ContainerId)
	}
	image := c.config.Image.Image
	if image == "nofile" {
		return nil, status.Error(codes.Unknown, `exec: "foo": executable file not found in $PATH`)
	}
	log := filepath.Join(f.configs[c.sandbox].LogDirectory, c.config.LogPath)
	line := fmt.Sprintf("%s stdout F hello from %s/%d\n", time.Now().UTC().Format(time.RFC3339Nano), c.Metadata.Name, c.Metadata.Attempt)
	if err := os.WriteFile(log, []byte(line), 0o600); err != nil {
		return nil, err
	}
	c.State, c.StartedAt = runtimeapi.ContainerState_CONTAINER_RUNNING, time.Now().UnixNano()
	f.emit(runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT, c.Id, c.sandbox)
	var code int32
	if n, _ := fmt.Sscanf(image, "exit-%d", &code); n == 1 {
		if m := messageMount(c.config); m != "" {
			os.WriteFile(m, []byte("last words"), 0o600)
		}
		f.exit(c, code)
	}
	return &runtimeapi.StartContainerResponse{}, nil
}

func messageMount(c *runtimeapi.ContainerConfig) string {
	for _, m := range c.Mounts {
		if m.ContainerPath == "/dev/termination-log" {
			return m.HostPath
		}
	}
	return ""
}

// exit ends a container. f.mu is held.
func (f *fakeCRI) exit(c *fakeContainer, code int32) {
	if c.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		return
	}
	c.State, c.ExitCode, c.FinishedAt = runtimeapi.ContainerState_CONTAINER_EXITED, code, time.Now().UnixNano()
	close(c.ended)
	f.emit(runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT, c.Id, c.sandbox)
}

// kill ends the newest instance of a container from outside.
func (f *fakeCRI) kill(name string, code int32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.containers {
		if c.Metadata.Name == name {
			f.exit(c, code)
		}
	}
}

func (f *fakeCRI) StopContainer(ctx context.Context, r *runtimeapi.StopContainerRequest) (*runtimeapi.StopContainerResponse, error) {
	f.mu.Lock()
	c := f.containers[r.ContainerId]
	if c == nil {
		f.mu.Unlock()
		return nil, missing("container", r.ContainerId)
	}
	f.calls = append(f.calls, fmt.Sprintf("stop %s %d", c.Metadata.Name, r.Timeout))
	if c.config.Image.Image != "deaf" {
		f.exit(c, 143)
	} else if r.Timeout == 0 {
		f.exit(c, 137)
	}
	f.mu.Unlock()
	select {
	case <-c.ended:
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(time.Duration(r.Timeout) * time.Second):
		f.mu.Lock()
		f.exit(c, 137)
		f.mu.Unlock()
	}
	return &runtimeapi.StopContainerResponse{}, nil
}

func (f *fakeCRI) RemoveContainer(_ context.Context, r *runtimeapi.RemoveContainerRequest) (*runtimeapi.RemoveContainerResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.containers, r.ContainerId)
	return &runtimeapi.RemoveContainerResponse{}, nil
}

func (f *fakeCRI) ListContainers(_ context.Context, r *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := &runtimeapi.ListContainersResponse{}
	for _, c := range f.containers {
		if want := r.GetFilter().GetPodSandboxId(); want == "" || want == c.sandbox {
			out.Containers = append(out.Containers, &runtimeapi.Container{Id: c.Id, PodSandboxId: c.sandbox, Metadata: c.Metadata})
		}
	}
	return out, nil
}

func (f *fakeCRI) ContainerStatus(_ context.Context, r *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.containers[r.ContainerId]
	if c == nil {
		return nil, missing("container", r.ContainerId)
	}
	return &runtimeapi.ContainerStatusResponse{Status: clone(c.ContainerStatus)}, nil
}

func (f *fakeCRI) ExecSync(_ context.Context, r *runtimeapi.ExecSyncRequest) (*runtimeapi.ExecSyncResponse, error) {
	f.mu.Lock()
	exec := f.exec
	f.mu.Unlock()
	if exec == nil {
		return &runtimeapi.ExecSyncResponse{}, nil
	}
	return &runtimeapi.ExecSyncResponse{ExitCode: exec(r.ContainerId), Stderr: []byte("not yet")}, nil
}

func (f *fakeCRI) GetContainerEvents(_ *runtimeapi.GetEventsRequest, stream runtimeapi.RuntimeService_GetContainerEventsServer) error {
	ch := make(chan *runtimeapi.ContainerEventResponse, 10_000)
	f.mu.Lock()
	n := f.ids
	f.ids++
	f.streams[n] = ch
	f.mu.Unlock()
	defer func() { f.mu.Lock(); delete(f.streams, n); f.mu.Unlock() }()
	for {
		select {
		case <-stream.Context().Done():
			return stream.Context().Err()
		case e, ok := <-ch:
			if !ok {
				return status.Error(codes.Unavailable, "the stream broke")
			}
			if err := stream.Send(e); err != nil {
				return err
			}
		}
	}
}

func (f *fakeCRI) ImageStatus(_ context.Context, r *runtimeapi.ImageStatusRequest) (*runtimeapi.ImageStatusResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.pulls == 0 || strings.HasPrefix(r.Image.Image, "absent") {
		return &runtimeapi.ImageStatusResponse{}, nil
	}
	return &runtimeapi.ImageStatusResponse{Image: &runtimeapi.Image{Id: strings.TrimSuffix(r.Image.Image, ":1"), Uid: &runtimeapi.Int64Value{}}}, nil
}

func (f *fakeCRI) PullImage(ctx context.Context, r *runtimeapi.PullImageRequest) (*runtimeapi.PullImageResponse, error) {
	return f.PullImageProgress(ctx, r, func(PullProgress) {})
}

func (f *fakeCRI) PullImageProgress(_ context.Context, r *runtimeapi.PullImageRequest, progress func(PullProgress)) (*runtimeapi.PullImageResponse, error) {
	progress(PullProgress{Current: 1, Total: 2})
	f.mu.Lock()
	defer f.mu.Unlock()
	if strings.HasPrefix(r.Image.Image, "absent") {
		return nil, status.Errorf(codes.NotFound, "image %s: not found in the registry", r.Image.Image)
	}
	f.pulls++
	return &runtimeapi.PullImageResponse{ImageRef: strings.TrimSuffix(r.Image.Image, ":1")}, nil
}

// count tells how many sandboxes and containers there are.
func (f *fakeCRI) count() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return fmt.Sprintf("%d sandboxes, %d containers", len(f.sandboxes), len(f.containers))
}
