package cri

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/11f9778f/berth/internal/image"
	"github.com/11f9778f/berth/internal/runtime"
)

// richPod and richContainer ask for something of everything.
func richPod() *runtimeapi.PodSandboxConfig {
	c := podConfig()
	c.Metadata.Attempt, c.Annotations = 1, map[string]string{"k": "v"}
	maps := []*runtimeapi.IDMapping{{HostId: 65536, Length: 65536}}
	c.Linux.SecurityContext.NamespaceOptions = &runtimeapi.NamespaceOption{
		Pid: runtimeapi.NamespaceMode_CONTAINER, UsernsOptions: &runtimeapi.UserNamespace{Uids: maps, Gids: maps},
	}
	return c
}

func richContainer(t *testing.T) *runtimeapi.ContainerConfig {
	dir := t.TempDir()
	c := containerConfig()
	c.Metadata.Attempt, c.Annotations, c.StopSignal = 1, map[string]string{"k": "v"}, runtimeapi.Signal_SIGNAL_SIGUSR1
	c.Linux.Resources = &runtimeapi.LinuxContainerResources{
		CpuPeriod: 1000, CpuQuota: 1000, CpuShares: 2, MemoryLimitInBytes: 1 << 20, MemorySwapLimitInBytes: 1 << 20, OomScoreAdj: 5, CpusetCpus: "0", CpusetMems: "0",
		HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB", Limit: 4}}, Unified: map[string]string{"k": "v"},
	}
	c.Linux.SecurityContext.RunAsGroup = &runtimeapi.Int64Value{Value: 6}
	maps := []*runtimeapi.IDMapping{{HostId: 1, ContainerId: 1, Length: 1}}
	c.Mounts = []*runtimeapi.Mount{
		{ContainerPath: "/a", HostPath: dir, Readonly: true, RecursiveReadOnly: true, SelinuxRelabel: true, MountOptions: []string{"noexec"}, UidMappings: maps, GidMappings: maps},
		{ContainerPath: "/b", HostPath: dir, Propagation: runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER},
		{ContainerPath: "/i", Image: &runtimeapi.ImageSpec{Image: "img"}, ImageSubPath: "."},
	}
	return c
}

// filled notes each field of an answer that says something.
type filled map[string]bool

func (f filled) note(m proto.Message) {
	var walk func(at string, m protoreflect.Message)
	walk = func(at string, m protoreflect.Message) {
		if apart[m.Descriptor().Name()] {
			at = string(m.Descriptor().Name())
		}
		m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
			here := at + "." + string(fd.Name())
			f[here] = true
			switch {
			case fd.Message() == nil || fd.IsMap():
			case fd.IsList():
				for i := range v.List().Len() {
					walk(here, v.List().Get(i).Message())
				}
			default:
				walk(here, v.Message())
			}
			return true
		})
	}
	walk(string(m.ProtoReflect().Descriptor().Name()), m.ProtoReflect())
}

// noting calls and notes the answer.
func noting[Q any, A proto.Message](t *testing.T, f filled, call func(context.Context, Q) (A, error), q Q) A {
	t.Helper()
	a, err := call(t.Context(), q)
	if err != nil {
		t.Fatalf("%T: %v", q, err)
	}
	// As a client sees it: what an answer has as bytes is decoded.
	b, err := proto.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	seen := a.ProtoReflect().New().Interface()
	if err := proto.Unmarshal(b, seen); err != nil {
		t.Fatal(err)
	}
	f.note(seen)
	return seen.(A)
}

// Every field of every answer says something where there is something to say, but for those that the table says are empty.
func TestAnswersAreFilled(t *testing.T) {
	s := newServer(t)
	s.images, s.cfg.Network = richStore{}, &fakeNetwork{}
	s.rt.SetHandlers(map[string]runtime.Handler{"other": {}})
	f := filled{}
	noting(t, f, s.Version, &runtimeapi.VersionRequest{})
	noting(t, f, s.Status, &runtimeapi.StatusRequest{Verbose: true})
	noting(t, f, s.RuntimeConfig, &runtimeapi.RuntimeConfigRequest{})
	noting(t, f, s.ListMetricDescriptors, &runtimeapi.ListMetricDescriptorsRequest{})
	answersOfImages(t, f, s)
	events := make(chan *runtimeapi.ContainerEventResponse, 100)
	go s.Events(t.Context(), s.EventPosition(), func(e *runtimeapi.ContainerEventResponse) error { events <- e; return nil })
	answersOfPods(t, f, s)
	for e := range events {
		if f.note(e); e.ContainerEventType == runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT {
			break
		}
	}
	s.cfg.Network = &fakeNetwork{ready: context.DeadlineExceeded}
	noting(t, f, s.Status, &runtimeapi.StatusRequest{})

	table := readFields(t)
	for _, md := range messages(t, "Response") {
		leaves(md, func(path []protoreflect.FieldDescriptor) {
			full := string(md.Name()) + "." + name(path)
			switch row := table.find(full); {
			case row.what == "filled" && row.tests == "" && !f[full]: // others show those that they name
				t.Errorf("%s is said to be filled, and is empty", full)
			case row.what == "empty" && f[full]:
				t.Errorf("%s is said to be empty, and is filled", full)
			}
		})
	}
}

func answersOfImages(t *testing.T, f filled, s *Server) {
	img := &runtimeapi.ImageSpec{Image: "img"}
	noting(t, f, s.PullImage, &runtimeapi.PullImageRequest{Image: img})
	noting(t, f, s.ImageStatus, &runtimeapi.ImageStatusRequest{Image: img, Verbose: true})
	noting(t, f, s.ListImages, &runtimeapi.ListImagesRequest{})
	noting(t, f, s.ImageFsInfo, &runtimeapi.ImageFsInfoRequest{})
}

// answersOfPods goes through a pod's life.
func answersOfPods(t *testing.T, f filled, s *Server) {
	c, images, _ := dial(t, s)
	pod := noting(t, f, s.RunPodSandbox, &runtimeapi.RunPodSandboxRequest{Config: richPod()}).PodSandboxId
	id := noting(t, f, s.CreateContainer, &runtimeapi.CreateContainerRequest{PodSandboxId: pod, Config: richContainer(t)}).ContainerId
	noting(t, f, s.StartContainer, &runtimeapi.StartContainerRequest{ContainerId: id})
	noting(t, f, s.ExecSync, &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"both"}})
	noting(t, f, s.Exec, &runtimeapi.ExecRequest{ContainerId: id, Cmd: []string{"x"}, Stdout: true})
	noting(t, f, s.Attach, &runtimeapi.AttachRequest{ContainerId: id, Stdout: true})
	noting(t, f, s.PortForward, &runtimeapi.PortForwardRequest{PodSandboxId: pod})
	noting(t, f, s.ContainerStats, &runtimeapi.ContainerStatsRequest{ContainerId: id})
	noting(t, f, s.PodSandboxStats, &runtimeapi.PodSandboxStatsRequest{PodSandboxId: pod})
	noting(t, f, s.ListContainerStats, &runtimeapi.ListContainerStatsRequest{})
	noting(t, f, s.ListPodSandboxStats, &runtimeapi.ListPodSandboxStatsRequest{})
	noting(t, f, s.ListPodSandboxMetrics, &runtimeapi.ListPodSandboxMetricsRequest{})
	noting(t, f, s.ListPodSandbox, &runtimeapi.ListPodSandboxRequest{})
	noting(t, f, s.ListContainers, &runtimeapi.ListContainersRequest{})
	ctx := t.Context()
	a, _ := c.StreamPodSandboxes(ctx, &runtimeapi.StreamPodSandboxesRequest{})
	noteAll(t, f, a.Recv)
	b, _ := c.StreamContainers(ctx, &runtimeapi.StreamContainersRequest{})
	noteAll(t, f, b.Recv)
	d, _ := c.StreamContainerStats(ctx, &runtimeapi.StreamContainerStatsRequest{})
	noteAll(t, f, d.Recv)
	e, _ := c.StreamPodSandboxStats(ctx, &runtimeapi.StreamPodSandboxStatsRequest{})
	noteAll(t, f, e.Recv)
	g, _ := c.StreamPodSandboxMetrics(ctx, &runtimeapi.StreamPodSandboxMetricsRequest{})
	noteAll(t, f, g.Recv)
	h, _ := images.StreamImages(ctx, &runtimeapi.StreamImagesRequest{})
	noteAll(t, f, h.Recv)
	noting(t, f, s.StopContainer, &runtimeapi.StopContainerRequest{ContainerId: id})
	noting(t, f, s.ContainerStatus, &runtimeapi.ContainerStatusRequest{ContainerId: id, Verbose: true})
	noting(t, f, s.StopPodSandbox, &runtimeapi.StopPodSandboxRequest{PodSandboxId: pod})
	host := podConfig() // what is zero in the one is not in the other
	host.Metadata.Uid = "host"
	host.Linux.SecurityContext.NamespaceOptions = &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE, Ipc: runtimeapi.NamespaceMode_NODE}
	onHost := noting(t, f, s.RunPodSandbox, &runtimeapi.RunPodSandboxRequest{Config: host, RuntimeHandler: "other"}).PodSandboxId
	noting(t, f, s.PodSandboxStatus, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: onHost})
	noting(t, f, s.ListPodSandbox, &runtimeapi.ListPodSandboxRequest{})
	last, _ := c.StreamPodSandboxes(ctx, &runtimeapi.StreamPodSandboxesRequest{})
	noteAll(t, f, last.Recv)
	noting(t, f, s.PodSandboxStatus, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: pod, Verbose: true})
	noting(t, f, s.RemovePodSandbox, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: pod})
}

func noteAll[A proto.Message](t *testing.T, f filled, recv func() (A, error)) {
	t.Helper()
	for _, m := range drain(t, recv) {
		f.note(m)
	}
}

// richStore is a store whose images have everything: one knows its user by name, one by number.
type richStore struct{ store }

func (richStore) image(user string) *image.Image {
	img := &image.Image{ID: digest.FromString(user), RepoTags: []string{"docker.io/library/img:1"}, RepoDigests: []string{"img@sha256:2"}, Size: 9, Pinned: true}
	img.Config.Config.User = user
	return img
}
func (r richStore) Get(string) (*image.Image, error) { return r.image("me"), nil }
func (r richStore) List() []*image.Image             { return []*image.Image{r.image("me"), r.image("5")} }
func (richStore) Annotations(*image.Image) (map[string]string, error) {
	return map[string]string{"k": "v"}, nil
}

// Lists choose by each part of their filter, streamed ones too.
func TestFilters(t *testing.T) {
	s := newServer(t)
	c, _, _ := dial(t, s)
	ctx := t.Context()
	pod, id := runPod(t, c)
	other := podConfig()
	other.Metadata.Uid, other.Labels = "u2", map[string]string{"a": "c"}
	if _, err := c.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: other}); err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		id, pod, label string
		want           bool
	}{
		{want: true}, {id: "this", want: true}, {id: "ghost"}, {pod: pod, want: true}, {pod: pod[:9], want: true}, {pod: "ghost"},
		{label: "y", want: true}, {label: "z"},
	} {
		if x.id == "this" {
			x.id = id
		}
		labels := map[string]string{}
		if x.label != "" {
			labels["x"] = x.label
		}
		var want []string
		if x.want {
			want = []string{id}
		}
		cf := &runtimeapi.ContainerFilter{Id: x.id, PodSandboxId: x.pod, LabelSelector: labels}
		sf := &runtimeapi.ContainerStatsFilter{Id: x.id, PodSandboxId: x.pod, LabelSelector: labels}
		list, _ := c.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: cf})
		stats, _ := c.ListContainerStats(ctx, &runtimeapi.ListContainerStatsRequest{Filter: sf})
		stream, _ := c.StreamContainers(ctx, &runtimeapi.StreamContainersRequest{Filter: cf})
		statsStream, _ := c.StreamContainerStats(ctx, &runtimeapi.StreamContainerStatsRequest{Filter: sf})
		for what, got := range map[string][]string{
			"list": containerIDs(list.GetContainers()), "statistics": statsIDs(stats.GetStats()),
			"stream":              containerIDs(joined(drain(t, stream.Recv), (*runtimeapi.StreamContainersResponse).GetContainers)),
			"streamed statistics": statsIDs(joined(drain(t, statsStream.Recv), (*runtimeapi.StreamContainerStatsResponse).GetContainerStats)),
		} {
			if !slices.Equal(got, want) {
				t.Errorf("%s by %+v: %v", what, x, got)
			}
		}
	}
	filtersOfPods(t, c, pod)
	for state, want := range map[runtimeapi.ContainerState]int{runtimeapi.ContainerState_CONTAINER_RUNNING: 1, runtimeapi.ContainerState_CONTAINER_EXITED: 0} {
		f := &runtimeapi.ContainerFilter{State: &runtimeapi.ContainerStateValue{State: state}}
		if l, err := c.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: f}); err != nil || len(l.Containers) != want {
			t.Errorf("containers that are %s: %v, %v", state, l, err)
		}
	}
	if r, err := c.ContainerStats(ctx, &runtimeapi.ContainerStatsRequest{ContainerId: id[:9]}); err != nil || r.Stats.Attributes.Id != id {
		t.Errorf("statistics of one: %v, %v", r, err)
	}
}

func filtersOfPods(t *testing.T, c runtimeapi.RuntimeServiceClient, pod string) {
	ctx := t.Context()
	for _, x := range []struct {
		id, label string
		want      int
	}{{want: 2}, {id: pod[:9], want: 1}, {id: "ghost"}, {label: "b", want: 1}, {label: "z"}} {
		labels := map[string]string{}
		if x.label != "" {
			labels["a"] = x.label
		}
		pf, sf := &runtimeapi.PodSandboxFilter{Id: x.id, LabelSelector: labels}, &runtimeapi.PodSandboxStatsFilter{Id: x.id, LabelSelector: labels}
		list, _ := c.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{Filter: pf})
		stats, _ := c.ListPodSandboxStats(ctx, &runtimeapi.ListPodSandboxStatsRequest{Filter: sf})
		stream, _ := c.StreamPodSandboxes(ctx, &runtimeapi.StreamPodSandboxesRequest{Filter: pf})
		statsStream, _ := c.StreamPodSandboxStats(ctx, &runtimeapi.StreamPodSandboxStatsRequest{Filter: sf})
		got := []int{
			len(list.GetItems()), len(stats.GetStats()), len(joined(drain(t, stream.Recv), (*runtimeapi.StreamPodSandboxesResponse).GetPodSandboxes)),
			len(joined(drain(t, statsStream.Recv), (*runtimeapi.StreamPodSandboxStatsResponse).GetPodSandboxStats)),
		}
		if !slices.Equal(got, []int{x.want, x.want, x.want, x.want}) {
			t.Errorf("pods by %+v: %v", x, got)
		}
	}
	f := &runtimeapi.PodSandboxFilter{State: &runtimeapi.PodSandboxStateValue{State: runtimeapi.PodSandboxState_SANDBOX_NOTREADY}}
	if l, err := c.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{Filter: f}); err != nil || len(l.Items) > 0 {
		t.Errorf("pods that are not ready: %v, %v", l, err)
	}
}

func joined[R, T any](rs []R, of func(R) []T) []T {
	var out []T
	for _, r := range rs {
		out = append(out, of(r)...)
	}
	return out
}

func containerIDs(l []*runtimeapi.Container) []string {
	var out []string
	for _, c := range l {
		out = append(out, c.Id)
	}
	return out
}

func statsIDs(l []*runtimeapi.ContainerStats) []string {
	var out []string
	for _, c := range l {
		out = append(out, c.Attributes.Id)
	}
	return out
}

// A handler that is not configured is refused wherever one can be named.
func TestUnknownHandlers(t *testing.T) {
	s := newServer(t)
	ctx := t.Context()
	_, pull := s.PullImage(ctx, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: "img", RuntimeHandler: "ghost"}})
	_, run := s.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: podConfig(), RuntimeHandler: "ghost"})
	_, restore := s.RestorePod(ctx, &runtimeapi.RestorePodRequest{
		CheckpointPath: t.TempDir(), Config: podConfig(), RuntimeHandler: "ghost", ContainerConfigs: []*runtimeapi.ContainerConfig{containerConfig()},
	})
	for what, err := range map[string]error{"PullImage": pull, "RunPodSandbox": run, "RestorePod": restore} {
		if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), `"ghost"`) {
			t.Errorf("%s: %v", what, err)
		}
	}
	_, err := s.RestorePod(ctx, &runtimeapi.RestorePodRequest{Config: podConfig(), Options: map[string]string{"fast": "yes"}})
	if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "fast") {
		t.Errorf("an option: %v", err)
	}
}

// The reference by digest that a kubelet has got from a pull goes before the name.
func TestImageRefGoesFirst(t *testing.T) {
	spec := containerConfig()
	spec.Image = &runtimeapi.ImageSpec{Image: "moved:1", ImageRef: "img"}
	if got, err := containerSpec(spec); err != nil || got.Image != "img" {
		t.Errorf("%q, %v", got.Image, err)
	}
}
