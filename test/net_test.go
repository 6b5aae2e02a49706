package test

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/11f9778f/berth/internal/node"
)

// berth net says what a pod has, finds that it is good, and finds what is not.
func TestNetVerbs(t *testing.T) {
	m := newMachine(t)
	if out := m.must("net", "ls", "-o", "json").stdout; strings.TrimSpace(out) != "[]" {
		t.Errorf("without a node: %s", out)
	}
	if r := m.berth("net", "check"); r.code == 0 || !strings.Contains(r.stderr, "no node is running") {
		t.Errorf("without a node: %d %s", r.code, r.stderr)
	}
	file, _ := hello(t, m)
	manifest, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	dns := strings.Replace(string(manifest), "\nspec:\n", "\nspec:\n  dnsPolicy: None\n  dnsConfig: {nameservers: [192.0.2.53]}\n", 1)
	m.must("run", "-d", m.file("dns.yaml", dns)) // whatever the machine's own resolv.conf says
	var pods []node.PodNetwork
	m.eventually("the pod is attached", func() bool {
		pods = nil
		r := m.berth("net", "ls", "-o", "json")
		return r.code == 0 && json.Unmarshal([]byte(r.stdout), &pods) == nil && len(pods) == 1 && pods[0].State == "attached"
	})
	m.eventually("the pod is ready", func() bool { return m.pod("hello").Status.Phase == "Running" })
	if len(pods) != 1 || pods[0].Pod != "default/hello" || len(pods[0].Addresses) != 1 || len(pods[0].Ports) != 1 || pods[0].State != "attached" {
		t.Fatalf("%+v", pods)
	}
	p := pods[0]
	for _, args := range [][]string{{"net", "ls"}, {"net", "ls", "-o", "wide"}} {
		out := m.must(args...).stdout
		for _, want := range []string{"hello", p.Addresses[0].String(), p.HostInterface, p.Network, p.Ports[0]} {
			if !strings.Contains(out, want) {
				t.Errorf("%v lacks %q:\n%s", args, want, out)
			}
		}
	}
	if out := m.must("net", "check", "hello").stdout; out != "hello: good\n" {
		t.Errorf("check: %q", out)
	}
	if r := m.berth("net", "check", "nobody"); r.code == 0 || !strings.Contains(r.stderr, "no pod default/nobody") {
		t.Errorf("check of nobody: %d %s", r.code, r.stderr)
	}
	if out := m.must("__complete", "net", "check", "").stdout; !strings.HasPrefix(out, "hello\n") {
		t.Errorf("completion: %q", out)
	}
	link, err := netlink.LinkByName(p.HostInterface)
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetDown(link); err != nil {
		t.Fatal(err)
	}
	want := "hello: the host's end of the pod's link, " + p.HostInterface + ", is down\n    → ip link set " + p.HostInterface + " up\n"
	if r := m.berth("net", "check"); r.code != 1 || r.stdout != want {
		t.Errorf("check of a broken one: %d %q, want %q", r.code, r.stdout, want)
	}
	var checks []node.PodNetworkCheck
	if r := m.berth("net", "check", "-o", "json"); r.code != 1 || json.Unmarshal([]byte(r.stdout), &checks) != nil || len(checks) != 1 || len(checks[0].Problems) != 1 {
		t.Errorf("check -o json: %d %s", r.code, r.stdout)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		t.Fatal(err)
	}
	resolvConf := filepath.Join(m.run, "runtime", "pods", p.SandboxID, "resolv.conf")
	if err := os.WriteFile(resolvConf, []byte("nameserver 127.0.0.53\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if r := m.berth("net", "check", "hello"); r.code != 1 || !strings.Contains(r.stdout, "hello: the pod's resolv.conf names 127.0.0.53 alone") || strings.Count(r.stdout, "\n") != 2 {
		t.Errorf("check with a resolv.conf for nobody: %d %q", r.code, r.stdout)
	}
	m.must("rm", "hello")
	stopNode(m)
}

// wants asks for a pod with wishes for the network, and wants an answer of this kind, with these words.
func (c criClient) wants(name string, change func(*cri.PodSandboxConfig), code codes.Code, words string) (pod string, ip netip.Addr) {
	c.t.Helper()
	config := podOf(name, 0)
	change(config)
	sb, err := c.RunPodSandbox(c.ctx, &cri.RunPodSandboxRequest{Config: config})
	if status.Code(err) != code || err != nil && !strings.Contains(err.Error(), words) {
		c.t.Errorf("pod %s: %v, want %s with %q", name, err, code, words)
	}
	if err != nil {
		return "", ip
	}
	st, err := c.PodSandboxStatus(c.ctx, &cri.PodSandboxStatusRequest{PodSandboxId: sb.PodSandboxId})
	if err != nil {
		c.t.Fatal(err)
	}
	ip, err = netip.ParseAddr(st.Status.GetNetwork().GetIp())
	if err != nil {
		c.t.Errorf("pod %s: %v", name, err)
	}
	return sb.PodSandboxId, ip
}

// What a pod can't get of the network it is told in the right code, with who has it; and the pods' addresses can be
// changed under pods that run, for the pods to come, across the daemon's death.
func TestWhatTheNetworkRefuses(t *testing.T) {
	m := newMachine(t)
	d := m.criDaemon(nil)
	c := dialCRI(t, m.criSocket())
	none := func(*cri.PodSandboxConfig) {}
	port := func(n int) func(*cri.PodSandboxConfig) {
		return func(c *cri.PodSandboxConfig) {
			c.PortMappings = []*cri.PortMapping{{HostPort: int32(n), ContainerPort: 80}}
		}
	}
	address := func(a string) func(*cri.PodSandboxConfig) {
		return func(c *cri.PodSandboxConfig) { c.Annotations = map[string]string{"io.berth.pod.ips": a} }
	}
	free := freePort(t)
	first, ip := c.wants("first", port(free), codes.OK, "")
	c.wants("second", port(free), codes.AlreadyExists, "belongs to pod default/first (sandbox "+first+"): choose another hostPort")
	c.wants("second", address(ip.String()), codes.AlreadyExists, "address "+ip.String()+" belongs to pod default/first")
	c.wants("second", address("192.0.2.1"), codes.InvalidArgument, "192.0.2.1 is none of the pods' addresses")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c.wants("second", port(l.Addr().(*net.TCPAddr).Port), codes.AlreadyExists, "in use by a process of this host")

	// 192.168.251.8/29 has five addresses for pods.
	if _, err := c.UpdateRuntimeConfig(c.ctx, &cri.UpdateRuntimeConfigRequest{
		RuntimeConfig: &cri.RuntimeConfig{NetworkConfig: &cri.NetworkConfig{PodCidr: "192.168.251.8/29"}},
	}); err != nil {
		t.Fatal(err)
	}
	cidr := netip.MustParsePrefix("192.168.251.8/29")
	pods := []string{first}
	for i := range 5 {
		if i == 2 { // the next daemon remembers
			d.signal(syscall.SIGKILL)
			d.wait()
			d = m.criDaemon(nil)
			c = dialCRI(t, m.criSocket())
		}
		pod, ip := c.wants(fmt.Sprint("pod-", i), none, codes.OK, "")
		if !cidr.Contains(ip) {
			t.Errorf("pod %d has %s, want one of %s", i, ip, cidr)
		}
		pods = append(pods, pod)
	}
	c.wants("more", none, codes.ResourceExhausted, "all of 192.168.251.8/29 are in use")
	if r := m.berth("net", "check"); r.code != 0 || strings.Count(r.stdout, ": good") != len(pods) {
		t.Errorf("check: %d\n%s", r.code, r.stdout)
	}
	for _, pod := range pods {
		c.removePod(pod)
	}
	m.clean()
	d.signal(syscall.SIGTERM)
	if r := d.wait(); r.code != 0 {
		t.Errorf("exit code %d\n%s", r.code, r.stderr)
	}
}
