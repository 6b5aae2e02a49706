package network

import (
	"context"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"github.com/11f9778f/berth/internal/network/nettest"
)

// healthy wants a check to find nothing.
func (h *host) healthy(id string) {
	h.Helper()
	if got, err := h.Check(context.Background(), id); len(got) > 0 || err != nil {
		h.Errorf("check of %s: %+v, %v", id, got, err)
	}
}

// finds wants a check to find one thing.
func (h *host) finds(id, what string) {
	h.Helper()
	got, err := h.Check(context.Background(), id)
	if err != nil || len(got) != 1 || !strings.Contains(got[0].What, what) {
		h.Errorf("check of %s: %+v, %v; want %q", id, got, err, what)
	}
}

// Check names what is wrong, and nothing else.
func TestCheckFindsWhatIsWrong(t *testing.T) {
	h := newHost(t, both)
	ctx := context.Background()
	a := h.pod("a", tcp(8080, 80))
	h.healthy("a")
	inside := h.Pins.Path("a")
	type trouble struct {
		want      string
		ns        string
		break_    []string
		mend      []string
		andBroken bool // mending needs more than one command
	}
	var legacy []trouble
	for _, command := range []string{"iptables-legacy", "ip6tables-legacy"} {
		if err := exec.Command(command, "-S", "FORWARD").Run(); err != nil { // no such program, or a kernel without it
			t.Logf("%s is not tested: %v", command, err)
			continue
		}
		t.Cleanup(func() { // the tests' namespace is one
			nettest.Command(t, "", command, "-P", "FORWARD", "ACCEPT")
			nettest.Command(t, "", command, "-F", "FORWARD")
		})
		legacy = append(legacy, trouble{"the chain FORWARD of " + command + ", drops what is forwarded, and has no rule for the bridge berth0", "",
			[]string{command, "-P", "FORWARD", "DROP"}, []string{command, "-I", "FORWARD", "-i", "berth+", "-j", "ACCEPT"}, false})
	}
	for _, c := range append(legacy, []trouble{
		{"eth0 is down", inside, []string{"ip", "link", "set", "eth0", "down"}, nil, true},
		{"the address 10.88.0.2/16 is missing on eth0", inside, []string{"ip", "addr", "del", "10.88.0.2/16", "dev", "eth0"}, nil, true},
		{"the default route by 10.88.0.1 is missing", inside, []string{"ip", "route", "del", "default"}, []string{"ip", "route", "add", "default", "via", "10.88.0.1"}, false},
		{"the default route by fd88:1::1 is missing", inside, []string{"ip", "-6", "route", "del", "default"}, []string{"ip", "-6", "route", "add", "default", "via", "fd88:1::1"}, false},
		{a.HostInterface + ", is down", "", []string{"ip", "link", "set", a.HostInterface, "down"}, []string{"ip", "link", "set", a.HostInterface, "up"}, false},
		{"is not in the bridge berth0", "", []string{"ip", "link", "set", a.HostInterface, "nomaster"}, []string{"ip", "link", "set", a.HostInterface, "master", "berth0"}, false},
		{"the bridge berth0 is down", "", []string{"ip", "link", "set", "berth0", "down"}, []string{"ip", "link", "set", "berth0", "up"}, true},
		{"the bridge berth0 has lost the address 10.88.0.1/16", "", []string{"ip", "addr", "del", "10.88.0.1/16", "dev", "berth0"}, []string{"ip", "addr", "add", "10.88.0.1/16", "dev", "berth0"}, false},
		{"ip filter FORWARD, drops what is forwarded, and has no rule for the bridge berth0", "", sh(foreignFirewall), sh("nft insert rule ip filter FORWARD iifname berth0 accept"), false},
		{"net.ipv4.ip_forward is 0", "", []string{"sysctl", "-qw", "net.ipv4.ip_forward=0"}, []string{"sysctl", "-qw", "net.ipv4.ip_forward=1"}, false},
		{"the chain postrouting of table berth has 0 of its 5 rules", "", []string{"nft", "flush", "chain", "inet", "berth", "postrouting"}, nil, true},
		{"the host port tcp *:8080 → 10.88.0.2:80 is missing", "", []string{"nft", "flush", "map", "inet", "berth", "ports4"}, nil, true},
		{"the table berth is missing", "", []string{"nft", "delete", "table", "inet", "berth"}, nil, true},
		{a.HostInterface + ", is gone", "", []string{"ip", "link", "del", a.HostInterface}, nil, true},
		{"the bridge berth0 is gone", "", []string{"ip", "link", "del", "berth0"}, nil, true},
	}...) {
		t.Run(c.want, func(t *testing.T) {
			nettest.Command(t, c.ns, c.break_...)
			got, err := h.Check(ctx, "a")
			if err != nil {
				t.Fatal(err)
			}
			found := false
			for _, p := range got {
				found = found || strings.Contains(p.What, c.want)
			}
			if !found || len(got) > 1 && !c.andBroken {
				t.Errorf("%+v", got)
			}
			if c.mend != nil {
				nettest.Command(t, c.ns, c.mend...)
				if strings.Contains(c.want, "bridge berth0 is down") { // which took the routes of IPv6 along
					nettest.Command(t, "", "ip", "-6", "addr", "replace", "fd88:1::1/64", "dev", "berth0", "nodad")
				}
				h.healthy("a")
				return
			}
			h.Stop("a") // a new pod is what mends the rest
			h.Close()
			h.open()
			h.wishAgain("a")
			h.healthy("a")
		})
	}
	nettest.Command(t, "", "nft", "delete", "table", "ip", "filter")
	h.Pins.Remove("a")
	got, err := h.Check(ctx, "a")
	if err != nil || len(got) == 0 || !strings.Contains(got[len(got)-1].What, "is gone") {
		t.Errorf("without a namespace: %+v, %v", got, err)
	}
	if _, err := h.Check(ctx, "nobody"); err == nil {
		t.Error("nobody is attached")
	}
}

// foreignFirewall is what Docker and others make.
const foreignFirewall = "nft add table ip filter; nft add chain ip filter FORWARD '{ type filter hook forward priority filter; policy drop; }'"

func sh(script string) []string { return []string{"sh", "-c", script} }

// A port that a process of the host took while no daemon ran is the pod's all the same; it is held when that process has gone.
func TestCheckFindsAPortThatIsNotHeld(t *testing.T) {
	h := newHost(t, nil)
	h.pod("a", tcp(8080, 80))
	h.Serve("a", "tcp", ":80", "a")
	h.Close()
	l, err := net.Listen("tcp", ":8080")
	if err != nil {
		t.Fatal(err)
	}
	h.open()
	h.finds("a", "host port tcp *:8080 is in use by a process of this host: choose another hostPort, or stop that process")
	h.Expect("", "tcp", "127.0.0.1:8080", "a saw 10.88.0.1")
	l.Close()
	h.healthy("a")
	if l, err := net.Listen("tcp", ":8080"); err == nil {
		l.Close()
		t.Error("the port is still free for all")
	}
}

func TestCheckFiles(t *testing.T) {
	ip := []netip.Addr{netip.MustParseAddr("10.88.0.2")}
	const hosts = "127.0.0.1\tlocalhost\n10.88.0.2\tweb\n"
	for _, c := range []struct{ resolvConf, hosts, want string }{
		{"nameserver 192.0.2.1\n", hosts, ""},
		{"nameserver 127.0.0.53\nnameserver 192.0.2.1\n", hosts, ""},
		{"search x\n", hosts, "names no name server"},
		{"nameserver 127.0.0.53\nnameserver ::1\n", hosts, "names 127.0.0.53, ::1 alone, which is the pod's own loopback"},
		{"nameserver dns.example\n", hosts, `names the server "dns.example", which is no address`},
		{"nameserver 192.0.2.1\n", "127.0.0.1 localhost\n10.88.0.22 web\n", "hosts file lacks its own address 10.88.0.2"},
	} {
		got := CheckFiles(c.resolvConf, c.hosts, ip)
		if c.want == "" && len(got) == 0 {
			continue
		}
		if len(got) != 1 || c.want == "" || !strings.Contains(got[0].What, c.want) || got[0].Remedy == "" {
			t.Errorf("%q: %+v, want %q", c.resolvConf, got, c.want)
		}
	}
}

// wishAgain starts the pod of the test above anew, with its address.
func (h *host) wishAgain(id string) {
	h.Helper()
	_, err := h.wish(id, func(r *Request) {
		r.PortMappings = []PortMapping{tcp(8080, 80)}
		r.IPs = []netip.Addr{netip.MustParseAddr("10.88.0.2")}
	})
	if err != nil {
		h.Fatal(err)
	}
}
