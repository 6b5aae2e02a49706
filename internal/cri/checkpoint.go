package cri

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const noPodCheckpoints = "Berth checkpoints single containers, not pods, yet; the pod runs on untouched"

// maxTimeout bounds the timeout of a request in seconds.
const maxTimeout = 24 * 60 * 60

// CheckpointContainer writes an archive in Kubernetes' format; see package checkpoint.
func (s *Server) CheckpointContainer(ctx context.Context, req *runtimeapi.CheckpointContainerRequest) (*runtimeapi.CheckpointContainerResponse, error) {
	id, err := s.runningID(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	if t := req.GetTimeout(); t < 0 || t > maxTimeout {
		return nil, badRequest("timeout: %d is not from 0 to %d seconds", t, maxTimeout)
	}
	if req.GetLocation() == "" {
		return nil, badRequest("location: the path of the archive to write is missing")
	}
	if err := s.rt.CheckpointContainer(ctx, id, req.GetLocation(), time.Duration(req.GetTimeout())*time.Second); err != nil {
		return nil, asStatus(err)
	}
	return &runtimeapi.CheckpointContainerResponse{}, nil
}

// CheckpointPod refuses: see noPodCheckpoints.
func (s *Server) CheckpointPod(_ context.Context, req *runtimeapi.CheckpointPodRequest) (*runtimeapi.CheckpointPodResponse, error) {
	id, err := s.sandboxID(req.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	if _, err := s.rt.Sandbox(id); err != nil {
		return nil, asStatus(err)
	}
	return nil, status.Error(codes.Unimplemented, noPodCheckpoints)
}

// RestorePod refuses: there is no checkpoint of Berth's that could be restored.
func (s *Server) RestorePod(context.Context, *runtimeapi.RestorePodRequest) (*runtimeapi.RestorePodResponse, error) {
	return nil, status.Error(codes.Unimplemented, "Berth does not checkpoint and restore yet")
}
