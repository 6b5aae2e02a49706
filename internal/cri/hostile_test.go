package cri

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Each request is refused with a code and a sentence that names the field, and nothing comes of it.
func TestHostileSandboxes(t *testing.T) {
	s := newServer(t)
	ns := func(f func(*runtimeapi.NamespaceOption)) func(*runtimeapi.PodSandboxConfig) {
		return func(c *runtimeapi.PodSandboxConfig) {
			o := &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER}
			f(o)
			c.Linux.SecurityContext.NamespaceOptions = o
		}
	}
	for _, x := range []struct {
		names  string
		code   codes.Code
		change func(*runtimeapi.PodSandboxConfig)
	}{
		{"metadata", codes.InvalidArgument, func(c *runtimeapi.PodSandboxConfig) { c.Metadata = nil }},
		{"name", codes.InvalidArgument, func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Name = "../../etc" }},
		{"uid", codes.InvalidArgument, func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Uid = strings.Repeat("u", 300) }},
		{"windows", codes.InvalidArgument, func(c *runtimeapi.PodSandboxConfig) { c.Windows = &runtimeapi.WindowsPodSandboxConfig{} }},
		{"port_mappings[0]", codes.InvalidArgument, func(c *runtimeapi.PodSandboxConfig) { c.PortMappings = []*runtimeapi.PortMapping{{HostPort: 65536}} }},
		{"port_mappings[0]", codes.InvalidArgument, func(c *runtimeapi.PodSandboxConfig) { c.PortMappings = []*runtimeapi.PortMapping{{HostPort: 80}} }},
		{"protocol", codes.InvalidArgument, func(c *runtimeapi.PodSandboxConfig) {
			c.PortMappings = []*runtimeapi.PortMapping{{HostPort: 8, ContainerPort: 8, Protocol: 9}}
		}},
		{"run_as_group", codes.InvalidArgument, func(c *runtimeapi.PodSandboxConfig) {
			c.Linux.SecurityContext.RunAsGroup = &runtimeapi.Int64Value{Value: 1}
		}},
		{"linux.resources.cpu_quota", codes.InvalidArgument, func(c *runtimeapi.PodSandboxConfig) {
			c.Linux.Resources = &runtimeapi.LinuxContainerResources{CpuQuota: -2}
		}},
		{"linux.overhead.memory_limit_in_bytes", codes.InvalidArgument, func(c *runtimeapi.PodSandboxConfig) {
			c.Linux.Overhead = &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: -7}
		}},
		{"supplemental_groups_policy", codes.InvalidArgument, func(c *runtimeapi.PodSandboxConfig) { c.Linux.SecurityContext.SupplementalGroupsPolicy = 2 }},
		{"apparmor.profile_type", codes.InvalidArgument, func(c *runtimeapi.PodSandboxConfig) {
			c.Linux.SecurityContext.Apparmor = &runtimeapi.SecurityProfile{ProfileType: 5}
		}},
		{"namespace_options.pid", codes.InvalidArgument, ns(func(o *runtimeapi.NamespaceOption) { o.Pid = runtimeapi.NamespaceMode_TARGET })},
		{"namespace_options.pid", codes.InvalidArgument, ns(func(o *runtimeapi.NamespaceOption) { o.Pid = 77 })},
		{"namespace_options.network", codes.InvalidArgument, ns(func(o *runtimeapi.NamespaceOption) { o.Network = runtimeapi.NamespaceMode_CONTAINER })},
		{"user namespace: 0 mappings", codes.InvalidArgument, ns(func(o *runtimeapi.NamespaceOption) { o.UsernsOptions = &runtimeapi.UserNamespace{} })},
		{"userns_options.mode", codes.InvalidArgument, ns(func(o *runtimeapi.NamespaceOption) {
			o.UsernsOptions = &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_TARGET}
		})},
		{"userns_options", codes.InvalidArgument, ns(func(o *runtimeapi.NamespaceOption) {
			o.UsernsOptions = &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_NODE, Uids: []*runtimeapi.IDMapping{{}}}
		})},
		{"must begin at 0", codes.InvalidArgument, ns(func(o *runtimeapi.NamespaceOption) {
			wrong := []*runtimeapi.IDMapping{{HostId: 1<<32 - 1, Length: 1<<32 - 1}}
			o.UsernsOptions = &runtimeapi.UserNamespace{Uids: wrong, Gids: wrong}
		})},
		{"cgroup", codes.InvalidArgument, func(c *runtimeapi.PodSandboxConfig) { c.Linux.CgroupParent = "/a/../.." }},
		{"annotations[kubernetes.io/ingress-bandwidth]", codes.InvalidArgument, func(c *runtimeapi.PodSandboxConfig) {
			c.Annotations = map[string]string{"kubernetes.io/ingress-bandwidth": "fast"}
		}},
		{"annotations[kubernetes.io/egress-bandwidth]", codes.InvalidArgument, func(c *runtimeapi.PodSandboxConfig) {
			c.Annotations = map[string]string{"kubernetes.io/egress-bandwidth": "-1G"}
		}},
		{"annotations[io.berth.pod.writable-limit]", codes.InvalidArgument, func(c *runtimeapi.PodSandboxConfig) {
			c.Annotations = map[string]string{"io.berth.pod.writable-limit": "1k"}
		}},
		{"annotations[io.berth.pod.ips]", codes.InvalidArgument, func(c *runtimeapi.PodSandboxConfig) {
			c.Annotations = map[string]string{"io.berth.pod.ips": "127.0.0.1"}
		}},
		{"host name", codes.InvalidArgument, func(c *runtimeapi.PodSandboxConfig) { c.Hostname = "web\n6.6.6.6 bank.com" }},
		{"resolv.conf", codes.InvalidArgument, func(c *runtimeapi.PodSandboxConfig) {
			c.DnsConfig = &runtimeapi.DNSConfig{Searches: []string{"a\nnameserver 6.6.6.6"}}
		}},
		{"sysctl", codes.InvalidArgument, func(c *runtimeapi.PodSandboxConfig) {
			c.Linux.Sysctls = map[string]string{"kernel.core_pattern": "|/evil"}
		}},
	} {
		c := podConfig()
		x.change(c)
		_, err := s.RunPodSandbox(context.Background(), &runtimeapi.RunPodSandboxRequest{Config: c})
		if status.Code(err) != x.code || !strings.Contains(err.Error(), x.names) {
			t.Errorf("%s: %v", x.names, err)
		}
	}
	if _, err := s.RunPodSandbox(context.Background(), &runtimeapi.RunPodSandboxRequest{Config: podConfig(), RuntimeHandler: "x"}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("unknown handler: %v", err)
	}
	if _, err := s.RunPodSandbox(context.Background(), nil); status.Code(err) != codes.InvalidArgument {
		t.Errorf("no request: %v", err)
	}
	if l, _ := s.ListPodSandbox(context.Background(), nil); len(l.Items) > 0 {
		t.Errorf("pods came of it: %v", l)
	}
}

func TestHostileContainers(t *testing.T) {
	s := newServer(t)
	ctx := context.Background()
	pod, err := s.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: podConfig()})
	if err != nil {
		t.Fatal(err)
	}
	sc := func(f func(*runtimeapi.LinuxContainerSecurityContext)) func(*runtimeapi.ContainerConfig) {
		return func(c *runtimeapi.ContainerConfig) { f(c.Linux.SecurityContext) }
	}
	mount := func(m *runtimeapi.Mount) func(*runtimeapi.ContainerConfig) {
		return func(c *runtimeapi.ContainerConfig) { c.Mounts = []*runtimeapi.Mount{m} }
	}
	ok := runtimeapi.Mount{ContainerPath: "/a", HostPath: "/tmp"}
	with := func(f func(*runtimeapi.Mount)) *runtimeapi.Mount {
		m := proto.Clone(&ok).(*runtimeapi.Mount)
		f(m)
		return m
	}
	for _, x := range []struct {
		names  string
		code   codes.Code
		change func(*runtimeapi.ContainerConfig)
	}{
		{"metadata", codes.InvalidArgument, func(c *runtimeapi.ContainerConfig) { c.Metadata = nil }},
		{"windows", codes.InvalidArgument, func(c *runtimeapi.ContainerConfig) { c.Windows = &runtimeapi.WindowsContainerConfig{} }},
		{"linux.resources.memory_swap_limit_in_bytes", codes.InvalidArgument, func(c *runtimeapi.ContainerConfig) { c.Linux.Resources.MemorySwapLimitInBytes = -2 }},
		{"supplemental_groups_policy", codes.InvalidArgument, sc(func(c *runtimeapi.LinuxContainerSecurityContext) { c.SupplementalGroupsPolicy = 2 })},
		{"device", codes.InvalidArgument, func(c *runtimeapi.ContainerConfig) {
			c.Devices = []*runtimeapi.Device{{HostPath: "/dev/null", ContainerPath: "/dev/../../x"}}
		}},
		{"seccomp_profile_path", codes.InvalidArgument, sc(func(c *runtimeapi.LinuxContainerSecurityContext) {
			c.SeccompProfilePath = "nonsense" //lint:ignore SA1019 old kubelets still send it
		})},
		{"userns_options", codes.InvalidArgument, sc(func(c *runtimeapi.LinuxContainerSecurityContext) {
			c.NamespaceOptions = &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER, UsernsOptions: &runtimeapi.UserNamespace{}}
		})},
		{"image", codes.InvalidArgument, func(c *runtimeapi.ContainerConfig) { c.Image = nil }},
		{"ghost", codes.NotFound, func(c *runtimeapi.ContainerConfig) { c.Image.Image = "ghost" }},
		{"log path", codes.InvalidArgument, func(c *runtimeapi.ContainerConfig) { c.LogPath = "../../../etc/cron.d/x" }},
		{"CDI device x", codes.InvalidArgument, func(c *runtimeapi.ContainerConfig) { c.CDIDevices = []*runtimeapi.CDIDevice{{Name: "x"}} }},
		{"stop_signal", codes.InvalidArgument, func(c *runtimeapi.ContainerConfig) { c.StopSignal = 999 }},
		{"environment", codes.InvalidArgument, func(c *runtimeapi.ContainerConfig) { c.Envs = []*runtimeapi.KeyValue{{Key: "a\x00b"}} }},
		{"image volume", codes.NotFound, mount(&runtimeapi.Mount{ContainerPath: "/a", Image: &runtimeapi.ImageSpec{Image: "x"}})},
		{"host path", codes.InvalidArgument, mount(&runtimeapi.Mount{ContainerPath: "/a", HostPath: "/b", Image: &runtimeapi.ImageSpec{Image: "img"}})},
		{"mounts[0].image_sub_path", codes.InvalidArgument, mount(&runtimeapi.Mount{ContainerPath: "/a", HostPath: "/b", ImageSubPath: "x"})},
		{"sub path", codes.InvalidArgument, mount(&runtimeapi.Mount{ContainerPath: "/a", Image: &runtimeapi.ImageSpec{Image: "img"}, ImageSubPath: "/etc"})},
		{"mount option", codes.InvalidArgument, mount(with(func(m *runtimeapi.Mount) { m.MountOptions = []string{"suid"} }))},
		{"mappings", codes.InvalidArgument, mount(with(func(m *runtimeapi.Mount) { m.UidMappings = []*runtimeapi.IDMapping{{}} }))},
		{"propagation", codes.InvalidArgument, mount(with(func(m *runtimeapi.Mount) { m.Propagation = 9 }))},
		{"mount target", codes.InvalidArgument, mount(with(func(m *runtimeapi.Mount) { m.ContainerPath = "/a/../../host" }))},
		{"mount source", codes.InvalidArgument, mount(with(func(m *runtimeapi.Mount) { m.HostPath = "relative" }))},
		{"privileged", codes.InvalidArgument, sc(func(c *runtimeapi.LinuxContainerSecurityContext) { c.Privileged = true })},
		{"run_as_group", codes.InvalidArgument, sc(func(c *runtimeapi.LinuxContainerSecurityContext) {
			c.RunAsUser, c.RunAsGroup = nil, &runtimeapi.Int64Value{Value: 1}
		})},
		{"user", codes.InvalidArgument, sc(func(c *runtimeapi.LinuxContainerSecurityContext) { c.RunAsUser.Value = 1 << 32 })},
		{"capability", codes.InvalidArgument, sc(func(c *runtimeapi.LinuxContainerSecurityContext) {
			c.Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"NO_SUCH"}}
		})},
		{"seccomp", codes.InvalidArgument, sc(func(c *runtimeapi.LinuxContainerSecurityContext) {
			c.Seccomp = &runtimeapi.SecurityProfile{ProfileType: 9}
		})},
		{"seccomp profile", codes.InvalidArgument, sc(func(c *runtimeapi.LinuxContainerSecurityContext) {
			c.Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: "/dev/zero"}
		})},
		{"apparmor", codes.InvalidArgument, sc(func(c *runtimeapi.LinuxContainerSecurityContext) {
			c.Apparmor = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost}
		})},
		{"no AppArmor", codes.InvalidArgument, sc(func(c *runtimeapi.LinuxContainerSecurityContext) {
			c.Apparmor = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: "localhost/mine"}
		})},
		{"apparmor_profile", codes.InvalidArgument, sc(func(c *runtimeapi.LinuxContainerSecurityContext) {
			c.ApparmorProfile = "nonsense" //lint:ignore SA1019 old kubelets still send it
		})},
		{"both by number and by name", codes.InvalidArgument, sc(func(c *runtimeapi.LinuxContainerSecurityContext) { c.RunAsUsername = "root" })},
		{"target_id", codes.InvalidArgument, sc(func(c *runtimeapi.LinuxContainerSecurityContext) {
			c.NamespaceOptions = &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_TARGET}
		})},
		{"not in its sandbox", codes.NotFound, sc(func(c *runtimeapi.LinuxContainerSecurityContext) {
			c.NamespaceOptions = &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_TARGET, TargetId: "gone"}
		})},
		{"differ", codes.InvalidArgument, sc(func(c *runtimeapi.LinuxContainerSecurityContext) {
			c.NamespaceOptions = &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_NODE}
		})},
	} {
		c := containerConfig()
		x.change(c)
		_, err := s.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: pod.PodSandboxId, Config: c})
		if status.Code(err) != x.code || !strings.Contains(err.Error(), x.names) {
			t.Errorf("%s: %v", x.names, err)
		}
	}
	if l, _ := s.ListContainers(ctx, nil); len(l.Containers) > 0 {
		t.Errorf("containers came of it: %v", l)
	}
}

func TestUnknownIDs(t *testing.T) {
	s := newServer(t)
	ctx := context.Background()
	for _, id := range []string{"", "x", strings.Repeat("a", 64), "../../etc/passwd", "a\x00b"} {
		for name, x := range map[string]struct {
			call func() error
			want codes.Code
		}{
			"StopPodSandbox": {func() error {
				_, err := s.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: id})
				return err
			}, codes.OK},
			"RemovePodSandbox": {func() error {
				_, err := s.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: id})
				return err
			}, codes.OK},
			"StopContainer": {func() error {
				_, err := s.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: id})
				return err
			}, codes.OK},
			"RemoveContainer": {func() error {
				_, err := s.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: id})
				return err
			}, codes.OK},
			"StartContainer": {func() error {
				_, err := s.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: id})
				return err
			}, codes.NotFound},
			"ContainerStatus": {func() error {
				_, err := s.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id})
				return err
			}, codes.NotFound},
			"PodSandboxStatus": {func() error {
				_, err := s.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: id})
				return err
			}, codes.NotFound},
			"ExecSync": {func() error { _, err := s.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: id}); return err }, codes.NotFound},
			"Exec":     {func() error { _, err := s.Exec(ctx, &runtimeapi.ExecRequest{ContainerId: id}); return err }, codes.NotFound},
			"Attach":   {func() error { _, err := s.Attach(ctx, &runtimeapi.AttachRequest{ContainerId: id}); return err }, codes.NotFound},
			"PortForward": {func() error {
				_, err := s.PortForward(ctx, &runtimeapi.PortForwardRequest{PodSandboxId: id})
				return err
			}, codes.NotFound},
			"ContainerStats": {func() error {
				_, err := s.ContainerStats(ctx, &runtimeapi.ContainerStatsRequest{ContainerId: id})
				return err
			}, codes.NotFound},
			"ReopenContainerLog": {func() error {
				_, err := s.ReopenContainerLog(ctx, &runtimeapi.ReopenContainerLogRequest{ContainerId: id})
				return err
			}, codes.NotFound},
			"UpdateContainerResources": {func() error {
				_, err := s.UpdateContainerResources(ctx, &runtimeapi.UpdateContainerResourcesRequest{ContainerId: id})
				return err
			}, codes.NotFound},
			"CreateContainer": {func() error {
				_, err := s.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: id, Config: containerConfig()})
				return err
			}, codes.NotFound},
		} {
			if err := x.call(); status.Code(err) != x.want {
				t.Errorf("%s(%q): %v", name, id, err)
			}
		}
	}
}

// Whatever bytes are a request, the answer is a code, and no path outside is touched.
func FuzzRequests(f *testing.F) {
	for _, m := range []proto.Message{podConfig(), containerConfig()} {
		b, _ := proto.Marshal(m)
		f.Add(b, b)
	}
	s := newServer(f)
	canary := filepath.Join(f.TempDir(), "canary")
	os.WriteFile(canary, nil, 0o600)
	f.Fuzz(func(t *testing.T, a, b []byte) {
		var pod runtimeapi.PodSandboxConfig
		var c runtimeapi.ContainerConfig
		if proto.Unmarshal(a, &pod) != nil || proto.Unmarshal(b, &c) != nil {
			return
		}
		for _, m := range c.Mounts { // a missing source is made, so keep to one place
			m.HostPath = canary
		}
		ctx := context.Background()
		r, err := s.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: &pod})
		if err != nil {
			known(t, err)
			return
		}
		if _, err := s.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: r.PodSandboxId, Config: &c}); err != nil {
			known(t, err)
		}
		if _, err := s.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: r.PodSandboxId}); err != nil {
			t.Error(err)
		}
	})
}

func known(t *testing.T, err error) {
	t.Helper()
	switch status.Code(err) {
	case codes.InvalidArgument, codes.Unimplemented, codes.NotFound:
	default:
		t.Errorf("a malformed request got %v", err)
	}
}
