package cri

import (
	"context"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// RuntimeName is what Version answers.
const RuntimeName = "berth"

// Version tells who answers.
func (s *Server) Version(context.Context, *runtimeapi.VersionRequest) (*runtimeapi.VersionResponse, error) {
	version := s.cfg.Version
	if version == "" {
		version = "0.0.0"
	}
	return &runtimeapi.VersionResponse{
		Version: "0.1.0", RuntimeName: RuntimeName, RuntimeVersion: version, RuntimeApiVersion: "v1",
	}, nil
}

// Status tells whether runtime and network are ready. A Server exists only once the runtime is; the network is
// asked.
func (s *Server) Status(ctx context.Context, req *runtimeapi.StatusRequest) (*runtimeapi.StatusResponse, error) {
	resp := &runtimeapi.StatusResponse{
		Status: &runtimeapi.RuntimeStatus{Conditions: []*runtimeapi.RuntimeCondition{
			{Type: runtimeapi.RuntimeReady, Status: true}, s.networkReady(ctx),
		}},
		Features: &runtimeapi.RuntimeFeatures{SupplementalGroupsPolicy: true, MountOptions: true, UserNamespacesHostNetwork: true},
	}
	for _, h := range s.rt.Handlers() {
		own := !s.rt.ForeignHandler(h)
		resp.RuntimeHandlers = append(resp.RuntimeHandlers, &runtimeapi.RuntimeHandler{
			Name: h, Features: &runtimeapi.RuntimeHandlerFeatures{RecursiveReadOnlyMounts: own, UserNamespaces: own},
		})
	}
	if req.GetVerbose() {
		resp.Info = s.statusInfo()
	}
	return resp, nil
}

func (s *Server) networkReady(ctx context.Context) *runtimeapi.RuntimeCondition {
	if s.cfg.Network != nil {
		if err := s.cfg.Network.Ready(ctx); err != nil {
			return &runtimeapi.RuntimeCondition{Type: runtimeapi.NetworkReady, Reason: "NetworkPluginNotReady", Message: err.Error()}
		}
	}
	return &runtimeapi.RuntimeCondition{Type: runtimeapi.NetworkReady, Status: true}
}

// RuntimeConfig tells the kubelet who makes cgroups.
func (s *Server) RuntimeConfig(context.Context, *runtimeapi.RuntimeConfigRequest) (*runtimeapi.RuntimeConfigResponse, error) {
	return &runtimeapi.RuntimeConfigResponse{Linux: &runtimeapi.LinuxRuntimeConfiguration{CgroupDriver: s.cgroupDriver()}}, nil
}

func (s *Server) cgroupDriver() runtimeapi.CgroupDriver {
	if s.rt.SystemdCgroup() {
		return runtimeapi.CgroupDriver_SYSTEMD
	}
	return runtimeapi.CgroupDriver_CGROUPFS
}
