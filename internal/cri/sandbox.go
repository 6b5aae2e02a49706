package cri

import (
	"context"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/11f9778f/berth/internal/runtime"
)

// RunPodSandbox makes and starts a pod sandbox.
func (s *Server) RunPodSandbox(ctx context.Context, req *runtimeapi.RunPodSandboxRequest) (*runtimeapi.RunPodSandboxResponse, error) {
	spec, err := sandboxSpec(req.GetConfig())
	if err != nil {
		return nil, err
	}
	spec.Handler = req.GetRuntimeHandler()
	id, err := s.rt.RunSandbox(ctx, spec)
	if err != nil {
		return nil, asStatus(err)
	}
	return &runtimeapi.RunPodSandboxResponse{PodSandboxId: id}, nil
}

// StopPodSandbox kills what runs in a sandbox and gives its network back.
func (s *Server) StopPodSandbox(ctx context.Context, req *runtimeapi.StopPodSandboxRequest) (*runtimeapi.StopPodSandboxResponse, error) {
	id, err := s.sandboxID(req.GetPodSandboxId())
	if err == nil {
		err = s.rt.StopSandbox(ctx, id)
	}
	return &runtimeapi.StopPodSandboxResponse{}, asStatus(err)
}

// RemovePodSandbox removes a sandbox with its containers.
func (s *Server) RemovePodSandbox(ctx context.Context, req *runtimeapi.RemovePodSandboxRequest) (*runtimeapi.RemovePodSandboxResponse, error) {
	id, err := s.sandboxID(req.GetPodSandboxId())
	if err == nil {
		err = s.rt.RemoveSandbox(ctx, id)
	}
	return &runtimeapi.RemovePodSandboxResponse{}, asStatus(err)
}

// PodSandboxStatus describes a sandbox and its containers.
func (s *Server) PodSandboxStatus(_ context.Context, req *runtimeapi.PodSandboxStatusRequest) (*runtimeapi.PodSandboxStatusResponse, error) {
	id, err := s.sandboxID(req.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	sb, err := s.rt.Sandbox(id)
	if err != nil {
		return nil, asStatus(err)
	}
	resp := &runtimeapi.PodSandboxStatusResponse{Status: sandboxStatus(sb), Timestamp: time.Now().UnixNano()}
	for _, c := range s.rt.Containers(id) {
		resp.ContainersStatuses = append(resp.ContainersStatuses, containerStatus(c))
	}
	if req.GetVerbose() {
		resp.Info = s.sandboxInfo(sb)
	}
	return resp, nil
}

// ListPodSandbox lists sandboxes from memory.
func (s *Server) ListPodSandbox(_ context.Context, req *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
	f := req.GetFilter()
	id, err := s.sandboxID(f.GetId())
	if err != nil {
		return &runtimeapi.ListPodSandboxResponse{}, nil // short for several: none is meant
	}
	resp := &runtimeapi.ListPodSandboxResponse{}
	for _, sb := range s.rt.Sandboxes() {
		switch {
		case id != "" && sb.ID != id,
			f.GetState() != nil && f.GetState().GetState() != sandboxState(sb.State),
			!matches(sb.Spec.Labels, f.GetLabelSelector()):
			continue
		}
		resp.Items = append(resp.Items, &runtimeapi.PodSandbox{
			Id: sb.ID, Metadata: sandboxMetadata(sb), State: sandboxState(sb.State), CreatedAt: sb.CreatedAt.UnixNano(),
			Labels: sb.Spec.Labels, Annotations: sb.Spec.Annotations, RuntimeHandler: sb.Spec.Handler,
		})
	}
	return resp, nil
}

func sandboxMetadata(s runtime.SandboxStatus) *runtimeapi.PodSandboxMetadata {
	return &runtimeapi.PodSandboxMetadata{Name: s.Spec.Name, Uid: s.Spec.UID, Namespace: s.Spec.Namespace, Attempt: s.Spec.Attempt}
}

func sandboxState(s runtime.SandboxState) runtimeapi.PodSandboxState {
	if s == runtime.SandboxReady {
		return runtimeapi.PodSandboxState_SANDBOX_READY
	}
	return runtimeapi.PodSandboxState_SANDBOX_NOTREADY
}

func sandboxStatus(s runtime.SandboxStatus) *runtimeapi.PodSandboxStatus {
	out := &runtimeapi.PodSandboxStatus{
		Id: s.ID, Metadata: sandboxMetadata(s), State: sandboxState(s.State), CreatedAt: s.CreatedAt.UnixNano(),
		Network: &runtimeapi.PodSandboxNetworkStatus{}, Labels: s.Spec.Labels, Annotations: s.Spec.Annotations,
		RuntimeHandler: s.Spec.Handler,
		Linux: &runtimeapi.LinuxPodSandboxStatus{Namespaces: &runtimeapi.Namespace{Options: &runtimeapi.NamespaceOption{
			Network: namespaceMode(s.Spec.Namespaces.Network),
			Pid:     namespaceMode(s.Spec.Namespaces.PID),
			Ipc:     namespaceMode(s.Spec.Namespaces.IPC),

			UsernsOptions: criUserNamespace(s.Spec.User),
		}}},
	}
	for i, ip := range s.IPs {
		if i == 0 {
			out.Network.Ip = ip.String()
			continue
		}
		out.Network.AdditionalIps = append(out.Network.AdditionalIps, &runtimeapi.PodIP{Ip: ip.String()})
	}
	return out
}

func namespaceMode(m runtime.NamespaceMode) runtimeapi.NamespaceMode {
	switch m {
	case runtime.NamespaceContainer:
		return runtimeapi.NamespaceMode_CONTAINER
	case runtime.NamespaceNode:
		return runtimeapi.NamespaceMode_NODE
	}
	return runtimeapi.NamespaceMode_POD
}

// sandboxSpec reads a request; what can't be honoured is refused by name.
func sandboxSpec(c *runtimeapi.PodSandboxConfig) (runtime.SandboxSpec, error) {
	if c == nil {
		return runtime.SandboxSpec{}, badRequest("config is missing")
	}
	if c.GetMetadata() == nil {
		return runtime.SandboxSpec{}, badRequest("config.metadata is missing")
	}
	if err := refuseSandbox(c); err != nil {
		return runtime.SandboxSpec{}, err
	}
	m, l := c.GetMetadata(), c.GetLinux()
	spec := runtime.SandboxSpec{
		Name: m.GetName(), UID: m.GetUid(), Namespace: m.GetNamespace(), Attempt: m.GetAttempt(),
		Hostname: c.GetHostname(), LogDir: c.GetLogDirectory(), Labels: c.GetLabels(), Annotations: c.GetAnnotations(),
		CgroupParent: l.GetCgroupParent(), Sysctls: l.GetSysctls(), Privileged: l.GetSecurityContext().GetPrivileged(),
		Namespaces: sandboxNamespaces(l.GetSecurityContext().GetNamespaceOptions()),
		User:       userNamespace(l.GetSecurityContext().GetNamespaceOptions()),
		SELinux:    seLinux(l.GetSecurityContext().GetSelinuxOptions()),
	}
	if l.GetResources() != nil {
		sum := resources(l.GetResources()).Plus(resources(l.GetOverhead()))
		spec.Resources = &sum
	}
	if err := networkAnnotations(&spec); err != nil {
		return runtime.SandboxSpec{}, err
	}
	if err := writableAnnotation(&spec); err != nil {
		return runtime.SandboxSpec{}, err
	}
	if d := c.GetDnsConfig(); d != nil {
		spec.DNS = &runtime.DNS{Servers: d.GetServers(), Searches: d.GetSearches(), Options: d.GetOptions()}
	}
	for _, p := range c.GetPortMappings() {
		if p.GetHostPort() == 0 {
			continue // says what the container listens to, and asks for nothing
		}
		spec.Ports = append(spec.Ports, runtime.PortMapping{
			Protocol: protocol(p.GetProtocol()), ContainerPort: p.GetContainerPort(), HostPort: p.GetHostPort(), HostIP: p.GetHostIp(),
		})
	}
	return spec, nil
}

// sandboxNamespaces: a sandbox that says nothing gets its own network and IPC namespace, and each of its
// containers its own PID namespace.
func sandboxNamespaces(o *runtimeapi.NamespaceOption) runtime.Namespaces {
	n := runtime.Namespaces{PID: runtime.NamespaceContainer}
	if o == nil {
		return n
	}
	if o.GetNetwork() == runtimeapi.NamespaceMode_NODE {
		n.Network = runtime.NamespaceNode
	}
	switch o.GetPid() {
	case runtimeapi.NamespaceMode_NODE:
		n.PID = runtime.NamespaceNode
	case runtimeapi.NamespaceMode_POD:
		n.PID = runtime.NamespacePod
	}
	if o.GetIpc() == runtimeapi.NamespaceMode_NODE {
		n.IPC = runtime.NamespaceNode
	}
	return n
}

// userNamespace is nil for the host's.
func userNamespace(o *runtimeapi.NamespaceOption) *runtime.UserNamespace {
	u := o.GetUsernsOptions()
	if u == nil || u.GetMode() == runtimeapi.NamespaceMode_NODE {
		return nil
	}
	return &runtime.UserNamespace{UIDs: mappings(u.GetUids()), GIDs: mappings(u.GetGids())}
}

func criUserNamespace(u *runtime.UserNamespace) *runtimeapi.UserNamespace {
	if u == nil {
		return &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_NODE}
	}
	return &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_POD, Uids: criMappings(u.UIDs), Gids: criMappings(u.GIDs)}
}

func protocol(p runtimeapi.Protocol) string {
	switch p {
	case runtimeapi.Protocol_UDP:
		return "udp"
	case runtimeapi.Protocol_SCTP:
		return "sctp"
	}
	return "tcp"
}
