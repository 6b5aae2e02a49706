package criconformance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ids reads a stream to its end.
func ids[R any](open func() (interface{ Recv() (R, error) }, error), of func(R) []string) ([]string, error) {
	st, err := open()
	if err != nil {
		return nil, unimplemented(err)
	}
	var out []string
	for {
		r, err := st.Recv()
		if err == io.EOF {
			slices.Sort(out)
			return out, nil
		}
		if err != nil {
			return nil, unimplemented(err)
		}
		more := of(r)
		if len(more) == 0 {
			return nil, errors.New("a message holds no item")
		}
		out = append(out, more...)
	}
}

func names[T any](items []T, id func(T) string) []string {
	var out []string
	for _, i := range items {
		out = append(out, id(i))
	}
	slices.Sort(out)
	return out
}

func streamedLists(ctx context.Context, s *suite) error {
	return withPod(ctx, s, func(p *pod) error {
		for i := range 5 {
			if _, err := p.start(ctx, fmt.Sprintf("c%d", i), "sleep 1000", nil); err != nil {
				return err
			}
		}
		cf := &runtimeapi.ContainerFilter{PodSandboxId: p.id}
		list, err := s.rt.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: cf})
		if err != nil {
			return err
		}
		container := func(c *runtimeapi.Container) string { return c.Id }
		got, err := ids(func() (interface {
			Recv() (*runtimeapi.StreamContainersResponse, error)
		}, error) {
			return s.rt.StreamContainers(ctx, &runtimeapi.StreamContainersRequest{Filter: cf})
		}, func(r *runtimeapi.StreamContainersResponse) []string { return names(r.Containers, container) })
		if err := same("containers", got, names(list.Containers, container), err); err != nil {
			return err
		}
		if len(got) != 5 {
			return fmt.Errorf("%d containers are listed, of 5", len(got))
		}
		return streamedOthers(ctx, s, p, got)
	})
}

func streamedOthers(ctx context.Context, s *suite, p *pod, containers []string) error {
	got, err := ids(func() (interface {
		Recv() (*runtimeapi.StreamPodSandboxesResponse, error)
	}, error) {
		return s.rt.StreamPodSandboxes(ctx, &runtimeapi.StreamPodSandboxesRequest{Filter: &runtimeapi.PodSandboxFilter{Id: p.id}})
	}, func(r *runtimeapi.StreamPodSandboxesResponse) []string {
		return names(r.PodSandboxes, func(x *runtimeapi.PodSandbox) string { return x.Id })
	})
	if err := same("pods", got, []string{p.id}, err); err != nil {
		return err
	}
	got, err = ids(func() (interface {
		Recv() (*runtimeapi.StreamContainerStatsResponse, error)
	}, error) {
		return s.rt.StreamContainerStats(ctx, &runtimeapi.StreamContainerStatsRequest{Filter: &runtimeapi.ContainerStatsFilter{PodSandboxId: p.id}})
	}, func(r *runtimeapi.StreamContainerStatsResponse) []string {
		return names(r.ContainerStats, func(x *runtimeapi.ContainerStats) string { return x.Attributes.Id })
	})
	if err := same("container statistics", got, containers, err); err != nil {
		return err
	}
	got, err = ids(func() (interface {
		Recv() (*runtimeapi.StreamPodSandboxStatsResponse, error)
	}, error) {
		return s.rt.StreamPodSandboxStats(ctx, &runtimeapi.StreamPodSandboxStatsRequest{Filter: &runtimeapi.PodSandboxStatsFilter{Id: p.id}})
	}, func(r *runtimeapi.StreamPodSandboxStatsResponse) []string {
		return names(r.PodSandboxStats, func(x *runtimeapi.PodSandboxStats) string { return x.Attributes.Id })
	})
	if err := same("pod statistics", got, []string{p.id}, err); err != nil {
		return err
	}
	got, err = ids(func() (interface {
		Recv() (*runtimeapi.StreamPodSandboxMetricsResponse, error)
	}, error) {
		return s.rt.StreamPodSandboxMetrics(ctx, &runtimeapi.StreamPodSandboxMetricsRequest{})
	}, func(r *runtimeapi.StreamPodSandboxMetricsResponse) []string {
		return names(r.PodSandboxMetrics, func(x *runtimeapi.PodSandboxMetrics) string { return x.PodSandboxId })
	})
	if err != nil || !slices.Contains(got, p.id) || len(slices.Compact(slices.Clone(got))) != len(got) {
		return fmt.Errorf("metrics of pods %v: %w", got, errors.Join(err, errOther))
	}
	images, err := s.images.ListImages(ctx, &runtimeapi.ListImagesRequest{})
	if err != nil {
		return err
	}
	image := func(x *runtimeapi.Image) string { return x.Id }
	got, err = ids(func() (interface {
		Recv() (*runtimeapi.StreamImagesResponse, error)
	}, error) {
		return s.images.StreamImages(ctx, &runtimeapi.StreamImagesRequest{})
	}, func(r *runtimeapi.StreamImagesResponse) []string { return names(r.Images, image) })
	return same("images", got, names(images.Images, image), err)
}

var errOther = errors.New("not what was expected")

func same(what string, got, want []string, err error) error {
	if err != nil {
		return fmt.Errorf("stream %s: %w", what, err)
	}
	if !slices.Equal(got, want) {
		return fmt.Errorf("streamed %s are %v, listed %v", what, got, want)
	}
	return nil
}
