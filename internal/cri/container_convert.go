package cri

import (
	"strings"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/11f9778f/berth/internal/runtime"
)

// containerSpec reads a request; what can't be honoured is refused by name.
func containerSpec(c *runtimeapi.ContainerConfig) (runtime.ContainerSpec, error) {
	var spec runtime.ContainerSpec
	if c == nil {
		return spec, badRequest("config is missing")
	}
	if c.GetMetadata() == nil {
		return spec, badRequest("config.metadata is missing")
	}
	if err := refuseContainer(c); err != nil {
		return spec, err
	}
	stop, err := stopSignal(c.GetStopSignal())
	if err != nil {
		return spec, err
	}
	img := c.GetImage()
	spec = runtime.ContainerSpec{
		Name: c.GetMetadata().GetName(), Attempt: c.GetMetadata().GetAttempt(),
		Image: firstOf(img.GetImageRef(), img.GetImage()), UserImage: img.GetUserSpecifiedImage(),
		Command: c.GetCommand(), Args: c.GetArgs(), WorkingDir: c.GetWorkingDir(),
		Labels: c.GetLabels(), Annotations: c.GetAnnotations(), LogPath: c.GetLogPath(),
		Stdin: c.GetStdin(), StdinOnce: c.GetStdinOnce(), TTY: c.GetTty(), StopSignal: stop,
		Resources: resources(c.GetLinux().GetResources()),
	}
	for _, e := range c.GetEnvs() {
		spec.Env = append(spec.Env, runtime.EnvVar{Key: e.GetKey(), Value: e.GetValue()})
	}
	for _, m := range c.GetMounts() {
		spec.Mounts = append(spec.Mounts, mount(m))
	}
	for _, d := range c.GetCDIDevices() {
		spec.CDIDevices = append(spec.CDIDevices, d.GetName())
	}
	for _, d := range c.GetDevices() {
		spec.Devices = append(spec.Devices, runtime.Device{
			ContainerPath: firstOf(d.GetContainerPath(), d.GetHostPath()), HostPath: d.GetHostPath(), Permissions: d.GetPermissions(),
		})
	}
	switch o := c.GetLinux().GetSecurityContext().GetNamespaceOptions(); {
	case o == nil: // as the sandbox
	case o.GetPid() == runtimeapi.NamespaceMode_CONTAINER:
		spec.PID = runtime.NamespaceContainer
	case o.GetPid() == runtimeapi.NamespaceMode_TARGET:
		spec.PID, spec.PIDTarget = runtime.NamespaceTarget, o.GetTargetId()
	}
	spec.Security, err = security(c.GetLinux().GetSecurityContext())
	return spec, err
}

func firstOf(s ...string) string {
	for _, v := range s {
		if v != "" {
			return v
		}
	}
	return ""
}

func security(sc *runtimeapi.LinuxContainerSecurityContext) (runtime.Security, error) {
	out := runtime.Security{
		Privileged: sc.GetPrivileged(), ReadonlyRootfs: sc.GetReadonlyRootfs(), NoNewPrivs: sc.GetNoNewPrivs(),
		RunAsUsername: sc.GetRunAsUsername(), SupplementalGroups: sc.GetSupplementalGroups(),
		StrictGroups:        sc.GetSupplementalGroupsPolicy() == runtimeapi.SupplementalGroupsPolicy_Strict,
		AddCapabilities:     sc.GetCapabilities().GetAddCapabilities(),
		DropCapabilities:    sc.GetCapabilities().GetDropCapabilities(),
		AmbientCapabilities: sc.GetCapabilities().GetAddAmbientCapabilities(),
		MaskedPaths:         sc.GetMaskedPaths(), ReadonlyPaths: sc.GetReadonlyPaths(),
	}
	out.SELinux = seLinux(sc.GetSelinuxOptions())
	if err := appArmor(&out, sc); err != nil {
		return out, err
	}
	if u := sc.GetRunAsUser(); u != nil {
		out.RunAsUser = &u.Value
	}
	if g := sc.GetRunAsGroup(); g != nil {
		if sc.GetRunAsUser() == nil && sc.GetRunAsUsername() == "" {
			return out, badRequest("config.linux.security_context.run_as_group needs run_as_user or run_as_username")
		}
		out.RunAsGroup = &g.Value
	}
	switch p := sc.GetSeccomp(); {
	case p == nil:
		//lint:ignore SA1019 old kubelets still send it
		return out, oldSeccomp(&out, sc.GetSeccompProfilePath())
	case p.GetProfileType() == runtimeapi.SecurityProfile_RuntimeDefault:
		out.Seccomp = runtime.SeccompRuntimeDefault
	case p.GetProfileType() == runtimeapi.SecurityProfile_Unconfined:
		out.Seccomp = runtime.SeccompUnconfined
	case p.GetProfileType() == runtimeapi.SecurityProfile_Localhost:
		out.Seccomp, out.SeccompProfile = runtime.SeccompLocalhost, strings.TrimPrefix(p.GetLocalhostRef(), "localhost/")
	}
	return out, nil
}

// oldSeccomp reads the field that seccomp took the place of. Who says nothing at all is unconfined: so the
// CRI's conformance suite has it, and a kubelet always says something.
func oldSeccomp(s *runtime.Security, path string) error {
	switch file, local := strings.CutPrefix(path, "localhost/"); {
	case path == "runtime/default" || path == "docker/default":
		s.Seccomp = runtime.SeccompRuntimeDefault
	case path == "" || path == "unconfined":
		s.Seccomp = runtime.SeccompUnconfined
	case local:
		s.Seccomp, s.SeccompProfile = runtime.SeccompLocalhost, file
	default:
		return badRequest("config.linux.security_context.seccomp_profile_path: %q is no profile", path)
	}
	return nil
}

func resources(r *runtimeapi.LinuxContainerResources) runtime.Resources {
	out := runtime.Resources{
		CPUPeriod: r.GetCpuPeriod(), CPUQuota: r.GetCpuQuota(), CPUShares: r.GetCpuShares(),
		MemoryLimit: r.GetMemoryLimitInBytes(), MemorySwap: r.GetMemorySwapLimitInBytes(), OOMScoreAdj: r.GetOomScoreAdj(),
		CpusetCpus: r.GetCpusetCpus(), CpusetMems: r.GetCpusetMems(), Unified: r.GetUnified(),
	}
	for _, h := range r.GetHugepageLimits() {
		if out.Hugepages == nil {
			out.Hugepages = map[string]uint64{}
		}
		out.Hugepages[h.GetPageSize()] = h.GetLimit()
	}
	return out
}

func criResources(r runtime.Resources) *runtimeapi.LinuxContainerResources {
	out := &runtimeapi.LinuxContainerResources{
		CpuPeriod: r.CPUPeriod, CpuQuota: r.CPUQuota, CpuShares: r.CPUShares,
		MemoryLimitInBytes: r.MemoryLimit, MemorySwapLimitInBytes: r.MemorySwap, OomScoreAdj: r.OOMScoreAdj,
		CpusetCpus: r.CpusetCpus, CpusetMems: r.CpusetMems, Unified: r.Unified,
	}
	for size, limit := range r.Hugepages {
		out.HugepageLimits = append(out.HugepageLimits, &runtimeapi.HugepageLimit{PageSize: size, Limit: limit})
	}
	return out
}

// signalToCRI and signalFromCRI spell the signs in the names of real-time signals.
var (
	signalToCRI   = strings.NewReplacer("+", "PLUS", "-", "MINUS")
	signalFromCRI = strings.NewReplacer("PLUS", "+", "MINUS", "-")
)

// stopSignal turns the CRI's enumeration into a signal's name: SIGNAL_SIGRTMINPLUS3 is SIGRTMIN+3.
func stopSignal(s runtimeapi.Signal) (string, error) {
	if s == runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT {
		return "", nil
	}
	name, ok := runtimeapi.Signal_name[int32(s)]
	if !ok {
		return "", badRequest("config.stop_signal: unknown value %d", s)
	}
	name = strings.TrimPrefix(name, "SIGNAL_")
	return signalFromCRI.Replace(name), nil
}

func criSignal(name string) runtimeapi.Signal {
	name = signalToCRI.Replace(strings.ToUpper(name))
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	return runtimeapi.Signal(runtimeapi.Signal_value["SIGNAL_"+name])
}

func containerMetadata(c runtime.ContainerStatus) *runtimeapi.ContainerMetadata {
	return &runtimeapi.ContainerMetadata{Name: c.Spec.Name, Attempt: c.Spec.Attempt}
}

func imageSpec(c runtime.ContainerStatus) *runtimeapi.ImageSpec {
	return &runtimeapi.ImageSpec{Image: c.Spec.Image, UserSpecifiedImage: c.Spec.UserImage}
}

func containerState(s runtime.ContainerState) runtimeapi.ContainerState {
	switch s {
	case runtime.ContainerCreated:
		return runtimeapi.ContainerState_CONTAINER_CREATED
	case runtime.ContainerRunning:
		return runtimeapi.ContainerState_CONTAINER_RUNNING
	case runtime.ContainerExited, runtime.ContainerRemoving:
		return runtimeapi.ContainerState_CONTAINER_EXITED
	}
	return runtimeapi.ContainerState_CONTAINER_UNKNOWN
}

func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func containerStatus(c runtime.ContainerStatus) *runtimeapi.ContainerStatus {
	out := &runtimeapi.ContainerStatus{
		Id: c.ID, Metadata: containerMetadata(c), State: containerState(c.State),
		CreatedAt: nanos(c.CreatedAt), StartedAt: nanos(c.StartedAt), FinishedAt: nanos(c.FinishedAt),
		ExitCode: int32(c.ExitCode), Reason: c.Reason, Message: c.Message,
		Image: imageSpec(c), ImageRef: c.ImageRef, ImageId: c.ImageID,
		Labels: c.Spec.Labels, Annotations: c.Spec.Annotations, LogPath: c.LogPath,
		Resources: &runtimeapi.ContainerResources{Linux: criResources(c.Spec.Resources)},
		User: &runtimeapi.ContainerUser{Linux: &runtimeapi.LinuxContainerUser{
			Uid: int64(c.User.UID), Gid: int64(c.User.GID),
		}},
		StopSignal: criSignal(c.StopSignal),
	}
	for _, g := range c.User.Groups {
		out.User.Linux.SupplementalGroups = append(out.User.Linux.SupplementalGroups, int64(g))
	}
	for _, m := range c.Spec.Mounts {
		out.Mounts = append(out.Mounts, criMount(m))
	}
	return out
}
