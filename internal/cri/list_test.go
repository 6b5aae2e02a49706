package cri

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestBatches(t *testing.T) {
	for _, c := range []struct {
		items, size int
		want        []int
	}{
		{0, 1, nil}, {1, 1, []int{1}}, {batchItems + 1, 1, []int{batchItems, 1}},
		{3, batchBytes * 2 / 5, []int{2, 1}}, {2, batchBytes * 2, []int{1, 1}},
	} {
		var items []*runtimeapi.Container
		for i := range c.items {
			items = append(items, &runtimeapi.Container{Id: fmt.Sprint(i), ImageRef: strings.Repeat("x", c.size)})
		}
		var got []int
		next := 0
		err := inBatches(items, func(b []*runtimeapi.Container) error {
			got = append(got, len(b))
			for _, x := range b {
				if x.Id != fmt.Sprint(next) {
					t.Errorf("item %s in place of %d", x.Id, next)
				}
				next++
			}
			return nil
		})
		if err != nil || !slices.Equal(got, c.want) || next != c.items {
			t.Errorf("%d items of %d bytes: %v, %v", c.items, c.size, got, err)
		}
	}
	broken := errors.New("gone")
	if err := inBatches([]*runtimeapi.Container{{}}, func([]*runtimeapi.Container) error { return broken }); err != broken {
		t.Error(err)
	}
}

// drain reads a stream to its end.
func drain[R any](t *testing.T, recv func() (R, error)) []R {
	t.Helper()
	var out []R
	for {
		r, err := recv()
		if err == io.EOF {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, r)
	}
}

func TestStreamedLists(t *testing.T) {
	s := newServer(t)
	c, images, _ := dial(t, s)
	ctx := context.Background()
	empty, err := c.StreamContainers(ctx, &runtimeapi.StreamContainersRequest{})
	if err != nil || len(drain(t, empty.Recv)) != 0 {
		t.Errorf("a message without items, or %v", err)
	}
	pod, id := runPod(t, c)
	a, _ := c.StreamPodSandboxes(ctx, &runtimeapi.StreamPodSandboxesRequest{})
	if r := drain(t, a.Recv); len(r) != 1 || r[0].PodSandboxes[0].Id != pod {
		t.Errorf("%v", r)
	}
	b, _ := c.StreamContainers(ctx, &runtimeapi.StreamContainersRequest{Filter: &runtimeapi.ContainerFilter{PodSandboxId: pod}})
	if r := drain(t, b.Recv); len(r) != 1 || r[0].Containers[0].Id != id {
		t.Errorf("%v", r)
	}
	d, _ := c.StreamContainerStats(ctx, &runtimeapi.StreamContainerStatsRequest{})
	if r := drain(t, d.Recv); len(r) != 1 || r[0].ContainerStats[0].Attributes.Id != id {
		t.Errorf("%v", r)
	}
	e, _ := c.StreamPodSandboxStats(ctx, &runtimeapi.StreamPodSandboxStatsRequest{Filter: &runtimeapi.PodSandboxStatsFilter{Id: pod}})
	if r := drain(t, e.Recv); len(r) != 1 || r[0].PodSandboxStats[0].Linux.Network.Interfaces[0].Name != "net1" {
		t.Errorf("%v", r)
	}
	f, _ := c.StreamPodSandboxMetrics(ctx, &runtimeapi.StreamPodSandboxMetricsRequest{})
	if r := drain(t, f.Recv); len(r) != 1 || r[0].PodSandboxMetrics[0].ContainerMetrics[0].ContainerId != id {
		t.Errorf("%v", r)
	}
	g, _ := images.StreamImages(ctx, &runtimeapi.StreamImagesRequest{})
	if r := drain(t, g.Recv); len(r) != 1 || r[0].Images[0].Id != oneImage.ID.String() {
		t.Errorf("%v", r)
	}
}

// Every metric has a descriptor with as many label keys as it has values, and no name comes twice.
func TestMetrics(t *testing.T) {
	s := newServer(t)
	c, _, _ := dial(t, s)
	ctx := context.Background()
	runPod(t, c)
	desc, err := c.ListMetricDescriptors(ctx, &runtimeapi.ListMetricDescriptorsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string][]string{}
	for _, d := range desc.Descriptors {
		if keys[d.Name] != nil || d.Help == "" || !slices.IsSorted(d.LabelKeys[:len(baseLabels)]) {
			t.Errorf("descriptor %v", d)
		}
		keys[d.Name] = d.LabelKeys
	}
	l, err := c.ListPodSandboxMetrics(ctx, &runtimeapi.ListPodSandboxMetricsRequest{})
	if err != nil || len(l.PodMetrics) != 1 || len(l.PodMetrics[0].ContainerMetrics) != 1 {
		t.Fatalf("%v, %v", l, err)
	}
	check := func(ms []*runtimeapi.Metric, want map[string]uint64) {
		t.Helper()
		for _, m := range ms {
			if len(m.LabelValues) != len(keys[m.Name]) {
				t.Errorf("%v has labels %v", m, keys[m.Name])
			}
			at := m.Name
			if n := len(baseLabels); len(m.LabelValues) > n {
				at += "{" + strings.Join(m.LabelValues[n:], ",") + "}"
			}
			if v, ok := want[at]; ok && v == m.Value.Value {
				delete(want, at)
			}
		}
		if len(want) > 0 {
			t.Errorf("not there, or another value: %v\n%v", want, ms)
		}
	}
	check(l.PodMetrics[0].Metrics, map[string]uint64{
		"container_network_receive_bytes_total{eth0}": 3, "container_network_receive_bytes_total{net1}": 5, "container_processes": 2,
	})
	check(l.PodMetrics[0].ContainerMetrics[0].Metrics, map[string]uint64{
		"container_cpu_usage_seconds_total{total}": 5, "container_memory_working_set_bytes": 100, "container_spec_memory_limit_bytes": 0,
		"container_pressure_cpu_waiting_seconds_total": 7, "container_fs_reads_bytes_total{/dev/block/8:0}": 4096, "container_sockets": 1,
		"container_fs_usage_bytes{}": 5, "container_fs_limit_bytes{}": 9, "container_spec_cpu_shares": 10,
	})
}

func TestUpdates(t *testing.T) {
	s := newServer(t)
	c, _, _ := dial(t, s)
	ctx := context.Background()
	pod, id := runPod(t, c)
	if _, err := c.UpdatePodSandboxResources(ctx, &runtimeapi.UpdatePodSandboxResourcesRequest{
		PodSandboxId: pod, Resources: &runtimeapi.LinuxContainerResources{CpuQuota: 20000, CpuPeriod: 100000, MemoryLimitInBytes: 100 << 20},
		Overhead: &runtimeapi.LinuxContainerResources{CpuQuota: 5000, CpuPeriod: 50000, MemoryLimitInBytes: 20 << 20},
	}); err != nil {
		t.Fatal(err)
	}
	if sb, _ := s.rt.Sandbox(pod); sb.Spec.Resources == nil || sb.Spec.Resources.CPUQuota != 30000 || sb.Spec.Resources.MemoryLimit != 120<<20 {
		t.Errorf("%+v", sb.Spec.Resources)
	}
	for _, r := range []*runtimeapi.LinuxContainerResources{{CpuQuota: -2}, {CpuShares: -1}, {MemoryLimitInBytes: -7}, {CpuPeriod: -1}} {
		if _, err := c.UpdatePodSandboxResources(ctx, &runtimeapi.UpdatePodSandboxResourcesRequest{PodSandboxId: pod, Resources: r}); status.Code(err) != codes.InvalidArgument {
			t.Errorf("pod, %v: %v", r, err)
		}
		if _, err := c.UpdateContainerResources(ctx, &runtimeapi.UpdateContainerResourcesRequest{ContainerId: id, Linux: r}); status.Code(err) != codes.InvalidArgument {
			t.Errorf("container, %v: %v", r, err)
		}
	}
	if _, err := c.UpdateContainerResources(ctx, &runtimeapi.UpdateContainerResourcesRequest{ContainerId: id, Windows: &runtimeapi.WindowsContainerResources{}}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("limits of Windows: %v", err)
	}
	if _, err := c.UpdatePodSandboxResources(ctx, &runtimeapi.UpdatePodSandboxResourcesRequest{PodSandboxId: "ghost"}); status.Code(err) != codes.NotFound {
		t.Errorf("%v", err)
	}
	for cidr, want := range map[string]codes.Code{"": codes.OK, "10.1.0.0/24": codes.FailedPrecondition, "10.1": codes.InvalidArgument} {
		_, err := c.UpdateRuntimeConfig(ctx, &runtimeapi.UpdateRuntimeConfigRequest{
			RuntimeConfig: &runtimeapi.RuntimeConfig{NetworkConfig: &runtimeapi.NetworkConfig{PodCidr: cidr}},
		})
		if status.Code(err) != want {
			t.Errorf("pod CIDR %q: %v", cidr, err)
		}
	}
}
