package book

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
)

var (
	net4  = netip.MustParsePrefix("10.0.0.0/16")
	net6  = netip.MustParsePrefix("fd00::/64")
	quiet = slog.New(slog.NewTextHandler(io.Discard, nil))
)

func open(t testing.TB, dir, boot string, subnets ...netip.Prefix) *Book {
	t.Helper()
	b, err := Open(dir, boot, subnets, quiet)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func claim(t testing.TB, b *Book, owner string, ports ...Port) Entry {
	t.Helper()
	e, _, err := b.Claim(owner, Want{Ports: ports})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestClaimIsIdempotentAndSurvivesRestarts(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir, "boot", net4, net6)
	first := claim(t, b, "a", Port{Protocol: "tcp", HostPort: 80, ContainerPort: 8080})
	want := []netip.Prefix{netip.MustParsePrefix("10.0.0.2/16"), netip.MustParsePrefix("fd00::2/64")}
	if !slices.Equal(first.Addresses, want) {
		t.Errorf("addresses: %v, want %v", first.Addresses, want)
	}
	for range 2 {
		again, fresh, err := b.Claim("a", Want{Ports: first.Ports})
		if err != nil || fresh || !reflect.DeepEqual(first, again) {
			t.Errorf("again: %v, %v, %v", again, fresh, err)
		}
		b = open(t, dir, "boot", net4, net6)
	}
	if _, _, err := b.Claim("a", Want{}); !errors.Is(err, ErrOther) {
		t.Errorf("other ports: %v", err)
	}
	if err := errors.Join(b.Release("a"), b.Release("a"), b.Release("nobody")); err != nil {
		t.Error(err)
	}
	if e := open(t, dir, "boot", net4).Entries(); len(e) > 0 {
		t.Errorf("left: %v", e)
	}
}

func TestWantedAddresses(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir, "boot", net4, net6)
	ips := []netip.Addr{netip.MustParseAddr("10.0.0.3"), netip.MustParseAddr("fd00::7")}
	want := Want{Pod: "default/web", IPs: ips, Ingress: 1e6}
	e, fresh, err := b.Claim("a", want)
	if err != nil || !fresh || e.Addresses[0].String() != "10.0.0.3/16" || e.Addresses[1].String() != "fd00::7/64" || e.Ingress != 1e6 {
		t.Fatalf("%+v, %v, %v", e, fresh, err)
	}
	b = open(t, dir, "boot", net4, net6)
	if again, fresh, err := b.Claim("a", want); err != nil || fresh || !reflect.DeepEqual(e, again) {
		t.Errorf("again: %+v, %v, %v", again, fresh, err)
	}
	if _, _, err := b.Claim("a", Want{IPs: []netip.Addr{netip.MustParseAddr("10.0.0.4")}, Ingress: 1e6}); !errors.Is(err, ErrOther) {
		t.Error("another address:", err)
	}
	for _, owner := range []string{"b", "c"} { // the book passes by what was given
		if got := claim(t, b, owner).Addresses[0].Addr(); got == ips[0] {
			t.Errorf("%s was given to %s too", got, owner)
		}
	}
	for _, bad := range []string{"10.0.0.1", "10.0.0.0", "10.0.255.255", "10.1.0.5", "fd01::1", "fd00::1"} {
		if _, _, err := b.Claim("d", Want{IPs: []netip.Addr{netip.MustParseAddr(bad)}}); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", bad, err)
		}
	}
	if _, _, err := b.Claim("d", Want{IPs: ips[:1]}); !errors.Is(err, ErrTaken) || !strings.Contains(err.Error(), "10.0.0.3 belongs to pod default/web (sandbox a): choose") {
		t.Error("a taken one:", err)
	}
	two := []netip.Addr{netip.MustParseAddr("10.0.0.30"), netip.MustParseAddr("10.0.0.31")}
	if _, _, err := b.Claim("d", Want{IPs: two}); !errors.Is(err, ErrInvalid) {
		t.Error("two of one family:", err)
	}
	// One that waits with its turn can still be had, and half a wish leaves the rest to the book.
	if e, _, err := b.Claim("d", Want{IPs: two[:1]}); err != nil || len(e.Addresses) != 2 || e.Addresses[0].Addr() != two[0] {
		t.Errorf("%+v, %v", e, err)
	}
}

func TestAddressesRestBeforeReuse(t *testing.T) {
	dir := t.TempDir()
	small := netip.MustParsePrefix("10.0.0.0/26") // 61 for pods
	seen := map[netip.Addr]int{}
	b := open(t, dir, "boot", small)
	last := 0
	for i := range 400 {
		owner := fmt.Sprint("o", i)
		a := claim(t, b, owner).Addresses[0].Addr()
		if at, ok := seen[a]; ok && i-at < 61-block-1 {
			t.Fatalf("%s was given again after %d claims", a, i-at)
		}
		seen[a] = i
		if err := b.Release(owner); err != nil {
			t.Fatal(err)
		}
		if i-last > 90 { // a crash: nothing in memory counts
			b, last = open(t, dir, "boot", small), i
		}
	}
	if len(seen) != 61 {
		t.Errorf("%d addresses were used, want all 61", len(seen))
	}
}

func TestPoolGivesAllAndNoMore(t *testing.T) {
	for _, s := range []string{"10.0.0.0/30", "10.0.0.0/28", "fd00::/126", "fd00::/124"} {
		p := netip.MustParsePrefix(s)
		n := 1<<(p.Addr().BitLen()-p.Bits()) - 2 // without the network's and the gateway's
		if p.Addr().Is4() {
			n-- // nor the broadcast address
		}
		b := open(t, t.TempDir(), "boot", p)
		seen := map[netip.Addr]bool{}
		for i := range n {
			a := claim(t, b, fmt.Sprint("o", i)).Addresses[0].Addr()
			if seen[a] || !p.Contains(a) || a == Gateway(p) || a == p.Addr() {
				t.Errorf("%s gave %s", s, a)
			}
			seen[a] = true
		}
		if _, _, err := b.Claim("more", Want{}); !errors.Is(err, ErrFull) {
			t.Errorf("%s gave more than %d: %v", s, n, err)
		}
		if err := b.Release("o0"); err != nil {
			t.Fatal(err)
		}
		claim(t, b, "more")
	}
}

// A claim that fails half-way (here: the second subnet is full) takes nothing.
func TestFailedClaimTakesNothing(t *testing.T) {
	b := open(t, t.TempDir(), "boot", net4, netip.MustParsePrefix("fd00::/126"))
	claim(t, b, "a")
	claim(t, b, "b")
	if _, _, err := b.Claim("c", Want{}); !errors.Is(err, ErrFull) {
		t.Fatal(err)
	}
	if len(b.byAddr) != 4 || len(b.entries) != 2 {
		t.Errorf("%d addresses, %d entries", len(b.byAddr), len(b.entries))
	}
}

func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir, "boot", net4)
	if err := os.RemoveAll(b.records()); err != nil { // as good as a disk that takes nothing
		t.Fatal(err)
	}
	if _, _, err := b.Claim("a", Want{Ports: []Port{{"tcp", netip.Addr{}, 80, 80}}}); err == nil || len(b.byAddr) > 0 || len(b.byPort) > 0 {
		t.Errorf("%v; %v, %v", err, b.byAddr, b.byPort)
	}
}

func TestPorts(t *testing.T) {
	lo, eth := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("192.0.2.1")
	any := netip.Addr{}
	for _, c := range []struct {
		a, b Port
		ok   bool
	}{
		{Port{"tcp", any, 80, 1}, Port{"tcp", any, 80, 2}, false},
		{Port{"tcp", any, 80, 1}, Port{"udp", any, 80, 2}, true},
		{Port{"tcp", any, 80, 1}, Port{"tcp", any, 81, 1}, true},
		{Port{"tcp", lo, 80, 1}, Port{"tcp", any, 80, 1}, false},
		{Port{"tcp", any, 80, 1}, Port{"tcp", lo, 80, 1}, false},
		{Port{"tcp", lo, 80, 1}, Port{"tcp", eth, 80, 1}, true},
		{Port{"tcp", lo, 80, 1}, Port{"tcp", lo, 80, 2}, false},
	} {
		b := open(t, t.TempDir(), "boot", net4)
		claim(t, b, "a", c.a)
		_, _, err := b.Claim("b", Want{Ports: []Port{c.b}})
		if (err == nil) != c.ok || (!c.ok && !errors.Is(err, ErrTaken)) {
			t.Errorf("%v beside %v: %v", c.b, c.a, err)
		}
		if err := b.Release("a"); err != nil {
			t.Fatal(err)
		}
		claim(t, b, "b", c.b)
		if _, _, err := open(t, t.TempDir(), "boot", net4).Claim("one", Want{Ports: []Port{c.a, c.b}}); (err == nil) != c.ok {
			t.Errorf("%v and %v of one owner: %v", c.a, c.b, err)
		}
	}
}

func TestEarlierBootIsForgotten(t *testing.T) {
	dir := t.TempDir()
	claim(t, open(t, dir, "monday", net4), "a")
	if e := open(t, dir, "tuesday", net4).Entries(); len(e) > 0 {
		t.Errorf("got %v", e)
	}
}

// Entries of a subnet that is no longer configured stay in force.
func TestOtherSubnetsAfterRestart(t *testing.T) {
	dir := t.TempDir()
	claim(t, open(t, dir, "boot", net4), "old")
	b := open(t, dir, "boot", netip.MustParsePrefix("10.9.0.0/24"))
	claim(t, b, "new")
	if got := fmt.Sprint(b.Subnets()); got != "[10.9.0.0/24 10.0.0.0/16]" {
		t.Error(got)
	}
}

func TestDamagedFilesAreSetAside(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir, "boot", net4)
	claim(t, b, "good")
	for name, text := range map[string]string{
		"empty.json":     "",
		"other.json":     `{"owner":"good","addresses":["10.0.0.9/16"]}`,
		"thief.json":     `{"owner":"thief","addresses":["10.0.0.2/16"]}`,
		"network.json":   `{"owner":"network","addresses":["10.0.0.0/16"]}`,
		"port.json":      `{"owner":"port","addresses":[],"ports":[{"protocol":"icmp","hostPort":1,"containerPort":1}]}`,
		"half.json.tmp":  `{"owner":"half"`,
		"unrelated.text": "",
	} {
		if err := os.WriteFile(filepath.Join(b.records(), name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(b.records(), "long.json"), []byte(strings.Repeat(" ", maxSize+1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(b.stateFile(), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	b = open(t, dir, "boot", net4)
	if e := b.Entries(); len(e) != 1 || e[0].Owner != "good" {
		t.Errorf("entries: %v", e)
	}
	if d, err := b.Damaged(); len(d) != 6 || err != nil {
		t.Errorf("damaged: %v, %v", d, err)
	}
	if err := b.RemoveDamaged(); err != nil {
		t.Error(err)
	}
	left, _ := os.ReadDir(b.records())
	if len(left) != 2 {
		t.Errorf("left: %v", left)
	}
}

func TestConcurrentClaims(t *testing.T) {
	b := open(t, t.TempDir(), "boot", net4, net6)
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			owner := fmt.Sprint("o", i)
			for range 20 {
				if _, _, err := b.Claim(owner, Want{}); err != nil {
					t.Error(err)
				}
				if i%2 == 0 {
					if err := b.Release(owner); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	if len(b.entries) != 25 || len(b.byAddr) != 50 {
		t.Errorf("%d entries, %d addresses", len(b.entries), len(b.byAddr))
	}
}

func FuzzEntry(f *testing.F) {
	f.Add([]byte(`{"owner":"a","addresses":["10.0.0.2/16","fd00::2/64"],"ports":[{"protocol":"tcp","hostIP":"127.0.0.1","hostPort":80,"containerPort":8080}]}`))
	f.Add([]byte(`{"owner":"a","addresses":[""]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := parseEntry(b)
		if err != nil {
			return
		}
		// What was accepted is in order, and comes back the same.
		path := filepath.Join(t.TempDir(), "x")
		if err := writeEntry(path, e); err != nil {
			t.Fatal(err)
		}
		again, err := readEntry(path, e.Owner)
		if err != nil || fmt.Sprint(again) != fmt.Sprint(e) {
			t.Errorf("%v became %v, %v", e, again, err)
		}
		for _, a := range e.Addresses {
			if !a.IsValid() || !a.Masked().Contains(Gateway(a)) && a.Bits() < a.Addr().BitLen()-1 {
				t.Errorf("address %v", a)
			}
		}
	})
}

func FuzzState(f *testing.F) {
	f.Add([]byte(`{"version":1,"boot":"x","next":["10.0.0.9","fd00::9",""]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		st, err := parseState(b)
		if err != nil {
			return
		}
		for _, s := range []netip.Prefix{net4, net6} {
			p := newPool(s, st.Next)
			if a, _, ok := p.take(func(netip.Addr) bool { return true }); !ok || !s.Contains(a) || a == Gateway(s) {
				t.Errorf("%v: gave %s", st, a)
			}
		}
	})
}
