package test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/11f9778f/berth/internal/node"
)

// cniMachine is a machine whose node is configured for CNI, with the project's own plugins.
func cniMachine(t *testing.T) (m *machine, conf, addresses string) {
	t.Helper()
	bin, err := filepath.Abs("../.cache/cni")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(bin, "bridge")); err != nil {
		t.Skip("needs the CNI plugins, which make cni builds")
	}
	m = newMachine(t)
	m.file("config.toml", fmt.Sprintf("[network]\ndriver = \"cni\"\n[network.cni]\nconf_dir = %q\nbin_dirs = [%q]\n", filepath.Join(m.dir, "net.d"), bin))
	bridge := "c" + node.NamesFor(m.run).Bridge[6:]
	t.Cleanup(func() { // plugins leave it, as always
		if l, err := netlink.LinkByName(bridge); err == nil {
			netlink.LinkDel(l)
		}
	})
	addresses = filepath.Join(m.dir, "addresses")
	return m, fmt.Sprintf(`{"cniVersion":"1.1.0","name":"pods","plugins":[{"type":"bridge","bridge":%q,"isGateway":true,
		"ipam":{"type":"host-local","dataDir":%q,"subnet":"10.233.7.0/24","routes":[{"dst":"0.0.0.0/0"}]}}]}`, bridge, addresses), addresses
}

// given lists the addresses that host-local has given away.
func given(t *testing.T, addresses string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(addresses, "pods", "10.*"))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// A node on CNI says that its network is not ready until there is one, attaches pods by it, and gives their
// addresses back, whatever died in between.
func TestCNI(t *testing.T) {
	m, conf, addresses := cniMachine(t)
	config := filepath.Join(m.dir, "config.toml")
	d := m.begin("--config", config, "cri")
	d.says("node is up")
	c := dialCRI(t, m.criSocket())
	if got := networkReady(c); got.Status || got.Reason != "NetworkPluginNotReady" || !strings.Contains(got.Message, "net.d") {
		t.Errorf("without a configuration: %v", got)
	}
	if _, err := c.RunPodSandbox(c.ctx, &cri.RunPodSandboxRequest{Config: &cri.PodSandboxConfig{
		Metadata: &cri.PodSandboxMetadata{Name: "early", Uid: "early", Namespace: "default"},
	}}); err == nil || !strings.Contains(err.Error(), "no CNI network is configured") {
		t.Error("a pod without a network:", err)
	}
	if err := os.Mkdir(filepath.Join(m.dir, "net.d"), 0o755); err != nil {
		t.Fatal(err)
	}
	m.file("net.d/10.conflist", conf)
	if got := networkReady(c); !got.Status {
		t.Errorf("with a configuration: %v", got)
	}
	pod, _ := c.runPod("web", "demo", "show", "--wait", "1h")
	st, err := c.PodSandboxStatus(c.ctx, &cri.PodSandboxStatusRequest{PodSandboxId: pod})
	if err != nil || !strings.HasPrefix(st.Status.GetNetwork().GetIp(), "10.233.7.") || len(given(t, addresses)) != 1 {
		t.Errorf("%v, %v; given: %v", st.GetStatus().GetNetwork(), err, given(t, addresses))
	}
	d.signal(syscall.SIGKILL)
	d.wait()
	if r := m.begin("cri").wait(); r.code == 0 || !strings.Contains(r.stderr, "configure that one until they are gone") {
		t.Errorf("the bridge beside pods of CNI: exit code %d\n%s", r.code, r.stderr)
	}
	d = m.begin("--config", config, "cri")
	d.says("node is up")
	c = dialCRI(t, m.criSocket())
	c.removePod(pod)
	if left := given(t, addresses); len(left) > 0 {
		t.Errorf("addresses are still given: %v", left)
	}
	m.clean()
	d.signal(syscall.SIGTERM)
	if r := d.wait(); r.code != 0 {
		t.Errorf("exit code %d\n%s", r.code, r.stderr)
	}
}

func networkReady(c criClient) *cri.RuntimeCondition {
	c.t.Helper()
	st, err := c.Status(c.ctx, &cri.StatusRequest{})
	if err != nil {
		c.t.Fatal(err)
	}
	for _, cond := range st.Status.Conditions {
		if cond.Type == cri.NetworkReady {
			return cond
		}
	}
	c.t.Fatal("there is no condition NetworkReady")
	return nil
}
