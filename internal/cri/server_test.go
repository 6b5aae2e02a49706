package cri

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	utilexec "k8s.io/client-go/util/exec"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func podConfig() *runtimeapi.PodSandboxConfig {
	return &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: "p", Uid: "u", Namespace: "n"}, LogDirectory: "/logs",
		Labels: map[string]string{"a": "b"},
		Linux:  &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{}},
	}
}

func containerConfig() *runtimeapi.ContainerConfig {
	return &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: "c"}, Image: &runtimeapi.ImageSpec{Image: "img", UserSpecifiedImage: "what I wrote"},
		LogPath: "c.log", Labels: map[string]string{"x": "y"}, StopSignal: runtimeapi.Signal_SIGNAL_SIGRTMINPLUS3,
		Linux: &runtimeapi.LinuxContainerConfig{
			Resources:       &runtimeapi.LinuxContainerResources{CpuShares: 10, HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB", Limit: 4}}},
			SecurityContext: &runtimeapi.LinuxContainerSecurityContext{RunAsUser: &runtimeapi.Int64Value{Value: 5}},
		},
	}
}

// runPod makes a pod with one running container over the client.
func runPod(t *testing.T, c runtimeapi.RuntimeServiceClient) (pod, container string) {
	t.Helper()
	ctx := context.Background()
	p, err := c.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: podConfig()})
	if err != nil {
		t.Fatal(err)
	}
	r, err := c.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: p.PodSandboxId, Config: containerConfig(), SandboxConfig: podConfig()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: r.ContainerId}); err != nil {
		t.Fatal(err)
	}
	return p.PodSandboxId, r.ContainerId
}

func TestPodOverGRPC(t *testing.T) {
	s := newServer(t)
	c, _, _ := dial(t, s)
	ctx := context.Background()
	events, err := c.GetContainerEvents(ctx, &runtimeapi.GetEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := events.Header(); err != nil { // from here on it hears everything
		t.Fatal(err)
	}
	pod, id := runPod(t, c)
	if len(pod) != 64 || len(id) != 64 {
		t.Errorf("ids %q %q", pod, id)
	}
	st, err := c.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: pod[:8], Verbose: true})
	if err != nil || st.Status.Network.Ip != "10.0.0.2" || st.Status.Network.AdditionalIps[0].Ip != "fd00::2" || len(st.ContainersStatuses) != 1 || st.Info["info"] == "" {
		t.Errorf("pod status %v, %v", st, err)
	}
	cs, err := c.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id[:10]})
	if err != nil {
		t.Fatal(err)
	}
	want := &runtimeapi.ContainerStatus{
		Id: id, Metadata: &runtimeapi.ContainerMetadata{Name: "c"}, State: runtimeapi.ContainerState_CONTAINER_RUNNING,
		CreatedAt: cs.Status.CreatedAt, StartedAt: cs.Status.StartedAt,
		Image:    &runtimeapi.ImageSpec{Image: "img", UserSpecifiedImage: "what I wrote"},
		ImageRef: "img@sha256:2", ImageId: "sha256:1", Labels: map[string]string{"x": "y"}, LogPath: "/logs/c.log",
		Resources:  &runtimeapi.ContainerResources{Linux: containerConfig().Linux.Resources},
		User:       &runtimeapi.ContainerUser{Linux: &runtimeapi.LinuxContainerUser{Uid: 5, SupplementalGroups: []int64{0}}},
		StopSignal: runtimeapi.Signal_SIGNAL_SIGRTMINPLUS3,
	}
	if !proto.Equal(cs.Status, want) {
		t.Errorf("container status\n%v, want\n%v", cs.Status, want)
	}
	checkLists(t, c, pod, id)
	if _, err := c.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: id, Timeout: 1 << 62}); err != nil {
		t.Error(err)
	}
	if _, err := c.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: pod}); err != nil {
		t.Error(err)
	}
	checkEvents(t, events, pod, id)
}

func checkLists(t *testing.T, c runtimeapi.RuntimeServiceClient, pod, id string) {
	t.Helper()
	ctx := context.Background()
	for _, x := range []struct {
		f    *runtimeapi.ContainerFilter
		want int
	}{
		{nil, 1}, {&runtimeapi.ContainerFilter{Id: id[:5]}, 1}, {&runtimeapi.ContainerFilter{Id: "nope"}, 0},
		{&runtimeapi.ContainerFilter{PodSandboxId: pod}, 1}, {&runtimeapi.ContainerFilter{PodSandboxId: "nope"}, 0},
		{&runtimeapi.ContainerFilter{State: &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_EXITED}}, 0},
		{&runtimeapi.ContainerFilter{LabelSelector: map[string]string{"x": "y"}}, 1}, {&runtimeapi.ContainerFilter{LabelSelector: map[string]string{"x": "z"}}, 0},
	} {
		if l, err := c.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: x.f}); err != nil || len(l.Containers) != x.want {
			t.Errorf("list %v: %v, %v", x.f, l, err)
		}
	}
	if l, err := c.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{LabelSelector: map[string]string{"a": "b"}}}); err != nil || len(l.Items) != 1 {
		t.Errorf("list pods: %v, %v", l, err)
	}
	stats, err := c.ListContainerStats(ctx, &runtimeapi.ListContainerStatsRequest{})
	if err != nil || len(stats.Stats) != 1 || stats.Stats[0].Cpu.UsageCoreNanoSeconds.Value != 11 || stats.Stats[0].Memory.AvailableBytes.Value != 900 {
		t.Errorf("stats %v, %v", stats, err)
	}
	if ps, err := c.PodSandboxStats(ctx, &runtimeapi.PodSandboxStatsRequest{PodSandboxId: pod}); err != nil || len(ps.Stats.Linux.Containers) != 1 {
		t.Errorf("pod stats %v, %v", ps, err)
	}
	if r, err := c.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"hi"}}); err != nil || string(r.Stdout) != "hi" || r.ExitCode != 3 {
		t.Errorf("exec %v, %v", r, err)
	}
	if _, err := c.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"sleep"}, Timeout: 1}); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("exec that times out: %v", err)
	}
}

func checkEvents(t *testing.T, events runtimeapi.RuntimeService_GetContainerEventsClient, pod, id string) {
	t.Helper()
	var got []string
	for range 8 {
		e, err := events.Recv()
		if err != nil {
			t.Fatal(err)
		}
		who := map[string]string{pod: "pod", id: "container"}[e.ContainerId]
		got = append(got, who+" "+strings.TrimSuffix(strings.TrimPrefix(e.ContainerEventType.String(), "CONTAINER_"), "_EVENT"))
		if e.PodSandboxStatus.GetId() != pod {
			t.Errorf("event without its pod: %v", e)
		}
	}
	want := "pod CREATED, pod STARTED, container CREATED, container STARTED, container STOPPED, pod STOPPED, container DELETED, pod DELETED"
	if s := strings.Join(got, ", "); s != want {
		t.Errorf("events %s", s)
	}
}

func TestExecStream(t *testing.T) {
	s := newServer(t)
	c, _, _ := dial(t, s)
	pod, id := runPod(t, c)
	r, err := c.Exec(context.Background(), &runtimeapi.ExecRequest{ContainerId: id, Cmd: []string{"cat"}, Stdin: true, Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	stream := func() (string, error) {
		u, _ := url.Parse(r.Url)
		e, err := remotecommand.NewSPDYExecutor(&rest.Config{}, "POST", u)
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		err = e.StreamWithContext(context.Background(), remotecommand.StreamOptions{Stdin: strings.NewReader("hello"), Stdout: &out})
		return out.String(), err
	}
	out, err := stream()
	var exit utilexec.ExitError
	if out != "hello" || !errors.As(err, &exit) || exit.ExitStatus() != 5 {
		t.Errorf("%q, %v", out, err)
	}
	if _, err := stream(); err == nil {
		t.Error("a token was good twice")
	}
	if !strings.HasPrefix(r.Url, "http://127.0.0.1:") {
		t.Errorf("streams are served at %s", r.Url)
	}
	if _, err := c.PortForward(context.Background(), &runtimeapi.PortForwardRequest{PodSandboxId: pod}); err != nil {
		t.Error(err)
	}
	if _, err := c.Attach(context.Background(), &runtimeapi.AttachRequest{ContainerId: id, Stdout: true}); err != nil {
		t.Error(err)
	}
}

func TestImages(t *testing.T) {
	s := newServer(t)
	_, c, _ := dial(t, s)
	ctx := context.Background()
	spec := func(ref string) *runtimeapi.ImageSpec { return &runtimeapi.ImageSpec{Image: ref} }
	pull, err := c.PullImage(ctx, &runtimeapi.PullImageRequest{Image: spec("img")})
	st, serr := c.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: spec("img")})
	if err != nil || serr != nil || pull.ImageRef != st.Image.Id || st.Image.Id != oneImage.ID.String() {
		t.Errorf("%v %v %v %v", pull, err, st, serr)
	}
	if st, err := c.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: spec("ghost")}); err != nil || st.Image != nil {
		t.Errorf("status of an unknown image: %v, %v", st, err)
	}
	for ref, want := range map[string]codes.Code{"ghost": codes.NotFound, "secret": codes.Unauthenticated, "": codes.InvalidArgument} {
		if _, err := c.PullImage(ctx, &runtimeapi.PullImageRequest{Image: spec(ref)}); status.Code(err) != want {
			t.Errorf("pull %q: %v", ref, err)
		}
	}
	if _, err := c.RemoveImage(ctx, &runtimeapi.RemoveImageRequest{Image: spec("ghost")}); err != nil {
		t.Error(err)
	}
	if l, err := c.ListImages(ctx, &runtimeapi.ListImagesRequest{Filter: &runtimeapi.ImageFilter{Image: spec("ghost")}}); err != nil || len(l.Images) != 0 {
		t.Errorf("%v, %v", l, err)
	}
	if f, err := c.ImageFsInfo(ctx, &runtimeapi.ImageFsInfoRequest{}); err != nil || f.ImageFilesystems[0].FsId.Mountpoint != "/images" {
		t.Errorf("%v, %v", f, err)
	}
	var seen PullProgress
	if _, err := s.PullImageProgress(ctx, &runtimeapi.PullImageRequest{Image: spec("img")}, func(p PullProgress) { seen = p }); err != nil || seen.Current != 4 || seen.Total != 10 {
		t.Errorf("progress %+v, %v", seen, err)
	}
}

func TestStatusAndConfig(t *testing.T) {
	s := newServer(t)
	ctx := context.Background()
	st, err := s.Status(ctx, &runtimeapi.StatusRequest{Verbose: true})
	if err != nil || len(st.Status.Conditions) != 2 || len(st.RuntimeHandlers) != 1 || st.Info["info"] == "" {
		t.Errorf("%v, %v", st, err)
	}
	v, _ := s.Version(ctx, nil)
	if v.RuntimeName != "berth" || v.RuntimeApiVersion != "v1" || v.RuntimeVersion != "1.2.3" {
		t.Errorf("%v", v)
	}
	if rc, _ := s.RuntimeConfig(ctx, nil); rc.Linux.CgroupDriver != runtimeapi.CgroupDriver_CGROUPFS {
		t.Errorf("%v", rc)
	}
}

// A stock client forwards a port of a pod on the host's network; a connection that the server resets ends
// alone, not the forwarding.
func TestPortForward(t *testing.T) {
	s := newServer(t)
	c, _, _ := dial(t, s)
	cfg := podConfig()
	cfg.Linux.SecurityContext.NamespaceOptions = &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE, Pid: runtimeapi.NamespaceMode_CONTAINER}
	p, err := c.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: cfg})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Skipf("no IPv6 loopback: %v", err)
	}
	defer l.Close()
	go func() {
		for n := 0; ; n++ {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			if n%2 == 0 {
				conn.(*net.TCPConn).SetLinger(0)
				conn.Close()
				continue
			}
			b, _ := io.ReadAll(conn)
			conn.Write(bytes.ToUpper(b))
			conn.Close()
		}
	}()
	r, err := c.PortForward(t.Context(), &runtimeapi.PortForwardRequest{PodSandboxId: p.PodSandboxId})
	if err != nil {
		t.Fatal(err)
	}
	u, _ := url.Parse(r.Url)
	transport, upgrader, err := spdy.RoundTripperFor(&rest.Config{})
	if err != nil {
		t.Fatal(err)
	}
	stop, ready := make(chan struct{}), make(chan struct{})
	pf, err := portforward.NewOnAddresses(spdy.NewDialer(upgrader, &http.Client{Transport: transport}, "POST", u),
		[]string{"127.0.0.1"}, []string{fmt.Sprintf("0:%d", l.Addr().(*net.TCPAddr).Port)}, stop, ready, io.Discard, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	over := make(chan error, 1)
	go func() { over <- pf.ForwardPorts() }()
	<-ready
	ports, _ := pf.GetPorts()
	for n := range 6 {
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", ports[0].Local))
		if err != nil {
			t.Fatal(err)
		}
		conn.Write([]byte("hello"))
		conn.(*net.TCPConn).CloseWrite()
		got, _ := io.ReadAll(conn)
		if want := []string{"", "HELLO"}[n%2]; string(got) != want {
			t.Errorf("connection %d: %q", n, got)
		}
		conn.Close()
	}
	close(stop)
	if err := <-over; err != nil {
		t.Error(err)
	}
}
