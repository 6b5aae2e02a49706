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
	if _, err := h.wish("c", func(r *Request) { r.IPs = ips[:1] }); !errors.Is(err, book.ErrTaken) || !strings.Contains(err.Error(), "10.88.200.7 belongs to sandbox a") {
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
