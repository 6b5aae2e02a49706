package nri

import (
	"maps"

	"github.com/containerd/nri/pkg/api"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/11f9778f/berth/internal/runtime"
)

func podOf(sb runtime.SandboxStatus) *api.PodSandbox {
	out := &api.PodSandbox{
		Id: sb.ID, Name: sb.Spec.Name, Uid: sb.Spec.UID, Namespace: sb.Spec.Namespace, Labels: sb.Spec.Labels,
		Annotations: sb.Spec.Annotations, RuntimeHandler: sb.Spec.Handler, Pid: uint32(sb.Pid),
		Linux: &api.LinuxPodSandbox{CgroupParent: sb.Spec.CgroupParent, CgroupsPath: sb.CgroupPath},
	}
	if sb.Spec.Resources != nil {
		out.Linux.PodResources = resourcesOf(*sb.Spec.Resources)
	}
	for _, ip := range sb.IPs {
		out.Ips = append(out.Ips, ip.String())
	}
	for _, ns := range []struct{ kind, path string }{{"network", sb.NetNS}, {"ipc", sb.IPC}, {"uts", sb.UTS}, {"user", sb.UserNS}} {
		if ns.path != "" {
			out.Linux.Namespaces = append(out.Linux.Namespaces, &api.LinuxNamespace{Type: ns.kind, Path: ns.path})
		}
	}
	return out
}

// containerOf describes a container with the spec that it was made from.
func (p *Plugins) containerOf(c runtime.ContainerStatus) *api.Container {
	var spec *specs.Spec
	if p.rt != nil {
		spec, _ = p.rt.SpecOf(c.ID) // without one plugins still learn who it is
	}
	return containerOf(c, spec)
}

func containerOf(c runtime.ContainerStatus, spec *specs.Spec) *api.Container {
	out := &api.Container{
		Id: c.ID, PodSandboxId: c.SandboxID, Name: c.Spec.Name, State: stateOf(c.State), Labels: c.Spec.Labels,
		Annotations: c.Spec.Annotations, Pid: uint32(c.Pid), CreatedAt: c.CreatedAt.UnixNano(), ExitCode: int32(c.ExitCode),
		StatusReason: c.Reason, StatusMessage: c.Message, Linux: &api.LinuxContainer{CgroupsPath: c.CgroupPath},
	}
	if !c.StartedAt.IsZero() {
		out.StartedAt = c.StartedAt.UnixNano()
	}
	if !c.FinishedAt.IsZero() {
		out.FinishedAt = c.FinishedAt.UnixNano()
	}
	for _, d := range c.Spec.CDIDevices {
		out.CDIDevices = append(out.CDIDevices, &api.CDIDevice{Name: d})
	}
	if spec == nil || spec.Process == nil || spec.Linux == nil {
		return out
	}
	out.Args, out.Env, out.Mounts, out.Hooks = spec.Process.Args, spec.Process.Env, api.FromOCIMounts(spec.Mounts), api.FromOCIHooks(spec.Hooks)
	out.User = &api.User{Uid: spec.Process.User.UID, Gid: spec.Process.User.GID, AdditionalGids: spec.Process.User.AdditionalGids}
	out.Linux.Namespaces = api.FromOCILinuxNamespaces(spec.Linux.Namespaces)
	out.Linux.Devices = api.FromOCILinuxDevices(spec.Linux.Devices)
	out.Linux.Resources = api.FromOCILinuxResources(spec.Linux.Resources, nil)
	out.Linux.OomScoreAdj = api.Int(spec.Process.OOMScoreAdj)
	out.Linux.Sysctl = spec.Linux.Sysctl
	return out
}

func stateOf(s runtime.ContainerState) api.ContainerState {
	switch s {
	case runtime.ContainerCreating, runtime.ContainerCreated:
		return api.ContainerState_CONTAINER_CREATED
	case runtime.ContainerRunning:
		return api.ContainerState_CONTAINER_RUNNING
	case runtime.ContainerExited, runtime.ContainerRemoving:
		return api.ContainerState_CONTAINER_STOPPED
	}
	return api.ContainerState_CONTAINER_UNKNOWN
}

func resourcesOf(r runtime.Resources) *api.LinuxResources {
	return api.FromOCILinuxResources(r.OCI(), nil)
}

// overlay puts what a plugin asks for over limits; what it does not name stays.
func overlay(r runtime.Resources, want *api.LinuxResources) runtime.Resources {
	if v := want.GetMemory().GetLimit(); v != nil {
		r.MemoryLimit = v.GetValue()
	}
	if v := want.GetMemory().GetSwap(); v != nil {
		r.MemorySwap = v.GetValue()
	}
	if v := want.GetCpu().GetShares(); v != nil {
		r.CPUShares = int64(v.GetValue())
	}
	if v := want.GetCpu().GetQuota(); v != nil {
		r.CPUQuota = v.GetValue()
	}
	if v := want.GetCpu().GetPeriod(); v != nil {
		r.CPUPeriod = int64(v.GetValue())
	}
	if v := want.GetCpu().GetCpus(); v != "" {
		r.CpusetCpus = v
	}
	if v := want.GetCpu().GetMems(); v != "" {
		r.CpusetMems = v
	}
	r.Hugepages, r.Unified = maps.Clone(r.Hugepages), maps.Clone(r.Unified)
	for _, h := range want.GetHugepageLimits() {
		if r.Hugepages == nil {
			r.Hugepages = map[string]uint64{}
		}
		r.Hugepages[h.GetPageSize()] = h.GetLimit()
	}
	for k, v := range want.GetUnified() {
		if r.Unified == nil {
			r.Unified = map[string]string{}
		}
		r.Unified[k] = v
	}
	return r
}
