package cri

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const noCheckpoints = "Berth does not checkpoint and restore yet; the container runs on untouched"

// CheckpointContainer refuses: see noCheckpoints.
func (s *Server) CheckpointContainer(_ context.Context, req *runtimeapi.CheckpointContainerRequest) (*runtimeapi.CheckpointContainerResponse, error) {
	if _, err := s.runningID(req.GetContainerId()); err != nil {
		return nil, err
	}
	return nil, status.Error(codes.Unimplemented, noCheckpoints)
}

// CheckpointPod refuses: see noCheckpoints.
func (s *Server) CheckpointPod(_ context.Context, req *runtimeapi.CheckpointPodRequest) (*runtimeapi.CheckpointPodResponse, error) {
	id, err := s.sandboxID(req.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	if _, err := s.rt.Sandbox(id); err != nil {
		return nil, asStatus(err)
	}
	return nil, status.Error(codes.Unimplemented, noCheckpoints)
}

// RestorePod refuses: there is no checkpoint of Berth's that could be restored.
func (s *Server) RestorePod(context.Context, *runtimeapi.RestorePodRequest) (*runtimeapi.RestorePodResponse, error) {
	return nil, status.Error(codes.Unimplemented, "Berth does not checkpoint and restore yet")
}
