package criconfig

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/11f9778f/berth/internal/kubelet/manifest"
)

var node = Node{Name: "node1", HostIP: "192.0.2.1", CgroupParent: "/berth", MemoryTotal: 8 << 30, CPUs: 4,
	DNS: ParseDNS("# x\nnameserver 10.0.0.10\nsearch a.b c\noptions ndots:5 rotate\n")}

func fullPod(t *testing.T) (*manifest.Manifest, *v1.Pod) {
	t.Helper()
	data, err := os.ReadFile("../manifest/testdata/full.yaml")
	if err != nil {
		t.Fatal(err)
	}
	m, err := manifest.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	m.Pods[0].UID = "u1"
	return m, m.Pods[0]
}

func input(m *manifest.Manifest, pod *v1.Pod) *Input {
	return &Input{Node: &node, Pod: pod, Container: &pod.Spec.Containers[0], Attempt: 2, BackOff: 20 * time.Second,
		ConfigMaps: m.ConfigMaps, Secrets: m.Secrets, PodIPs: []string{"10.1.2.3"}, ImageRef: "sha256:x",
		VolumePath: func(v *v1.Volume) string { return "/vol/" + v.Name }, HostsFile: "/pod/hosts", MessageFile: "/pod/msg"}
}

func TestSandbox(t *testing.T) {
	_, pod := fullPod(t)
	c := Sandbox(&node, pod, 3, "/logs")
	want := [][2]any{
		{c.Metadata.Attempt, uint32(3)}, {c.Hostname, "web"}, {c.LogDirectory, "/logs"}, {c.Linux.CgroupParent, "/berth/podu1"},
		{c.Labels["app"], "web"}, {c.Labels[LabelPodUID], "u1"}, {c.Annotations["example.com/owner"], "me"},
		{strings.Join(c.DnsConfig.Servers, " "), "1.1.1.1"}, {strings.Join(c.DnsConfig.Options, " "), "ndots:2"},
		{len(c.PortMappings), 1}, {c.PortMappings[0].HostPort, int32(18080)}, {c.PortMappings[0].HostIp, "127.0.0.1"},
		{c.Linux.SecurityContext.NamespaceOptions.Network, runtimeapi.NamespaceMode_POD},
		{c.Linux.Resources.CpuShares, int64(102)}, {c.Linux.Resources.CpuQuota, int64(0)}, // init containers have no limit
	}
	for i, w := range want {
		if w[0] != w[1] {
			t.Errorf("%d: got %v, want %v", i, w[0], w[1])
		}
	}
	pod.Spec.DNSPolicy, pod.Spec.HostNetwork = v1.DNSClusterFirst, true
	c = Sandbox(&node, pod, 0, "/logs")
	if got := strings.Join(c.DnsConfig.Servers, " "); got != "10.0.0.10 1.1.1.1" {
		t.Errorf("servers %s", got)
	}
	if got := strings.Join(c.DnsConfig.Options, " "); got != "ndots:2 rotate" {
		t.Errorf("options %s", got)
	}
	if c.Linux.SecurityContext.NamespaceOptions.Network != runtimeapi.NamespaceMode_NODE || c.PortMappings != nil || c.Hostname != "" {
		t.Error("the host's network is not shared as it should")
	}
}

func TestSandboxInASlice(t *testing.T) {
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "1-2"}}
	c := Sandbox(&Node{CgroupParent: "/berth.slice"}, pod, 0, "/logs")
	if got := c.Linux.CgroupParent; got != "/berth.slice/berth-pod1_2.slice" {
		t.Error(got)
	}
}

func TestContainer(t *testing.T) {
	m, pod := fullPod(t)
	c, err := Container(input(m, pod))
	if err != nil {
		t.Fatal(err)
	}
	var env []string
	for _, e := range c.Envs {
		env = append(env, e.Key+"="+string(e.Value))
	}
	if diff := cmp.Diff([]string{"S_colour=green", "S_page.html=<p>hello</p>", "COLOUR=green", "TOKEN=s3cret", "IP=10.1.2.3", "CPU=1"}, env); diff != "" {
		t.Error("environment", diff)
	}
	if diff := cmp.Diff([]string{"--colour=green", "$(COLOUR)"}, c.Args); diff != "" {
		t.Error("args", diff)
	}
	var mounts []string
	for _, x := range c.Mounts {
		ro := ""
		if x.Readonly {
			ro = " ro"
		}
		mounts = append(mounts, x.HostPath+" "+x.ContainerPath+ro)
	}
	if diff := cmp.Diff([]string{"/vol/page /page ro", "/vol/keys /keys ro", "/pod/hosts /etc/hosts", "/pod/msg /dev/termination-log"}, mounts); diff != "" {
		t.Error("mounts", diff)
	}
	s, r := c.Linux.SecurityContext, c.Linux.Resources
	want := [][2]any{
		{s.RunAsUser.Value, int64(1000)}, {s.ReadonlyRootfs, true}, {s.NoNewPrivs, true}, {s.Privileged, false},
		{s.Capabilities.DropCapabilities[0], "ALL"}, {s.Capabilities.AddCapabilities[0], "NET_BIND_SERVICE"},
		{len(s.SupplementalGroups), 2}, {s.Seccomp.ProfileType, runtimeapi.SecurityProfile_RuntimeDefault},
		{r.CpuShares, int64(102)}, {r.CpuQuota, int64(50_000)}, {r.CpuPeriod, int64(100_000)}, {r.MemoryLimitInBytes, int64(64 << 20)}, {r.OomScoreAdj, int64(993)},
		{c.LogPath, "app/2.log"}, {c.Labels[LabelContainerName], "app"}, {BackOff(c.Annotations), 20 * time.Second},
		{c.Image.Image, "sha256:x"}, {c.Image.UserSpecifiedImage, "registry.example.com:5000/team/app"},
	}
	for i, w := range want {
		if w[0] != w[1] {
			t.Errorf("%d: got %v, want %v", i, w[0], w[1])
		}
	}
}

func TestRunAsNonRoot(t *testing.T) {
	m, pod := fullPod(t)
	yes, root := true, int64(0)
	for _, c := range []struct {
		name  string
		user  *int64
		image *runtimeapi.Image
		want  string
	}{
		{"the spec says a user", pod.Spec.SecurityContext.RunAsUser, nil, ""},
		{"the spec says root", &root, nil, "has runAsNonRoot and runAsUser 0"},
		{"the image runs as root", nil, &runtimeapi.Image{Uid: &runtimeapi.Int64Value{}}, "runs as root"},
		{"the image runs as a user", nil, &runtimeapi.Image{Uid: &runtimeapi.Int64Value{Value: 5}}, ""},
		{"the image runs as a name", nil, &runtimeapi.Image{Username: "me"}, `runs as user "me"`},
	} {
		pod.Spec.SecurityContext.RunAsUser, pod.Spec.SecurityContext.RunAsNonRoot = c.user, &yes
		in := input(m, pod)
		in.ImageUser = c.image
		_, err := Container(in)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v", c.name, err)
		}
	}
}

func TestMissingReferences(t *testing.T) {
	m, pod := fullPod(t)
	in := input(m, pod)
	in.Secrets = nil
	if _, err := Container(in); err == nil || err.Error() != `env TOKEN: there is no Secret "keys"` {
		t.Errorf("got %v", err)
	}
}

func TestExpand(t *testing.T) {
	values := map[string]string{"A": "1", "B": "$(A)"}
	for in, want := range map[string]string{
		"$(A)": "1", "$(B)": "$(A)", "$$(A)": "$(A)", "$$$(A)": "$1", "$(C)": "$(C)", "$A": "$A", "$(A": "$(A", "a$": "a$", "": "", "x$(A)y$(A)": "x1y1", "$$": "$",
	} {
		if got := Expand(in, values); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func FuzzExpand(f *testing.F) {
	f.Add("$(A)$$(B")
	f.Fuzz(func(t *testing.T, s string) {
		if !strings.Contains(s, "$") && Expand(s, map[string]string{"A": "1"}) != s {
			t.Fatal("a string without $ was changed")
		}
		Expand(s, nil)
	})
}

func TestHosts(t *testing.T) {
	_, pod := fullPod(t)
	got := string(Hosts(pod, []string{"10.1.2.3"}, []byte("192.0.2.9 machine\n")))
	if !strings.Contains(got, "10.1.2.3\tweb\n") || !strings.Contains(got, "10.0.0.1\tdb.local\n") || strings.Contains(got, "machine") {
		t.Errorf("pod network:\n%s", got)
	}
	pod.Spec.HostNetwork = true
	if got := string(Hosts(pod, nil, []byte("192.0.2.9 machine\n"))); !strings.Contains(got, "192.0.2.9 machine\n") {
		t.Errorf("host network:\n%s", got)
	}
}

// The size of a pod is Kubernetes': init containers run beside the sidecars before them.
func TestSizeOfAPod(t *testing.T) {
	box := func(cpu, memory string, sidecar bool) v1.Container {
		c := v1.Container{Resources: v1.ResourceRequirements{Limits: v1.ResourceList{}}}
		if cpu != "" {
			c.Resources.Limits[v1.ResourceCPU] = resource.MustParse(cpu)
		}
		if memory != "" {
			c.Resources.Limits[v1.ResourceMemory] = resource.MustParse(memory)
		}
		if sidecar {
			always := v1.ContainerRestartPolicyAlways
			c.RestartPolicy = &always
		}
		return c
	}
	asks := box("2", "32Mi", false)
	asks.Resources.Requests = v1.ResourceList{v1.ResourceCPU: resource.MustParse("500m")}
	for name, x := range map[string]struct {
		init, apps            []v1.Container
		shares, quota, memory int64
	}{
		"nothing said":            {nil, []v1.Container{{}}, 2, 0, 0},
		"a sum":                   {nil, []v1.Container{box("100m", "32Mi", false), box("200m", "32Mi", false)}, 307, 30_000, 64 << 20},
		"one without memory":      {nil, []v1.Container{box("100m", "32Mi", false), box("200m", "", false)}, 307, 30_000, 0},
		"a request":               {nil, []v1.Container{asks}, 512, 200_000, 32 << 20},
		"a greedy init container": {[]v1.Container{box("1", "96Mi", false)}, []v1.Container{box("100m", "32Mi", false)}, 1024, 100_000, 96 << 20},
		"init beside a sidecar": {[]v1.Container{box("100m", "64Mi", true), box("100m", "64Mi", false), box("100m", "8Mi", true)},
			[]v1.Container{box("100m", "32Mi", false)}, 307, 30_000, 128 << 20},
	} {
		got := podResources(&v1.PodSpec{InitContainers: x.init, Containers: x.apps})
		if got.CpuShares != x.shares || got.CpuQuota != x.quota || got.MemoryLimitInBytes != x.memory {
			t.Errorf("%s: %v", name, got)
		}
	}
}
