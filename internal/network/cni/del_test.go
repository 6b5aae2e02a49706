package cni

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/11f9778f/berth/internal/network/nettest"
)

// DEL goes to each plugin whatever the others say, and again until all have acknowledged, across restarts of the
// daemon and of the machine.
func TestDelIsRetriedUntilAcknowledged(t *testing.T) {
	n := newNode(t)
	ctx := context.Background()
	n.pod("a")
	n.set("second", "DEL", "fail")
	n.settled()
	if err := n.Detach(ctx, "a"); err == nil || !strings.Contains(err.Error(), "second DEL: try later") {
		t.Error("error:", err)
	}
	if said := n.said(); len(said) < 2 || said[0] != "second DEL a" || said[1] != "fake DEL a" {
		t.Errorf("calls: %q", said)
	}
	items, err := n.Inventory(ctx)
	if err != nil || len(items) != 2 || !strings.Contains(items[1].Note, "the plugins refuse DEL, and are asked again: second DEL: try later") {
		t.Errorf("inventory: %v, %v", items, err)
	}
	if err := n.RemoveNetNS(ctx, "a"); err != nil {
		t.Error(err)
	}
	n.calls()
	nettest.Await(t, "the network asks again by itself", func() bool { return slices.Contains(n.said(), "second DEL a") })
	n.Close()
	if err := os.RemoveAll(n.cfg.ConfDir); err != nil { // the configuration is gone as well: the record counts
		t.Fatal(err)
	}
	n.set("second", "DEL", "")
	n.open()
	nettest.Await(t, "the next daemon finishes it", func() bool { all, _ := n.List(ctx); return len(all) == 0 })
}

// A plugin that hangs at DEL keeps the others from nothing, though it uses up all of the caller's time.
func TestHangingDel(t *testing.T) {
	n := newNode(t)
	n.settled()
	n.pod("a")
	n.calls()
	n.set("second", "DEL", "hang")
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := n.Detach(ctx, "a"); err == nil {
		t.Error("a plugin that hangs has acknowledged")
	}
	if said := n.said(); !slices.Contains(said, "fake DEL a") {
		t.Errorf("calls: %q", said)
	}
	n.set("second", "DEL", "")
	if err := n.Detach(context.Background(), "a"); err != nil {
		t.Error(err)
	}
	n.RemoveNetNS(context.Background(), "a")
}

func TestAttachmentsOfAnEarlierBootAreDetached(t *testing.T) {
	n := newNode(t)
	n.pod("old")
	n.pod("new")
	n.Close()
	a, err := n.records.read("old")
	if err != nil {
		t.Fatal(err)
	}
	a.Boot = "another"
	if err := n.records.write(a); err != nil {
		t.Fatal(err)
	}
	if err := n.Pins.Remove("old"); err != nil { // no namespace outlives a boot
		t.Fatal(err)
	}
	n.calls()
	n.open()
	nettest.Await(t, "the earlier boot's is gone", func() bool { all, _ := n.List(context.Background()); return len(all) == 1 && all[0].SandboxID == "new" })
	n.Close() // after its GC
	var del []string
	for _, c := range n.calls() {
		if c.Command == "DEL" {
			del = append(del, c.Plugin+c.NetNS)
		}
	}
	if !slices.Equal(del, []string{"second", "fake"}) {
		t.Errorf("DEL went to %q: want both, without a namespace", del)
	}
	n.open()
}
