package cri

import (
	"fmt"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// refuseSandbox names the first field that can't be honoured.
func refuseSandbox(c *runtimeapi.PodSandboxConfig) error {
	if c.GetWindows() != nil {
		return badRequest("config.windows: this node runs Linux")
	}
	for i, p := range c.GetPortMappings() {
		if bad(p.GetHostPort(), 0) || (p.GetHostPort() > 0 && bad(p.GetContainerPort(), 1)) {
			return badRequest("config.port_mappings[%d]: ports are from 1 to 65535", i)
		}
		if _, ok := runtimeapi.Protocol_name[int32(p.GetProtocol())]; !ok {
			return badRequest("config.port_mappings[%d].protocol: unknown value %d", i, p.GetProtocol())
		}
	}
	sc := c.GetLinux().GetSecurityContext()
	const at = "config.linux.security_context."
	if err := refuseNamespaces(at, false, sc.GetNamespaceOptions()); err != nil {
		return err
	}
	if sc.GetRunAsGroup() != nil && sc.GetRunAsUser() == nil {
		return badRequest("%srun_as_group needs run_as_user", at)
	}
	for name, r := range map[string]*runtimeapi.LinuxContainerResources{"resources": c.GetLinux().GetResources(), "overhead": c.GetLinux().GetOverhead()} {
		if err := checkLimits("config.linux."+name+".", r); err != nil {
			return err
		}
	}
	if err := refuseGroupsPolicy(at, sc.GetSupplementalGroupsPolicy()); err != nil {
		return err
	}
	return refuseProfiles(at, sc.GetSeccomp(), sc.GetApparmor())
}

func refuseGroupsPolicy(at string, p runtimeapi.SupplementalGroupsPolicy) error {
	if _, ok := runtimeapi.SupplementalGroupsPolicy_name[int32(p)]; !ok {
		return badRequest("%ssupplemental_groups_policy: unknown value %d", at, p)
	}
	return nil
}

// refuseProfiles: there are three kinds.
func refuseProfiles(at string, seccomp, appArmor *runtimeapi.SecurityProfile) error {
	for field, p := range map[string]*runtimeapi.SecurityProfile{"seccomp": seccomp, "apparmor": appArmor} {
		if _, ok := runtimeapi.SecurityProfile_ProfileType_name[int32(p.GetProfileType())]; !ok {
			return badRequest("%s%s.profile_type: unknown value %d", at, field, p.GetProfileType())
		}
	}
	return nil
}

func bad(port, least int32) bool { return port < least || port > 65535 }

func refuseNamespaces(at string, container bool, o *runtimeapi.NamespaceOption) error {
	if o == nil {
		return nil
	}
	at += "namespace_options."
	switch o.GetPid() {
	case runtimeapi.NamespaceMode_CONTAINER, runtimeapi.NamespaceMode_NODE, runtimeapi.NamespaceMode_POD:
	case runtimeapi.NamespaceMode_TARGET:
		if !container {
			return badRequest("%spid: only a container can join another one's (TARGET)", at)
		}
		if o.GetTargetId() == "" {
			return badRequest("%starget_id: the container to join is missing", at)
		}
	default:
		return badRequest("%spid: unknown value %d", at, o.GetPid())
	}
	for field, mode := range map[string]runtimeapi.NamespaceMode{"network": o.GetNetwork(), "ipc": o.GetIpc()} {
		if mode != runtimeapi.NamespaceMode_POD && mode != runtimeapi.NamespaceMode_NODE {
			return badRequest("%s%s: %s is neither POD nor NODE", at, field, mode)
		}
	}
	switch u := o.GetUsernsOptions(); {
	case u == nil: // of a kubelet that does not know of user namespaces
	case u.GetMode() == runtimeapi.NamespaceMode_NODE:
		if len(u.GetUids())+len(u.GetGids()) > 0 {
			return badRequest("%suserns_options: the host's user namespace has no mappings of the pod's", at)
		}
	case u.GetMode() != runtimeapi.NamespaceMode_POD:
		return badRequest("%suserns_options.mode: %s is neither POD nor NODE", at, u.GetMode())
	}
	return nil
}

// refuseContainer names the first field that can't be honoured.
func refuseContainer(c *runtimeapi.ContainerConfig) error {
	if c.GetWindows() != nil {
		return badRequest("config.windows: this node runs Linux")
	}
	for i, m := range c.GetMounts() {
		if err := refuseMount(fmt.Sprintf("config.mounts[%d].", i), m); err != nil {
			return err
		}
	}
	sc := c.GetLinux().GetSecurityContext()
	const at = "config.linux.security_context."
	if err := refuseNamespaces(at, true, sc.GetNamespaceOptions()); err != nil {
		return err
	}
	if err := refuseGroupsPolicy(at, sc.GetSupplementalGroupsPolicy()); err != nil {
		return err
	}
	if err := checkLimits("config.linux.resources.", c.GetLinux().GetResources()); err != nil {
		return err
	}
	return refuseProfiles(at, sc.GetSeccomp(), sc.GetApparmor())
}

func refuseMount(at string, m *runtimeapi.Mount) error {
	if m.GetImage().GetImage() == "" && m.GetImageSubPath() != "" {
		return badRequest("%simage_sub_path: there is no image", at)
	}
	if _, ok := runtimeapi.MountPropagation_name[int32(m.GetPropagation())]; !ok {
		return badRequest("%spropagation: unknown value %d", at, m.GetPropagation())
	}
	return nil
}
