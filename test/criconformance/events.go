package criconformance

import (
	"context"
	"fmt"
	"slices"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

type eventStream = runtimeapi.RuntimeService_GetContainerEventsClient

// subscribe opens a stream of events and waits until it hears: pods are made until one is heard of.
func (s *suite) subscribe(ctx context.Context) (eventStream, error) {
	ev, err := s.rt.GetContainerEvents(ctx, &runtimeapi.GetEventsRequest{})
	if err != nil {
		return nil, unimplemented(err)
	}
	heard := make(chan error, 1)
	go func() {
		_, err := ev.Recv()
		heard <- err
	}()
	for {
		if err := withPod(ctx, s, func(*pod) error { return nil }); err != nil {
			return nil, err
		}
		select {
		case err := <-heard:
			return ev, unimplemented(err)
		default:
		}
	}
}

func short(t runtimeapi.ContainerEventType) string {
	return strings.TrimSuffix(strings.TrimPrefix(t.String(), "CONTAINER_"), "_EVENT")
}

func eventsInOrder(ctx context.Context, s *suite) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ev, err := s.subscribe(ctx)
	if err != nil {
		return err
	}
	return withPod(ctx, s, func(p *pod) error {
		id, err := p.start(ctx, "c", "sleep 1000", nil)
		if err != nil {
			return err
		}
		if _, err := s.rt.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: id}); err != nil {
			return err
		}
		if _, err := s.rt.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: id}); err != nil {
			return err
		}
		var got []string
		var last int64
		for len(got) == 0 || got[len(got)-1] != "DELETED" {
			e, err := ev.Recv()
			if err != nil {
				return err
			}
			if e.ContainerId != id {
				continue
			}
			got = append(got, short(e.ContainerEventType))
			if e.CreatedAt < last {
				return fmt.Errorf("events go back in time: %v", got)
			}
			last = e.CreatedAt
			if e.ContainerEventType != runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT && e.PodSandboxStatus.GetId() != p.id {
				return fmt.Errorf("the event %s comes without its pod: %v", got[len(got)-1], e)
			}
		}
		if want := []string{"CREATED", "STARTED", "STOPPED", "DELETED"}; !slices.Equal(got, want) {
			return fmt.Errorf("events %v, want %v", got, want)
		}
		return nil
	})
}

func slowReader(ctx context.Context, s *suite) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if _, err := s.subscribe(ctx); err != nil { // from now on nobody reads it
		return err
	}
	reader, err := s.subscribe(ctx)
	if err != nil {
		return err
	}
	const rounds = 30
	deleted := make(chan error, 1)
	go func() {
		for n := 0; n < rounds; {
			e, err := reader.Recv()
			if err != nil {
				deleted <- err
				return
			}
			for _, c := range e.ContainersStatuses {
				if e.ContainerId == c.Id && e.ContainerEventType == runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT {
					n++
				}
			}
		}
		deleted <- nil
	}()
	return withPod(ctx, s, func(p *pod) error {
		for i := range rounds {
			id, err := p.create(ctx, fmt.Sprintf("c%d", i), "true", func(c *runtimeapi.ContainerConfig) {
				c.Annotations = map[string]string{"long": strings.Repeat("x", 100<<10)}
			})
			if err != nil {
				return err
			}
			if _, err := s.rt.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: id}); err != nil {
				return err
			}
		}
		select {
		case err := <-deleted:
			return err
		case <-ctx.Done():
			return fmt.Errorf("the reader that reads misses events: %w", ctx.Err())
		}
	})
}
