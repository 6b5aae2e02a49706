package network

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"

	"github.com/11f9778f/berth/internal/network/book"
	"github.com/11f9778f/berth/internal/network/firewall"
	"github.com/11f9778f/berth/internal/network/nettest"
	"github.com/11f9778f/berth/internal/sys"
)

func tcp(host, pod uint16) PortMapping {
	return PortMapping{Protocol: "TCP", HostPort: host, ContainerPort: pod}
}

func TestHostPorts(t *testing.T) {
	for _, filter := range []string{"0", "1"} { // whether bridged packets pass the netfilter hooks
		t.Run("bridge-nf-call-iptables="+filter, func(t *testing.T) {
			h := newHost(t, both)
			for _, name := range []string{"iptables", "ip6tables"} {
				err := os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-"+name, []byte(filter), 0)
				if err != nil && filter == "1" {
					t.Skip("br_netfilter is not loaded:", err)
				}
			}
			testHostPorts(t, h)
		})
	}
}

func testHostPorts(t *testing.T, h *host) {
	h.World()
	udp := PortMapping{Protocol: "UDP", HostPort: 5353, ContainerPort: 53}
	web := h.pod("web", tcp(8080, 80), udp)
	other := h.pod("other")
	h.Serve("web", "tcp", ":80", "web")
	h.Serve("web", "udp", ":53", "web")

	h.Expect("outside", "tcp", hostOutside4+":8080", "web saw "+outside4)
	h.Expect("outside", "udp", hostOutside4+":5353", "web saw "+outside4)
	h.Expect("outside", "tcp", "["+hostOutside6+"]:8080", "web saw "+outside6)
	h.Expect("outside", "udp", "["+hostOutside6+"]:5353", "web saw "+outside6)

	gw4, gw6 := web.Gateways[0].String(), web.Gateways[1].String()
	h.Expect("", "tcp", "127.0.0.1:8080", "web saw "+gw4)
	h.Expect("", "udp", "127.0.0.1:5353", "web saw "+gw4)
	h.Expect("", "tcp", "127.9.9.9:8080", "web saw "+gw4)
	h.Expect("", "tcp", hostOutside4+":8080", "web saw "+hostOutside4)
	h.Expect("", "tcp", "["+hostOutside6+"]:8080", "web saw "+hostOutside6)
	h.Expect("", "tcp", gw4+":8080", "web saw "+gw4)

	for _, from := range []string{"web", "other"} { // hairpin, and a neighbour
		h.Expect(from, "tcp", hostOutside4+":8080", "web saw "+gw4)
		h.Expect(from, "udp", hostOutside4+":5353", "web saw "+gw4)
		h.Expect(from, "tcp", gw4+":8080", "web saw "+gw4)
		h.Expect(from, "tcp", "["+hostOutside6+"]:8080", "web saw "+gw6)
	}
	h.Expect("other", "tcp", net.JoinHostPort(web.IPs[0].String(), "80"), "web saw "+other.IPs[0].String())
	h.Refuse("outside", "tcp", hostOutside4+":8081")

	h.Stop("web")
	h.Refuse("outside", "tcp", hostOutside4+":8080")
	h.Refuse("", "tcp", "127.0.0.1:8080")

	// The next one gets the port, also for clients that never stopped sending.
	h.pod("next", tcp(8080, 80), udp)
	h.Serve("next", "tcp", ":80", "next")
	h.Serve("next", "udp", ":53", "next")
	h.Expect("outside", "tcp", hostOutside4+":8080", "next saw "+outside4)
	h.Expect("outside", "udp", hostOutside4+":5353", "next saw "+outside4)
}

// The kernel can't bring answers back to ::1: the daemon relays, and so does the next one.
func TestHostPortOnIPv6Loopback(t *testing.T) {
	for name, subnets := range map[string][]netip.Prefix{"both families": {subnet4, subnet6}, "IPv6 alone": {subnet6}} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, func(c *Config) { c.Subnets = subnets })
			h.World()
			udp := PortMapping{Protocol: "UDP", HostPort: 5353, ContainerPort: 53}
			local := tcp(8081, 80)
			local.HostIP = netip.IPv6Loopback()
			h.pod("web", tcp(8080, 80), udp, local)
			h.Serve("web", "tcp", ":80", "web")
			h.Serve("web", "udp", ":53", "web")
			for range 2 {
				for _, port := range []string{"8080", "8081"} {
					h.Expect("", "tcp", "[::1]:"+port, "web saw fd88:1::1")
				}
				h.Expect("", "udp", "[::1]:5353", "web saw fd88:1::1")
				h.Expect("outside", "tcp", "["+hostOutside6+"]:8080", "web saw "+outside6)
				h.Refuse("outside", "tcp", "["+hostOutside6+"]:8081")
				h.Close()
				h.Refuse("", "tcp", "[::1]:8080")
				h.open()
			}
			h.healthy("web")
			nettest.Command(t, "", "nft", "delete", "table", "inet", "berth")
			h.Refuse("", "tcp", "["+hostOutside6+"]:8080") // the relay is for loopback alone
			h.Stop("web")
			if _, err := h.Ask("", "tcp", "[::1]:8080"); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("without the pod: %v, want a refusal", err)
			}
		})
	}
}

func TestHostPortOnOneAddress(t *testing.T) {
	h := newHost(t, nil)
	h.World()
	local := tcp(8080, 80)
	local.HostIP = netip.MustParseAddr("127.0.0.1")
	public := tcp(8080, 80)
	public.HostIP = netip.MustParseAddr(hostOutside4)
	h.pod("local", local)
	h.pod("public", public) // the same port on another address is another port
	h.Serve("local", "tcp", ":80", "local")
	h.Serve("public", "tcp", ":80", "public")
	h.Expect("", "tcp", "127.0.0.1:8080", "local saw 10.88.0.1")
	h.Expect("outside", "tcp", hostOutside4+":8080", "public saw "+outside4)
	if _, err := h.start("all", tcp(8080, 80)); !errors.Is(err, book.ErrTaken) {
		t.Errorf("the same port on all addresses: %v", err)
	}
}

// CVE-2020-8558: route_localnet must not open the host's loopback to pods.
func TestPodsDoNotReachTheHostsLoopback(t *testing.T) {
	h := newHost(t, nil)
	r := h.pod("evil", tcp(8080, 80))
	h.Serve("", "tcp", "127.0.0.1:7000", "HOST SERVICE")
	h.In("evil", func() error {
		// A route for 127.0.0.0/8 by the gateway, as a pod with NET_ADMIN can make it.
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		if err := os.WriteFile("/proc/sys/net/ipv4/conf/eth0/route_localnet", []byte("1"), 0); err != nil {
			return err
		}
		if err := netlink.LinkSetDown(lo); err != nil {
			return err
		}
		_, dst, _ := net.ParseCIDR("127.0.0.0/8")
		return netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: dst, Gw: net.IP(r.Gateways[0].AsSlice())})
	})
	h.Refuse("evil", "tcp", "127.0.0.1:7000")
	h.Expect("", "tcp", "127.0.0.1:7000", "HOST SERVICE saw 127.0.0.1")
}

func TestPortTaken(t *testing.T) {
	h := newHost(t, nil)
	h.pod("first", tcp(8080, 80))
	fails := func(id string, want error, words string, ports ...PortMapping) {
		t.Helper()
		_, err := h.start(id, ports...)
		if !errors.Is(err, want) || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: %v; want %v with %q", id, err, want, words)
		}
		for _, it := range h.items(id) {
			if it.Kind != KindNetNS {
				t.Errorf("%s failed and left %v", id, it)
			}
		}
	}
	fails("second", book.ErrTaken, "host port tcp *:8080 belongs to pod default/first (sandbox first): choose another", tcp(8080, 80))
	fails("twice", book.ErrInvalid, "asked for twice", tcp(9090, 80), tcp(9090, 81))

	l, err := net.Listen("tcp", "127.0.0.1:9091")
	if err != nil {
		t.Fatal(err)
	}
	fails("busy", sys.ErrPortInUse, "host port tcp *:9091 is in use by a process of this host: choose another", tcp(9090, 80), tcp(9091, 80))
	l.Close()
	h.pod("busy", tcp(9090, 80), tcp(9091, 80)) // nothing is held by the attempt that failed

	if l, err := net.Listen("tcp", "127.0.0.1:9090"); err == nil {
		l.Close()
		t.Error("a process could take a pod's host port")
	}
	nobody := tcp(9092, 80)
	nobody.HostIP = netip.MustParseAddr("203.0.113.7")
	fails("nobody", book.ErrInvalid, "is not an address of this host", nobody)
	six := tcp(9093, 80)
	six.HostIP = netip.MustParseAddr("::1")
	fails("six", book.ErrInvalid, "pods have no address of that family", six)
	six.Protocol = "SCTP"
	fails("six", book.ErrInvalid, "use hostIP 127.0.0.1", six)
	six.Protocol = ""
	six.HostIP = netip.MustParseAddr("2001:db8::1")
	fails("six", book.ErrInvalid, "pods have no address of that family", six)
	fails("protocol", book.ErrInvalid, "want TCP, UDP or SCTP", PortMapping{Protocol: "ICMP", HostPort: 1, ContainerPort: 1})
}

func TestManyPortsInOnePod(t *testing.T) {
	h := newHost(t, nil)
	var ports []PortMapping
	for i := range 600 { // more than one message takes
		ports = append(ports, tcp(uint16(10000+i), uint16(1000+i)))
	}
	h.pod("many", ports...)
	h.Serve("many", "tcp", ":1599", "many")
	h.Expect("", "tcp", "127.0.0.1:10599", "many saw 10.88.0.1")
	if n := len(h.items("many")); n != 603 {
		t.Errorf("%d items", n)
	}
	h.Stop("many")
	if open, err := h.table.List(); len(open) > 0 || err != nil {
		t.Errorf("left in the table: %v, %v", open, err)
	}
}

func TestFlushedRulesetIsMadeAgain(t *testing.T) {
	h := newHost(t, nil)
	h.pod("before", tcp(8080, 80))
	c, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	c.FlushRuleset()
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	if got := h.items("before"); got[len(got)-1].Note != "in the book, but not in the table" {
		t.Errorf("inventory does not tell of the lost port: %v", got)
	}
	h.pod("after", tcp(8081, 80))
	for _, id := range []string{"before", "after"} {
		h.Serve(id, "tcp", ":80", id)
	}
	h.Expect("", "tcp", "127.0.0.1:8080", "before saw 10.88.0.1")
	h.Expect("", "tcp", "127.0.0.1:8081", "after saw 10.88.0.1")
}

// A kernel without nftables: pods that need no host port start.
func TestWithoutNFTables(t *testing.T) {
	h := newHost(t, nil)
	h.pod("first")
	h.bridge.noNAT = firewall.ErrNotSupported
	h.pod("plain")
	_, err := h.start("ports", tcp(8080, 80))
	if !errors.Is(err, firewall.ErrNotSupported) || !strings.Contains(err.Error(), "run the pod without host ports") {
		t.Errorf("got %v", err)
	}
	if err := h.Detach(context.Background(), "plain"); err != nil {
		t.Error(err)
	}
}

func TestWarnsOfAFirewallThatDrops(t *testing.T) {
	c, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	h := newHost(t, func(c *Config) { c.Logger = slog.New(slog.NewTextHandler(&said, nil)) })
	drop := nftables.ChainPolicyDrop
	docker := c.AddTable(&nftables.Table{Name: "filter", Family: nftables.TableFamilyIPv4})
	c.AddChain(&nftables.Chain{
		Table: docker, Name: "FORWARD", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward,
		Priority: nftables.ChainPriorityFilter, Policy: &drop,
	})
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	h.pod("a")
	c.DelTable(docker)
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(said.String(), "ip filter FORWARD") {
		t.Errorf("said %q", said.String())
	}
}

// What others have in nftables stays as it was, whatever Berth does to its own table.
func TestForeignTablesAreLeftAlone(t *testing.T) {
	h := newHost(t, both)
	list := func() string {
		t.Helper()
		out, err := exec.Command("nft", "-s", "list", "ruleset").CombinedOutput()
		if err != nil {
			t.Skip("nft:", err)
		}
		return string(out)
	}
	nettest.Command(t, "", "sh", "-c", `nft -f - <<'EOF'
table ip nat {
	map ports { type inet_service : ipv4_addr; elements = { 8080 : 192.0.2.9 }; };
	chain PREROUTING { type nat hook prerouting priority dstnat; policy accept; ip daddr 203.0.113.1 dnat to tcp dport map @ports; };
}
table inet berth_like {
	chain forward { type filter hook forward priority filter; policy accept; iifname "berth0" counter accept; };
}
EOF`)
	defer nettest.Command(t, "", "nft", "flush", "ruleset")
	before := list()
	ctx := context.Background()
	h.pod("a", tcp(8080, 80), sctpPort)
	if err := h.SetSubnets(ctx, []netip.Prefix{netip.MustParsePrefix("10.123.0.0/24")}); err != nil {
		t.Fatal(err)
	}
	h.pod("b", tcp(8081, 80))
	h.Close()
	h.open()
	if with := list(); !strings.Contains(with, "table inet berth {") || !strings.HasPrefix(with, before) {
		t.Errorf("beside Berth's table:\n%s\nbefore:\n%s", with, before)
	}
	h.Stop("a")
	if _, err := h.Repair(ctx, func(string) bool { return false }); err != nil {
		t.Error(err)
	}
	h.Close()
	h.open()
	if after := list(); after != before {
		t.Errorf("after:\n%s\nbefore:\n%s", after, before)
	}
}
