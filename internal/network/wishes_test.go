package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/11f9778f/berth/internal/network/book"
	"github.com/11f9778f/berth/internal/network/nettest"
	"github.com/11f9778f/berth/internal/network/rtnl"
	"github.com/11f9778f/berth/internal/sys"
)

// wish attaches a pod with wishes.
func (h *host) wish(id string, change func(*Request)) (*Result, error) {
	h.Helper()
	path, err := h.CreateNetNS(context.Background(), id, nil)
	if err != nil {
		h.Fatal(err)
	}
	r := Request{SandboxID: id, NetNS: path}
	change(&r)
	return h.Attach(context.Background(), r)
}

func TestStaticAddress(t *testing.T) {
	h := newHost(t, both)
	ips := []netip.Addr{netip.MustParseAddr("10.88.200.7"), netip.MustParseAddr("fd88:1::77")}
	for range 2 {
		r, err := h.wish("a", func(r *Request) { r.IPs = ips })
		if err != nil || fmt.Sprint(r.IPs) != fmt.Sprint(ips) {
			t.Fatalf("%+v, %v", r, err)
		}
	}
	b := h.pod("b")
	h.serve("a", "tcp", ":80", "a")
	h.expect("b", "tcp", "10.88.200.7:80", "a saw "+b.IPs[0].String())
	h.expect("b", "tcp", "[fd88:1::77]:80", "a saw "+b.IPs[1].String())
	if _, err := h.wish("c", func(r *Request) { r.IPs = ips[:1] }); !errors.Is(err, book.ErrAddress) || !strings.Contains(err.Error(), "belongs to sandbox a") {
		t.Error("a taken address:", err)
	}
}

func TestBandwidth(t *testing.T) {
	h := newHost(t, nil)
	want := Bandwidth{Ingress: 20e6, Egress: 1000}
	r, err := h.wish("a", func(r *Request) { r.Bandwidth = want })
	if err != nil {
		t.Fatal(err)
	}
	h.expectPing("a", r)
	ns, err := sys.OpenNetNS(h.path("a"))
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	in, err := rtnl.Shaped(nil, r.HostInterface)
	out, err2 := rtnl.Shaped(ns, "eth0")
	if in != want.Ingress || out != want.Egress || err != nil || err2 != nil {
		t.Errorf("%d to the pod, %d from it, %v, %v", in, out, err, err2)
	}
	if all, err := h.List(context.Background()); err != nil || len(all) != 1 || all[0].Bandwidth != want {
		t.Errorf("%+v, %v", all, err)
	}
	h.healthy("a")
	nettest.Command(t, "", "tc", "qdisc", "del", "dev", r.HostInterface, "root")
	h.finds("a", "is limited to 0 bits a second, and should be to 20000000")
	for _, rate := range []uint64{1000, 4000, 1e6, 100e9} { // whatever the kernel's clock can count
		if err := rtnl.Shape(ns, "eth0", rate, Burst(rate)); err != nil {
			t.Error(err)
		}
		if got, err := rtnl.Shaped(ns, "eth0"); got != rate || err != nil {
			t.Errorf("%d bits a second became %d, %v", rate, got, err)
		}
	}
}

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
	inside := h.path("a")
	for _, c := range []struct {
		want      string
		ns        string
		break_    []string
		mend      []string
		andBroken bool // mending needs more than one command
	}{
		{"eth0 is down", inside, []string{"ip", "link", "set", "eth0", "down"}, nil, true},
		{"the address 10.88.0.2/16 is missing on eth0", inside, []string{"ip", "addr", "del", "10.88.0.2/16", "dev", "eth0"}, nil, true},
		{"the default route by 10.88.0.1 is missing", inside, []string{"ip", "route", "del", "default"}, []string{"ip", "route", "add", "default", "via", "10.88.0.1"}, false},
		{"the default route by fd88:1::1 is missing", inside, []string{"ip", "-6", "route", "del", "default"}, []string{"ip", "-6", "route", "add", "default", "via", "fd88:1::1"}, false},
		{a.HostInterface + ", is down", "", []string{"ip", "link", "set", a.HostInterface, "down"}, []string{"ip", "link", "set", a.HostInterface, "up"}, false},
		{"is not in the bridge berth0", "", []string{"ip", "link", "set", a.HostInterface, "nomaster"}, []string{"ip", "link", "set", a.HostInterface, "master", "berth0"}, false},
		{"the bridge berth0 is down", "", []string{"ip", "link", "set", "berth0", "down"}, []string{"ip", "link", "set", "berth0", "up"}, true},
		{"the bridge berth0 has lost the address 10.88.0.1/16", "", []string{"ip", "addr", "del", "10.88.0.1/16", "dev", "berth0"}, []string{"ip", "addr", "add", "10.88.0.1/16", "dev", "berth0"}, false},
		{"net.ipv4.ip_forward is 0", "", []string{"sysctl", "-qw", "net.ipv4.ip_forward=0"}, []string{"sysctl", "-qw", "net.ipv4.ip_forward=1"}, false},
		{"the chain postrouting of table berth has 0 of its 5 rules", "", []string{"nft", "flush", "chain", "inet", "berth", "postrouting"}, nil, true},
		{"the host port tcp *:8080 → 10.88.0.2:80 is missing", "", []string{"nft", "flush", "map", "inet", "berth", "ports4"}, nil, true},
		{"the table berth is missing", "", []string{"nft", "delete", "table", "inet", "berth"}, nil, true},
		{a.HostInterface + ", is gone", "", []string{"ip", "link", "del", a.HostInterface}, nil, true},
		{"the bridge berth0 is gone", "", []string{"ip", "link", "del", "berth0"}, nil, true},
	} {
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
			h.stop("a") // a new pod is what mends the rest
			h.Close()
			h.open()
			h.wishAgain("a")
			h.healthy("a")
		})
	}
	h.Pins.Remove("a")
	got, err := h.Check(ctx, "a")
	if err != nil || len(got) == 0 || !strings.Contains(got[len(got)-1].What, "is gone") {
		t.Errorf("without a namespace: %+v, %v", got, err)
	}
	if _, err := h.Check(ctx, "nobody"); err == nil {
		t.Error("nobody is attached")
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
