package cni

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/11f9778f/berth/internal/network"
	"github.com/11f9778f/berth/internal/network/nettest"
)

// The project's own plugins, which make cni builds.
const realPlugins = "../../../.cache/cni"

// newRealNode is a node with the real plugins and one configuration, in which %s is a folder for addresses.
func newRealNode(t *testing.T, conf string, programs ...string) *node {
	t.Helper()
	nettest.NeedRoot(t)
	bin, err := filepath.Abs(realPlugins)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(bin, "bridge")); err != nil {
		t.Skip("the CNI plugins are not built (make cni):", err)
	}
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Skip("a plugin of this test calls a program that is not installed:", err)
		}
	}
	n := newNode(t)
	n.Close()
	n.cfg.BinDirs = []string{bin}
	os.Remove(filepath.Join(n.cfg.ConfDir, "10.conflist"))
	n.conf("10.conflist", fmt.Sprintf(conf, n.addresses()))
	n.open()
	return n
}

// addresses is the folder of host-local.
func (n *node) addresses() string { return filepath.Join(n.folder, "addresses") }

// given lists the addresses that host-local has given away.
func (n *node) given() []string {
	n.Helper()
	files, err := filepath.Glob(filepath.Join(n.addresses(), "*", "[0-9a-f]*.*"))
	more, err6 := filepath.Glob(filepath.Join(n.addresses(), "*", "*::*"))
	if err != nil || err6 != nil {
		n.Fatal(err, err6)
	}
	return append(files, more...)
}

// whole is the chain that the field runs with, for IPv4 and IPv6.
const whole = `{"cniVersion":"1.1.0","name":"whole","plugins":[
	{"type":"bridge","bridge":"cni0","isGateway":true,"ipMasq":true,"ipMasqBackend":"nftables","hairpinMode":true,"capabilities":{"ips":true},"ipam":{"type":"host-local","dataDir":%q,
		"ranges":[[{"subnet":"10.77.0.0/24"}],[{"subnet":"fd77::/64"}]],"routes":[{"dst":"0.0.0.0/0"},{"dst":"::/0"}]}},
	{"type":"loopback"},
	{"type":"portmap","snat":true,"backend":"nftables","capabilities":{"portMappings":true}},
	{"type":"bandwidth","capabilities":{"bandwidth":true}},
	{"type":"firewall","backend":"iptables"}]}`

func allowForwarding(t *testing.T) {
	t.Helper()
	for _, name := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
		if err := os.WriteFile("/proc/sys/net/"+name, []byte("1"), 0); err != nil {
			t.Fatal(err)
		}
	}
}

// What the CNI project expects of bridge and portmap: reachability, source addresses, hairpin.
func TestRealChain(t *testing.T) {
	n := newRealNode(t, whole, "nft", "iptables")
	allowForwarding(t)
	ctx := context.Background()
	n.World()
	web, err := n.start("web", func(r *network.Request) {
		r.PortMappings = []network.PortMapping{{Protocol: "TCP", HostPort: 8080, ContainerPort: 80}, {Protocol: "UDP", HostPort: 5353, ContainerPort: 53}}
		r.Bandwidth = network.Bandwidth{Ingress: 100e6, Egress: 50e6}
		r.IPs = []netip.Addr{netip.MustParseAddr("10.77.0.77")}
	})
	if err != nil {
		t.Fatal(err)
	}
	other := n.pod("other")
	if len(web.IPs) != 2 || web.IPs[0].String() != "10.77.0.77" || !web.IPs[1].Is6() || len(web.MAC) != 6 {
		t.Fatalf("result: %+v", web)
	}
	n.Serve("web", "tcp", ":80", "web")
	n.Serve("web", "udp", ":53", "web")
	n.Serve("outside", "tcp", ":80", "outside")
	for i, ip := range web.IPs {
		n.Expect("other", "tcp", "["+ip.String()+"]:80", "web saw "+other.IPs[i].String())
	}
	n.Expect("web", "tcp", nettest.Outside4+":80", "outside saw "+nettest.HostOutside4)
	n.Expect("outside", "tcp", nettest.HostOutside4+":8080", "web saw "+nettest.Outside4)
	n.Expect("outside", "udp", nettest.HostOutside4+":5353", "web saw "+nettest.Outside4)
	n.Expect("outside", "tcp", "["+nettest.HostOutside6+"]:8080", "web saw "+nettest.Outside6)
	n.Expect("", "tcp", "127.0.0.1:8080", "web saw 10.77.0.1")
	n.Expect("web", "tcp", nettest.HostOutside4+":8080", "web saw 10.77.0.1") // hairpin
	n.Expect("web", "tcp", "127.0.0.1:80", "web saw 127.0.0.1")               // lo is up

	if got, err := n.Check(ctx, "web"); len(got) > 0 || err != nil {
		t.Errorf("check: %+v, %v", got, err)
	}
	if err := n.Ready(ctx); err != nil {
		t.Error(err)
	}
	if tbf := shaped(t); tbf != 2 {
		t.Errorf("%d links are shaped, want the pod's and the one of what it sends", tbf)
	}
	if err := nettest.In(n.Pins.Path("other"), func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return netlink.LinkDel(l)
	}); err != nil {
		t.Fatal(err)
	}
	if got, err := n.Check(ctx, "other"); len(got) != 2 || err != nil || !strings.Contains(got[1].What, "bridge CHECK") {
		t.Errorf("check without a link: %+v, %v", got, err)
	}
	n.Stop("web")
	n.Stop("other")
	if given := n.given(); len(given) > 0 {
		t.Errorf("addresses are still given: %v", given)
	}
	n.Refuse("outside", "tcp", nettest.HostOutside4+":8080")
	n.RemoveNetNS(ctx, "outside")
}

// shaped counts the links of the host that have a token bucket.
func shaped(t *testing.T) (n int) {
	t.Helper()
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		qdiscs, err := netlink.QdiscList(l)
		if err != nil {
			t.Fatal(err)
		}
		for _, q := range qdiscs {
			if q.Type() == "tbf" {
				n++
			}
		}
	}
	return n
}

func TestRealPointToPoint(t *testing.T) {
	n := newRealNode(t, `{"cniVersion":"1.0.0","name":"ptp","plugins":[{"type":"ptp","ipam":{"type":"host-local","dataDir":%q,
		"subnet":"10.76.0.0/24","routes":[{"dst":"0.0.0.0/0"}]}}]}`)
	allowForwarding(t)
	a, b := n.pod("a"), n.pod("b")
	n.Serve("a", "tcp", ":80", "a")
	n.Expect("b", "tcp", a.IPs[0].String()+":80", "a saw "+b.IPs[0].String())
	n.Stop("a")
	n.Stop("b")
	if given := n.given(); len(given) > 0 {
		t.Errorf("addresses are still given: %v", given)
	}
}

func TestRealMacvlan(t *testing.T) {
	n := newRealNode(t, `{"cniVersion":"1.0.0","name":"mac","plugins":[{"type":"macvlan","master":"under","mode":"bridge",
		"ipam":{"type":"host-local","dataDir":%q,"subnet":"10.75.0.0/24"}}]}`)
	under := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "under", Flags: 1}, PeerName: "under-peer"}
	if err := netlink.LinkAdd(under); err != nil {
		t.Fatal(err)
	}
	defer netlink.LinkDel(under)
	for _, name := range []string{"under", "under-peer"} {
		l, err := netlink.LinkByName(name)
		if err == nil {
			err = netlink.LinkSetUp(l)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	a, b := n.pod("a"), n.pod("b")
	n.Serve("a", "tcp", ":80", "a")
	n.Expect("b", "tcp", a.IPs[0].String()+":80", "a saw "+b.IPs[0].String())
	n.Stop("a")
	n.Stop("b")
	if given := n.given(); len(given) > 0 {
		t.Errorf("addresses are still given: %v", given)
	}
}

// A sandbox whose namespace has gone, or whose record can not be read, is detached all the same.
func TestRealDelOfWhatIsLost(t *testing.T) {
	n := newRealNode(t, `{"cniVersion":"1.1.0","name":"lost","plugins":[{"type":"bridge","bridge":"cni1","ipam":{"type":"host-local","dataDir":%q,"subnet":"10.74.0.0/24"}}]}`)
	ctx := context.Background()
	n.pod("damaged")
	n.pod("kept")
	n.pod("cut")
	if err := n.RemoveNetNS(ctx, "cut"); err != nil {
		t.Fatal(err)
	}
	n.Stop("cut")
	if err := os.WriteFile(n.records.record("damaged"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	removed, err := n.Repair(ctx, func(id string) bool { return id == "kept" })
	if err != nil || len(removed) != 2 || removed[1].Kind != network.KindRecord {
		t.Errorf("repair: %v, %v", removed, err)
	}
	if given := n.given(); len(given) != 1 {
		t.Errorf("addresses that are given: %v", given)
	}
	n.Stop("kept")
	if given := n.given(); len(given) > 0 {
		t.Errorf("addresses are still given: %v", given)
	}
}
