package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/11f9778f/berth/internal/network/book"
	"github.com/11f9778f/berth/internal/network/nettest"
	"github.com/11f9778f/berth/internal/network/rtnl"
	"github.com/11f9778f/berth/internal/sys"
	"github.com/vishvananda/netlink"
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
	h.Serve("a", "tcp", ":80", "a")
	h.Expect("b", "tcp", "10.88.200.7:80", "a saw "+b.IPs[0].String())
	h.Expect("b", "tcp", "[fd88:1::77]:80", "a saw "+b.IPs[1].String())
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
	ns, err := sys.OpenNetNS(h.Pins.Path("a"))
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

// What is more than a limit lets pass takes its time, in both directions. That it takes no more is nobody's promise on
// a loaded machine.
func TestBandwidthIsObserved(t *testing.T) {
	h := newHost(t, nil)
	const rate, size = 8e6, 1 << 20
	r, err := h.wish("a", func(r *Request) { r.Bandwidth = Bandwidth{Ingress: rate, Egress: rate} })
	if err != nil {
		t.Fatal(err)
	}
	least := time.Duration(float64(size*8-Burst(rate)) / rate * float64(time.Second))
	for _, c := range []struct{ from, to, addr string }{{"", "a", r.IPs[0].String()}, {"a", "", r.Gateways[0].String()}} {
		var l net.Listener
		h.In(c.to, func() (err error) { l, err = net.Listen("tcp", c.addr+":0"); return err })
		var took time.Duration
		h.In(c.from, func() error {
			out, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				return err
			}
			in, err := l.Accept()
			if err != nil {
				return err
			}
			defer in.Close()
			begin := time.Now()
			go func() {
				out.Write(make([]byte, size))
				out.Close()
			}()
			n, err := io.Copy(io.Discard, in)
			if took = time.Since(begin); n != size {
				t.Errorf("%d bytes came, %v", n, err)
			}
			return nil
		})
		l.Close()
		if took < least {
			t.Errorf("from %q to %q: %d bytes took %s, and at %.0f bits a second take %s at least", c.from, c.to, size, took, rate, least)
		}
	}
}

// The MTU is the configuration's, or that of a default route that has less than usual, at both ends of a pod's link.
func TestMTU(t *testing.T) {
	for _, c := range []struct{ configured, uplink, want int }{{0, 0, 1500}, {0, 1400, 1400}, {0, 9000, 1500}, {9000, 1400, 9000}} {
		t.Run(fmt.Sprint(c), func(t *testing.T) {
			nettest.NeedRoot(t)
			if c.uplink > 0 {
				link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "up0", MTU: c.uplink}, PeerName: "up1"}
				if err := netlink.LinkAdd(link); err != nil {
					t.Fatal(err)
				}
				defer netlink.LinkDel(link)
				nettest.Command(t, "", "ip", "addr", "add", "198.51.100.1/24", "dev", "up0")
				nettest.Command(t, "", "ip", "link", "set", "up0", "up")
				nettest.Command(t, "", "ip", "route", "add", "default", "via", "198.51.100.2")
			}
			h := newHost(t, func(cfg *Config) { cfg.MTU = c.configured })
			a := h.pod("a")
			inside, err := sys.OpenNetNS(h.Pins.Path("a"))
			if err != nil {
				t.Fatal(err)
			}
			defer inside.Close()
			pod, err1 := rtnl.Inspect(inside, "eth0")
			host, err2 := rtnl.Inspect(nil, a.HostInterface)
			bridge, err3 := rtnl.Inspect(nil, "berth0")
			if a.MTU != c.want || pod.MTU != c.want || host.MTU != c.want || bridge.MTU != c.want {
				t.Errorf("said %d, the pod has %d, its link %d, the bridge %d (%v, %v, %v); want %d", a.MTU, pod.MTU, host.MTU, bridge.MTU, err1, err2, err3, c.want)
			}
		})
	}
}
