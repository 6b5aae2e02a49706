package network

import (
	"context"
	"net/netip"
	"testing"
)

// New subnets are for new pods; both kinds reach each other, and a restart remembers.
func TestSetSubnets(t *testing.T) {
	h := newHost(t, nil)
	ctx := context.Background()
	old := h.pod("old")
	other := netip.MustParsePrefix("10.123.4.0/24")
	for range 2 {
		if err := h.SetSubnets(ctx, []netip.Prefix{other}); err != nil {
			t.Fatal(err)
		}
	}
	fresh := h.pod("fresh")
	if len(fresh.IPs) != 1 || !other.Contains(fresh.IPs[0]) || other.Contains(old.IPs[0]) {
		t.Fatalf("old %v, fresh %v", old.IPs, fresh.IPs)
	}
	if again := h.pod("old"); again.IPs[0] != old.IPs[0] {
		t.Errorf("the old pod has %v now", again.IPs)
	}
	h.Serve("fresh", "tcp", ":80", "fresh")
	h.Expect("old", "tcp", fresh.IPs[0].String()+":80", "fresh saw "+old.IPs[0].String())
	for _, bad := range []string{"127.0.0.0/8", "10.0.0.0/31", "10.0.0.1/24"} {
		if err := h.SetSubnets(ctx, []netip.Prefix{netip.MustParsePrefix(bad)}); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
	if err := h.SetSubnets(ctx, nil); err == nil {
		t.Error("no subnet was taken")
	}
	h.Close()
	h.open()
	if got := h.Subnets(); len(got) != 1 || got[0] != other.String() {
		t.Errorf("after a restart: %v", got)
	}
}
