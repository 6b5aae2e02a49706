package cni

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/11f9778f/berth/internal/network"
	"github.com/11f9778f/berth/internal/network/nettest"
)

func TestWhatPluginsAreTold(t *testing.T) {
	n := newNode(t)
	n.settled()
	if err := n.SetSubnets(context.Background(), []netip.Prefix{netip.MustParsePrefix("10.7.0.0/24")}); err != nil {
		t.Fatal(err)
	}
	r, err := n.start("a", func(r *network.Request) {
		r.PortMappings = []network.PortMapping{{Protocol: "UDP", HostPort: 53, ContainerPort: 5353, HostIP: netip.MustParseAddr("127.0.0.1")}, {ContainerPort: 9}}
		r.Bandwidth = network.Bandwidth{Ingress: 1e9}
		r.IPs = []netip.Addr{netip.MustParseAddr("10.7.0.9")}
		r.DNS = &network.DNS{Servers: []string{"10.0.0.10"}, Searches: []string{"svc"}, Options: []string{"ndots:5"}}
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(r.IPs, r.Addresses, r.Gateways, r.MAC); got != "[10.99.0.5 fd99::5] [10.99.0.5/24 fd99::5/64] [10.99.0.1 invalid IP] 0a:00:00:00:00:01" {
		t.Error("result:", got)
	}
	calls := n.calls()
	if len(calls) != 2 {
		t.Fatalf("calls: %+v", calls)
	}
	if got := calls[0].Args; got != "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=a;K8S_POD_UID=u-1" {
		t.Error("CNI_ARGS:", got)
	}
	for i, want := range []string{
		`{"bandwidth":{"ingressBurst":125000000,"ingressRate":1000000000},"ips":["10.7.0.9"],"portMappings":[{"containerPort":5353,"hostIP":"127.0.0.1","hostPort":53,"protocol":"udp"}]}`,
		`{"aliases":["web"],"dns":{"options":["ndots:5"],"searches":["svc"],"servers":["10.0.0.10"]},"ipRanges":[[{"subnet":"10.7.0.0/24"}]]}`,
	} {
		if got, _ := json.Marshal(calls[i].Conf["runtimeConfig"]); string(got) != want {
			t.Errorf("plugin %d was given\n%s, want\n%s", i, got, want)
		}
	}
	if calls[0].Conf["prevResult"] != nil || calls[1].Conf["prevResult"] == nil || calls[1].NetNS != n.Pins.Path("a") {
		t.Errorf("calls: %+v", calls)
	}
	n.Stop("a")
	calls = n.calls()
	if len(calls) != 2 || calls[0].Plugin != "second" || calls[1].Command != "DEL" || calls[0].Conf["prevResult"] == nil ||
		calls[1].Conf["runtimeConfig"] == nil || calls[1].NetNS != n.Pins.Path("a") {
		t.Errorf("at the end: %+v", calls)
	}
}

func TestAttachAndDetachAreIdempotent(t *testing.T) {
	n := newNode(t)
	n.settled()
	first := n.pod("a")
	n.expectCalls("fake ADD a", "second ADD a")
	n.Close()
	n.open()
	n.settled()
	if again := n.pod("a"); fmt.Sprint(again) != fmt.Sprint(first) {
		t.Errorf("first %v, then %v", first, again)
	}
	n.expectCalls()
	n.Stop("a")
	n.Stop("a")
	n.Stop("never-was")
	n.expectCalls("second DEL a", "fake DEL a")
}

// GC tells the plugins who lives.
func TestGC(t *testing.T) {
	n := newNode(t)
	n.pod("a")
	n.pod("b")
	n.Close()
	n.calls()
	n.open()
	nettest.Await(t, "GC", func() bool {
		b, _ := os.ReadFile(filepath.Join(n.folder, "log"))
		return strings.Count(string(b), "GC") >= 2
	})
	for _, c := range n.calls() {
		got, _ := json.Marshal(c.Conf["cni.dev/valid-attachments"])
		if c.Command != "GC" || string(got) != `[{"containerID":"a","ifname":"eth0"},{"containerID":"b","ifname":"eth0"}]` {
			t.Errorf("%s %s: %s", c.Plugin, c.Command, got)
		}
	}
}

func TestCheckTellsOfLies(t *testing.T) {
	n := newNode(t)
	n.pod("a") // of which the fake made nothing
	n.set("second", "CHECK", "fail")
	got, err := n.Check(context.Background(), "a")
	if err != nil || len(got) != 2 || !strings.Contains(got[0].What, "eth0 is missing") || !strings.Contains(got[1].What, "second CHECK: try later") {
		t.Errorf("%+v, %v", got, err)
	}
	n.Pins.Remove("a")
	if got, err := n.Check(context.Background(), "a"); err != nil || len(got) != 1 || !strings.Contains(got[0].What, "is gone") {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := n.Check(context.Background(), "nobody"); err == nil {
		t.Error("nobody is attached")
	}
}

func TestHostileNames(t *testing.T) {
	n := newNode(t)
	if _, err := n.start("a", func(r *network.Request) { r.PodName = "x;K8S_POD_NAMESPACE=kube-system" }); err == nil {
		t.Error("a pod's name became another argument")
	}
	n.settled()
	for _, id := range []string{"../a", "", "a/b", ".none"} {
		if err := n.Detach(context.Background(), id); err == nil {
			t.Errorf("id %q was taken", id)
		}
	}
	n.expectCalls()
}
