package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/11f9778f/berth/internal/network/nettest"

	"github.com/vishvananda/netlink"

	"github.com/11f9778f/berth/internal/network/rtnl"
	"github.com/11f9778f/berth/internal/sys"
)

func both(c *Config) { c.Subnets = append(c.Subnets, subnet4, subnet6) }

func TestPodsReachEachOtherTheGatewayAndOutside(t *testing.T) {
	h := newHost(t, both)
	h.World()
	a, b := h.pod("a"), h.pod("b")
	if a.IPs[0] == b.IPs[0] || a.IPs[1] == b.IPs[1] || len(a.IPs) != 2 {
		t.Fatalf("addresses: %v and %v", a.IPs, b.IPs)
	}
	h.Serve("b", "tcp", ":80", "b")
	h.Serve("b", "udp", ":53", "b")
	h.Serve("", "tcp", ":8000", "host")
	h.Serve("outside", "tcp", ":80", "outside")
	for i, ip := range b.IPs {
		at := func(p string) string { return "[" + ip.String() + "]:" + p }
		h.Expect("a", "tcp", at("80"), "b saw "+a.IPs[i].String())
		h.Expect("a", "udp", at("53"), "b saw "+a.IPs[i].String())
		h.Expect("", "tcp", at("80"), "b saw "+b.Gateways[i].String())
		h.Expect("b", "tcp", at("80"), "b saw "+ip.String()) // lo is up
		h.Expect("a", "tcp", "["+a.Gateways[i].String()+"]:8000", "host saw "+a.IPs[i].String())
	}
	h.Expect("a", "tcp", outside4+":80", "outside saw "+hostOutside4)
	h.Expect("a", "tcp", "["+outside6+"]:80", "outside saw "+hostOutside6)
}

func TestAttachAndDetachAreIdempotent(t *testing.T) {
	h := newHost(t, both)
	ctx := context.Background()
	first := h.pod("a", tcp(8080, 80))
	for range 3 {
		if again := h.pod("a", tcp(8080, 80)); !reflect.DeepEqual(first, again) {
			t.Fatalf("first %v, then %v", first, again)
		}
	}
	if first.Interface != "eth0" || first.MTU != 1500 || len(first.HostInterface) > 15 {
		t.Errorf("result: %+v", first)
	}
	stopServer := h.Serve("a", "tcp", ":80", "a")
	h.Expect("", "tcp", "127.0.0.1:8080", "a saw 10.88.0.1")
	for range 3 {
		if err := h.Detach(ctx, "a"); err != nil {
			t.Fatal(err)
		}
	}
	h.Refuse("", "tcp", first.IPs[0].String()+":80") // the address is gone before the namespace is
	stopServer()                                     // a socket holds its namespace
	if err := h.Detach(ctx, "never-was"); err != nil {
		t.Error("detach of an unknown sandbox:", err)
	}
	for range 3 {
		if err := h.RemoveNetNS(ctx, "a"); err != nil {
			t.Fatal(err)
		}
	}
	// Nothing stays: the kernel takes the link with the namespace.
	await(t, "the link of a is gone", func() bool { return len(h.items("a")) == 0 })
	if second := h.pod("b"); second.IPs[0] == first.IPs[0] {
		t.Error("an address was given again at once:", second.IPs[0])
	}
}

// Repair removes what the dead left, at once where nobody holds it, by hand where somebody does.
func TestRepair(t *testing.T) {
	h := newHost(t, nil)
	ctx := context.Background()
	for _, id := range []string{"dead", "held", "alive"} {
		h.pod(id, tcp(uint16(8000+len(id)*10+int(id[0])), 80))
	}
	h.Serve("held", "tcp", ":80", "held") // a socket holds the namespace
	if err := os.WriteFile(filepath.Join(h.cfg.RunDir, "network/sandboxes/broken.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	h.Close()
	h.open()
	removed, err := h.Repair(ctx, func(id string) bool { return id == "alive" })
	if err != nil {
		t.Error(err)
	}
	count := map[string]int{}
	for _, it := range removed {
		count[it.Owner]++
	}
	if count["dead"] != 4 || count["held"] != 4 || count[""] != 1 || len(count) != 3 {
		t.Errorf("removed: %v", removed)
	}
	after, err := h.Inventory(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if len(after) != 6 { // of alive: pin, link, address, port; bridge and table
		t.Errorf("left: %v", after)
	}
	for _, it := range after {
		if it.Note != "" {
			t.Error(it)
		}
	}
	h.Serve("alive", "tcp", ":80", "alive")
	h.Expect("", "tcp", fmt.Sprintf("127.0.0.1:%d", 8000+50+'a'), "alive saw 10.88.0.1")
}

// Open does the same by itself when it is told who lives.
func TestOpenRemovesTheDead(t *testing.T) {
	h := newHost(t, nil)
	h.pod("dead", tcp(8080, 80))
	h.Close()
	h.cfg.Live = func(string) bool { return false }
	h.open()
	if got := h.items("dead"); len(got) > 0 {
		t.Errorf("left: %v", got)
	}
}

// A namespace that was removed and made again under the same id, while the old link still dies.
func TestSameIDAgain(t *testing.T) {
	h := newHost(t, nil)
	for i := range 20 {
		r := h.pod("again", tcp(8080, 80))
		h.expectPing("again", r)
		if i%2 == 0 {
			h.Stop("again")
		} else if err := h.RemoveNetNS(context.Background(), "again"); err != nil { // without Detach
			t.Fatal(err)
		}
	}
}

// expectPing reaches the pod from the host: closed ports answer too.
func (h *host) expectPing(id string, r *Result) {
	h.Helper()
	h.In(id, func() error {
		link, err := netlink.LinkByName("eth0")
		if err == nil && link.Attrs().HardwareAddr.String() != r.MAC.String() {
			err = fmt.Errorf("MAC %s, want %s", link.Attrs().HardwareAddr, r.MAC)
		}
		return err
	})
	if _, err := h.Ask("", "tcp", r.IPs[0].String()+":1"); err == nil || !strings.Contains(err.Error(), "refused") {
		h.Errorf("%s: %v", id, err)
	}
}

func TestConcurrentAttaches(t *testing.T) {
	h := newHost(t, both)
	const n = 60
	results := make([]*Result, n)
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i := range n {
		for range 2 { // two calls for each at once join
			wg.Go(func() {
				r, err := h.start(fmt.Sprintf("pod-%d", i), tcp(uint16(20000+i), 80))
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				results[i] = r
				mu.Unlock()
			})
		}
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	seen := map[netip.Addr]bool{}
	for i, r := range results {
		for _, ip := range r.IPs {
			if seen[ip] {
				t.Errorf("%s has two owners", ip)
			}
			seen[ip] = true
		}
		h.expectPing(fmt.Sprintf("pod-%d", i), r)
	}
	for i := range n {
		wg.Go(func() { h.Stop(fmt.Sprintf("pod-%d", i)) })
	}
	wg.Wait()
	if e := h.book.Entries(); len(e) > 0 {
		t.Errorf("left in the book: %v", e)
	}
}

func TestLockedCallsEndWithTheirContext(t *testing.T) {
	h := newHost(t, nil)
	unlock, err := h.Keeper.Lock(context.Background(), "busy")
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := h.Detach(ctx, "busy"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	h.pod("other") // is not held up
}

func TestNamespaceSysctls(t *testing.T) {
	h := newHost(t, nil)
	ctx := context.Background()
	if _, err := h.CreateNetNS(ctx, "a", map[string]string{"net.ipv4.ip_unprivileged_port_start": "80", "net/ipv4/conf/lo/rp_filter": "2"}); err != nil {
		t.Fatal(err)
	}
	h.In("a", func() error {
		for file, want := range map[string]string{"ip_unprivileged_port_start": "80", "conf/lo/rp_filter": "2"} {
			if b, err := os.ReadFile("/proc/sys/net/ipv4/" + file); strings.TrimSpace(string(b)) != want || err != nil {
				t.Errorf("%s: %q, %v", file, b, err)
			}
		}
		return nil
	})
	for _, bad := range []string{"kernel.hostname", "net", "net/../kernel/hostname", "net.ipv4..x", "net.ipv4.no_such_thing"} {
		if _, err := h.CreateNetNS(ctx, "bad", map[string]string{bad: "1"}); err == nil {
			t.Errorf("sysctl %q was accepted", bad)
		}
		if got := h.items("bad"); len(got) > 0 {
			t.Errorf("sysctl %q left %v", bad, got)
		}
	}
	for _, id := range []string{"", "..", "a/b", "-x", strings.Repeat("x", 200)} {
		if _, err := h.CreateNetNS(ctx, id, nil); err == nil {
			t.Errorf("id %q was accepted", id)
		}
	}
}

func TestAttachWantsANetworkNamespace(t *testing.T) {
	h := newHost(t, nil)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := h.Attach(context.Background(), Request{SandboxID: "a", NetNS: file})
	if !errors.Is(err, sys.ErrNotNetNS) {
		t.Errorf("got %v", err)
	}
	if got := h.items("a"); len(got) > 0 {
		t.Errorf("left: %v", got)
	}
}

func TestBridgeRemovedBehindOurBack(t *testing.T) {
	h := newHost(t, nil)
	h.pod("a")
	if err := h.onHost(func(c *rtnl.Conn) error { return c.DeleteLink("berth0") }); err != nil {
		t.Fatal(err)
	}
	h.expectPing("b", h.pod("b"))
}

func TestSubnetAvoidsTheHostsRoutes(t *testing.T) {
	nettest.NeedRoot(t)
	dummy := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "office"}}
	if err := netlink.LinkAdd(dummy); err != nil {
		t.Fatal(err)
	}
	defer netlink.LinkDel(dummy)
	addr, _ := netlink.ParseAddr("10.88.7.1/24")
	if err := errors.Join(netlink.AddrAdd(dummy, addr), netlink.LinkSetUp(dummy)); err != nil {
		t.Fatal(err)
	}
	h := newHost(t, nil)
	if got := h.pod("a").IPs[0]; got != netip.MustParseAddr("10.89.0.2") {
		t.Errorf("got %s", got)
	}
	// It stays so while the bridge is there, also after the reason is gone.
	netlink.LinkDel(dummy)
	h.Close()
	h.open()
	if got := h.Subnets(); !slices.Equal(got, []string{"10.89.0.0/16"}) {
		t.Errorf("got %v", got)
	}
}

func TestTwoDaemonsSideBySide(t *testing.T) {
	one := newHost(t, nil)
	one.expectPing("a", one.pod("a"))
	if _, err := Open(one.cfg); !errors.Is(err, sys.ErrLocked) {
		t.Errorf("two managers for one run directory: %v", err)
	}
	two := newHost(t, func(c *Config) { c.Bridge, c.LinkPrefix = "berth1", "bti" })
	two.expectPing("a", two.pod("a", tcp(8080, 80)))
	if got := one.items("a"); len(got) != 3 {
		t.Errorf("the first one's inventory: %v", got)
	}
	thief := newHost(t, func(c *Config) { c.Subnets = []netip.Prefix{netip.MustParsePrefix("10.200.0.0/24")} })
	if _, err := thief.start("a"); err == nil || !strings.Contains(err.Error(), "configure another bridge name") {
		t.Errorf("a third one took the first one's bridge: %v", err)
	}
	if err := thief.RemoveNetNS(context.Background(), "a"); err != nil {
		t.Error(err)
	}
	thief.Manager.Close()
	thief.cfg.Bridge = "berth2"
	thief.open()
	one.expectPing("a", one.pod("a"))
}

func TestForeignLinkOfTheBridgesName(t *testing.T) {
	h := newHost(t, func(c *Config) { c.Bridge = "notabridge" })
	dummy := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "notabridge"}, PeerName: "nobridge2"}
	if err := netlink.LinkAdd(dummy); err != nil {
		t.Fatal(err)
	}
	_, err := h.start("a")
	netlink.LinkDel(dummy)
	if !errors.Is(err, rtnl.ErrNotBridge) {
		t.Errorf("got %v", err)
	}
}

func TestPoolRunsOut(t *testing.T) {
	h := newHost(t, func(c *Config) { c.Subnets = []netip.Prefix{netip.MustParsePrefix("10.88.0.0/29")} })
	for i := range 5 {
		h.pod(fmt.Sprintf("pod-%d", i))
	}
	if _, err := h.start("more"); err == nil || !strings.Contains(err.Error(), "all of 10.88.0.0/29 are in use") {
		t.Errorf("got %v", err)
	}
	h.Stop("pod-3")
	r := h.pod("more") // at once: the old link may still be dying
	h.expectPing("more", r)
}

func TestConfigIsChecked(t *testing.T) {
	for _, c := range []Config{
		{},
		{RunDir: "x", Bridge: "a name that is too long"},
		{RunDir: "x", Bridge: "a/b"},
		{RunDir: "x", LinkPrefix: "toolong"},
		{RunDir: "x", Table: "a b"},
		{RunDir: "x", MTU: 1},
		{RunDir: "x", Subnets: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/16")}},
		{RunDir: "x", Subnets: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/31")}},
		{RunDir: "x", Subnets: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/16")}},
		{RunDir: "x", Subnets: []netip.Prefix{subnet4, netip.MustParsePrefix("10.99.0.0/16")}},
	} {
		if _, err := c.withDefaults(); err == nil {
			t.Errorf("%+v was accepted", c)
		}
	}
}
