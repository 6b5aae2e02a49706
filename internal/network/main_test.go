package network

import (
	"context"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/11f9778f/berth/internal/network/nettest"
	"github.com/11f9778f/berth/internal/network/rtnl"
)

func TestMain(m *testing.M) {
	var j job
	if nettest.Job(&j) {
		os.Exit(child(j))
	}
	os.Exit(nettest.Run(m))
}

var (
	subnet4 = netip.MustParsePrefix("10.88.0.0/16")
	subnet6 = netip.MustParsePrefix("fd88:1::/64")
)

// host is a Manager under test and the pods that were attached with it.
type host struct {
	*nettest.Node
	*Manager
	cfg Config
}

func newHost(t testing.TB, change func(*Config)) *host {
	t.Helper()
	n := nettest.NewNode(t)
	cfg := Config{RunDir: n.RunDir, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))}
	if change != nil {
		change(&cfg)
	}
	h := &host{Node: n, cfg: cfg}
	h.open()
	t.Cleanup(h.cleanUp)
	return h
}

func (h *host) open() {
	h.Helper()
	m, err := Open(h.cfg)
	if err != nil {
		h.Fatal(err)
	}
	h.Manager, h.Pods = m, m
}

// cleanUp removes all that the test left attached, closes, and finds nothing of Berth in the namespace.
func (h *host) cleanUp() {
	if _, err := h.Repair(context.Background(), func(string) bool { return false }); err != nil {
		h.Error("repair:", err)
	}
	if err := h.Close(); err != nil {
		h.Error("close:", err)
	}
	links, err := rtnl.List(nil)
	if err != nil {
		h.Error(err)
	}
	for _, l := range links {
		if l.Name == h.Manager.cfg.Bridge || strings.HasPrefix(l.Alias, h.Manager.cfg.Bridge+"/") {
			h.Errorf("link %s %q is left", l.Name, l.Alias)
		}
	}
	if ok, err := h.table.Exists(); ok || err != nil {
		h.Errorf("table is left: %v, %v", ok, err)
	}
	h.Bare()
}

// pod makes a namespace and attaches it.
func (h *host) pod(id string, ports ...PortMapping) *Result {
	h.Helper()
	r, err := h.start(id, ports...)
	if err != nil {
		h.Fatal(err)
	}
	return r
}

func (h *host) start(id string, ports ...PortMapping) (*Result, error) {
	path, err := h.CreateNetNS(context.Background(), id, nil)
	if err != nil {
		return nil, err
	}
	return h.Attach(context.Background(), Request{SandboxID: id, NetNS: path, PodNamespace: "default", PodName: id, PortMappings: ports})
}

const (
	outside4, hostOutside4 = nettest.Outside4, nettest.HostOutside4
	outside6, hostOutside6 = nettest.Outside6, nettest.HostOutside6
)

// await waits until the condition holds.
func await(t testing.TB, what string, holds func() bool) {
	t.Helper()
	nettest.Await(t, what, holds)
}

// items returns the inventory of one owner.
func (h *host) items(owner string) []Item {
	h.Helper()
	all, err := h.Inventory(context.Background())
	if err != nil {
		h.Fatal(err)
	}
	return slices.DeleteFunc(all, func(it Item) bool { return it.Owner != owner })
}
