package test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

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
	m.must("run", "-d", file)
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
	m.must("rm", "hello")
	stopNode(m)
}
