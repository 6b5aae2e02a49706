package cri

import (
	"context"
	"net/netip"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Network is what the CRI asks and tells of the pods' network. A network.Network is one.
type Network interface {
	// SetSubnets changes where new pods get their addresses from.
	SetSubnets(ctx context.Context, subnets []netip.Prefix) error
	// Ready returns why no pod could be attached now, if that is so.
	Ready(ctx context.Context) error
}

// UpdatePodSandboxResources changes the limits of a pod that has its cgroup from Berth, and keeps the
// numbers of one that has it from the kubelet.
func (s *Server) UpdatePodSandboxResources(ctx context.Context, req *runtimeapi.UpdatePodSandboxResourcesRequest) (*runtimeapi.UpdatePodSandboxResourcesResponse, error) {
	id, err := s.sandboxID(req.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	if id == "" {
		return nil, badRequest("pod_sandbox_id is missing")
	}
	for field, r := range map[string]*runtimeapi.LinuxContainerResources{"overhead.": req.GetOverhead(), "resources.": req.GetResources()} {
		if err := checkLimits(field, r); err != nil {
			return nil, err
		}
	}
	if err := s.rt.UpdateSandboxResources(ctx, id, resources(req.GetOverhead()), resources(req.GetResources())); err != nil {
		return nil, asStatus(err)
	}
	return &runtimeapi.UpdatePodSandboxResourcesResponse{}, nil
}

// UpdateRuntimeConfig gives the pods' network the node's pod CIDR, one or one of each family with a comma
// between them. An empty one changes nothing.
func (s *Server) UpdateRuntimeConfig(ctx context.Context, req *runtimeapi.UpdateRuntimeConfigRequest) (*runtimeapi.UpdateRuntimeConfigResponse, error) {
	cidr := req.GetRuntimeConfig().GetNetworkConfig().GetPodCidr()
	if cidr == "" {
		return &runtimeapi.UpdateRuntimeConfigResponse{}, nil
	}
	var subnets []netip.Prefix
	for c := range strings.SplitSeq(cidr, ",") {
		p, err := netip.ParsePrefix(strings.TrimSpace(c))
		if err != nil {
			return nil, badRequest("runtime_config.network_config.pod_cidr %q: %v", cidr, err)
		}
		subnets = append(subnets, p.Masked())
	}
	if s.cfg.Network == nil {
		return nil, status.Error(codes.FailedPrecondition, "runtime_config.network_config.pod_cidr: the pods' network is not Berth's own")
	}
	if err := s.cfg.Network.SetSubnets(ctx, subnets); err != nil {
		return nil, badRequest("runtime_config.network_config.pod_cidr %q: %v", cidr, err)
	}
	return &runtimeapi.UpdateRuntimeConfigResponse{}, nil
}

// checkLimits refuses numbers that no cgroup takes; -1 takes a limit away.
func checkLimits(at string, r *runtimeapi.LinuxContainerResources) error {
	for _, f := range []struct {
		name       string
		value, min int64
	}{
		{"cpu_period", r.GetCpuPeriod(), 0}, {"cpu_quota", r.GetCpuQuota(), -1}, {"cpu_shares", r.GetCpuShares(), 0},
		{"memory_limit_in_bytes", r.GetMemoryLimitInBytes(), -1}, {"memory_swap_limit_in_bytes", r.GetMemorySwapLimitInBytes(), -1},
	} {
		if f.value < f.min {
			return badRequest("%s%s: %d is too small", at, f.name, f.value)
		}
	}
	return nil
}
