package cri

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/11f9778f/berth/internal/runtime"
)

// GetContainerEvents sends what happens from now on. The life of a sandbox appears, too, under its own
// ID in the container's place, as in other runtimes. A client that is too slow for the log is told so
// with DataLoss: it lists, and calls again.
func (s *Server) GetContainerEvents(_ *runtimeapi.GetEventsRequest, stream runtimeapi.RuntimeService_GetContainerEventsServer) error {
	since := s.rt.EventPosition()
	if err := stream.SendHeader(nil); err != nil { // a client that waits for it misses nothing that it does next
		return err
	}
	return s.Events(stream.Context(), since, stream.Send)
}

// Events calls send with every event after the number since (see runtime.Runtime.Events). It is
// GetContainerEvents for callers in the same process.
func (s *Server) Events(ctx context.Context, since uint64, send func(*runtimeapi.ContainerEventResponse) error) error {
	err := s.rt.Events(ctx, since, func(e runtime.Event) error {
		for _, kind := range eventKinds[e.Kind] {
			if err := send(containerEvent(e, kind)); err != nil {
				return err
			}
		}
		return nil
	})
	var gap *runtime.GapError
	if errors.As(err, &gap) {
		return status.Error(codes.DataLoss, err.Error())
	}
	return asStatus(err)
}

// EventPosition is the number of the newest event.
func (s *Server) EventPosition() uint64 { return s.rt.EventPosition() }

var eventKinds = map[runtime.EventKind][]runtimeapi.ContainerEventType{
	runtime.SandboxStarted: {
		runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT, runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT,
	},
	runtime.SandboxStoppedEv:   {runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT},
	runtime.SandboxRemoved:     {runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT},
	runtime.ContainerCreatedEv: {runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT},
	runtime.ContainerStarted:   {runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT},
	runtime.ContainerStopped:   {runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT},
	runtime.ContainerRemoved:   {runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT},
}

func containerEvent(e runtime.Event, kind runtimeapi.ContainerEventType) *runtimeapi.ContainerEventResponse {
	out := &runtimeapi.ContainerEventResponse{
		ContainerId: firstOf(e.ContainerID, e.SandboxID), ContainerEventType: kind,
		CreatedAt: e.Time.UnixNano(), PodSandboxStatus: sandboxStatus(e.Sandbox),
	}
	for _, c := range e.Containers {
		out.ContainersStatuses = append(out.ContainersStatuses, containerStatus(c))
	}
	return out
}
