package criconfig

import (
	"fmt"
	"strings"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func namespaces(s *v1.PodSpec) *runtimeapi.NamespaceOption {
	o := &runtimeapi.NamespaceOption{
		Network: runtimeapi.NamespaceMode_POD, Ipc: runtimeapi.NamespaceMode_POD, Pid: runtimeapi.NamespaceMode_CONTAINER,
	}
	if s.HostNetwork {
		o.Network = runtimeapi.NamespaceMode_NODE
	}
	return o
}

func sandboxSecurity(s *v1.PodSpec) *runtimeapi.LinuxSandboxSecurityContext {
	out := &runtimeapi.LinuxSandboxSecurityContext{NamespaceOptions: namespaces(s), Seccomp: seccomp(nil, s.SecurityContext)}
	eachContainer(s, func(c *v1.Container) {
		out.Privileged = out.Privileged || c.SecurityContext != nil && isTrue(c.SecurityContext.Privileged)
	})
	if p := s.SecurityContext; p != nil {
		out.RunAsUser, out.RunAsGroup = int64Value(p.RunAsUser), int64Value(p.RunAsGroup)
		out.SupplementalGroups = groups(p)
	}
	return out
}

// groups are those that every process of the pod is in besides its own.
func groups(p *v1.PodSecurityContext) []int64 {
	if p == nil {
		return nil
	}
	out := append([]int64(nil), p.SupplementalGroups...)
	if p.FSGroup != nil {
		out = append(out, *p.FSGroup)
	}
	return out
}

// containerSecurity merges the container's context over the pod's.
func containerSecurity(in *Input) (*runtimeapi.LinuxContainerSecurityContext, error) {
	pod, c := in.Pod.Spec.SecurityContext, in.Container.SecurityContext
	if pod == nil {
		pod = &v1.PodSecurityContext{}
	}
	if c == nil {
		c = &v1.SecurityContext{}
	}
	out := &runtimeapi.LinuxContainerSecurityContext{
		NamespaceOptions:   namespaces(&in.Pod.Spec),
		RunAsUser:          int64Value(first(c.RunAsUser, pod.RunAsUser)),
		RunAsGroup:         int64Value(first(c.RunAsGroup, pod.RunAsGroup)),
		SupplementalGroups: groups(pod),
		Privileged:         isTrue(c.Privileged),
		ReadonlyRootfs:     isTrue(c.ReadOnlyRootFilesystem),
		NoNewPrivs:         c.AllowPrivilegeEscalation != nil && !*c.AllowPrivilegeEscalation,
		Seccomp:            seccomp(c.SeccompProfile, pod),
		Capabilities:       &runtimeapi.Capability{},
	}
	if c.Capabilities != nil {
		out.Capabilities.AddCapabilities = capabilities(c.Capabilities.Add)
		out.Capabilities.DropCapabilities = capabilities(c.Capabilities.Drop)
	}
	if isTrue(first(c.RunAsNonRoot, pod.RunAsNonRoot)) {
		if err := in.nonRoot(out); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// nonRoot sees that the container does not run as root: by the spec, or else by the image's user.
func (in *Input) nonRoot(s *runtimeapi.LinuxContainerSecurityContext) error {
	switch {
	case s.RunAsUser != nil && s.RunAsUser.Value == 0:
		return fmt.Errorf("container %q has runAsNonRoot and runAsUser 0", in.Container.Name)
	case s.RunAsUser != nil:
		return nil
	case in.ImageUser != nil && in.ImageUser.Uid != nil && in.ImageUser.Uid.Value != 0:
		return nil
	case in.ImageUser != nil && in.ImageUser.Username != "":
		return fmt.Errorf("container %q has runAsNonRoot and image %s runs as user %q, which may be root; set runAsUser to a number",
			in.Container.Name, in.Container.Image, in.ImageUser.Username)
	}
	return fmt.Errorf("container %q has runAsNonRoot and image %s runs as root; set runAsUser", in.Container.Name, in.Container.Image)
}

func capabilities(list []v1.Capability) []string {
	var out []string
	for _, c := range list {
		out = append(out, strings.TrimPrefix(strings.ToUpper(string(c)), "CAP_"))
	}
	return out
}

// seccomp: a pod that says nothing gets the runtime's default profile, as with a kubelet that runs with
// --seccomp-default.
func seccomp(c *v1.SeccompProfile, pod *v1.PodSecurityContext) *runtimeapi.SecurityProfile {
	p := c
	if p == nil && pod != nil {
		p = pod.SeccompProfile
	}
	if p != nil && p.Type == v1.SeccompProfileTypeUnconfined {
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}
	}
	return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
}

func int64Value(p *int64) *runtimeapi.Int64Value {
	if p == nil {
		return nil
	}
	return &runtimeapi.Int64Value{Value: *p}
}

func isTrue(b *bool) bool { return b != nil && *b }

// first returns a, or b if a is nil.
func first[T any](a, b *T) *T {
	if a != nil {
		return a
	}
	return b
}
