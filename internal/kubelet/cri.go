package kubelet

import (
	"context"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Runtime is the part of CRI's RuntimeServiceServer that the kubelet calls. It is shaped as a server, so the
// CRI object of the same process fits without gRPC between.
type Runtime interface {
	RunPodSandbox(context.Context, *runtimeapi.RunPodSandboxRequest) (*runtimeapi.RunPodSandboxResponse, error)
	StopPodSandbox(context.Context, *runtimeapi.StopPodSandboxRequest) (*runtimeapi.StopPodSandboxResponse, error)
	RemovePodSandbox(context.Context, *runtimeapi.RemovePodSandboxRequest) (*runtimeapi.RemovePodSandboxResponse, error)
	PodSandboxStatus(context.Context, *runtimeapi.PodSandboxStatusRequest) (*runtimeapi.PodSandboxStatusResponse, error)
	ListPodSandbox(context.Context, *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error)
	CreateContainer(context.Context, *runtimeapi.CreateContainerRequest) (*runtimeapi.CreateContainerResponse, error)
	StartContainer(context.Context, *runtimeapi.StartContainerRequest) (*runtimeapi.StartContainerResponse, error)
	StopContainer(context.Context, *runtimeapi.StopContainerRequest) (*runtimeapi.StopContainerResponse, error)
	RemoveContainer(context.Context, *runtimeapi.RemoveContainerRequest) (*runtimeapi.RemoveContainerResponse, error)
	ListContainers(context.Context, *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error)
	ContainerStatus(context.Context, *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error)
	ExecSync(context.Context, *runtimeapi.ExecSyncRequest) (*runtimeapi.ExecSyncResponse, error)
	// GetContainerEvents sends until the stream's context ends. Each response carries the sandbox's
	// status and the statuses of all of its containers.
	GetContainerEvents(*runtimeapi.GetEventsRequest, runtimeapi.RuntimeService_GetContainerEventsServer) error
}

// ResumableEvents is a Runtime whose events are numbered, so that none is missed between a list and the begin of
// the stream.
type ResumableEvents interface {
	Runtime
	// EventPosition is the number of the newest event.
	EventPosition() uint64
	// Events calls send with every event after since until ctx or send ends it.
	Events(ctx context.Context, since uint64, send func(*runtimeapi.ContainerEventResponse) error) error
}

// Images is the part of CRI's ImageServiceServer that the kubelet calls.
type Images interface {
	ImageStatus(context.Context, *runtimeapi.ImageStatusRequest) (*runtimeapi.ImageStatusResponse, error)
	PullImage(context.Context, *runtimeapi.PullImageRequest) (*runtimeapi.PullImageResponse, error)
}

// PullProgress is what an image pull tells about itself, in bytes. Total is 0 while it is unknown.
type PullProgress struct {
	Current, Total int64
	Detail         string
}

// ProgressImages is an Images that can tell how far a pull is. progress is called now and then, from any
// goroutine, until the call returns.
type ProgressImages interface {
	Images
	PullImageProgress(ctx context.Context, req *runtimeapi.PullImageRequest, progress func(PullProgress)) (*runtimeapi.PullImageResponse, error)
}
