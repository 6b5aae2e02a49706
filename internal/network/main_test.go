package network

import (
	"context"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/11f9778f/berth/internal/network/netns"
	"github.com/11f9778f/berth/internal/network/nettest"
	"github.com/11f9778f/berth/internal/network/rtnl"
)

const childEnv = "BERTH_NETWORK_TEST_CHILD" // what a child of a test is to do

func TestMain(m *testing.M) {
	if do := os.Getenv(childEnv); do != "" {
		os.Exit(child(do))
	}
	os.Exit(nettest.Run(m))
}

var (
	subnet4 = netip.MustParsePrefix("10.88.0.0/16")
	subnet6 = netip.MustParsePrefix("fd88:1::/64")
)

// host is a Manager under test and the pods that were attached with it.
type host struct {
	testing.TB
	*Manager
	cfg Config
}

func newHost(t testing.TB, change func(*Config)) *host {
	t.Helper()
	nettest.NeedRoot(t)
	cfg := Config{RunDir: filepath.Join(t.TempDir(), "run"), Logger: slog.New(slog.NewTextHandler(io.Discard, nil))}
	if change != nil {
		change(&cfg)
	}
	h := &host{TB: t, cfg: cfg}
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
	h.Manager = m
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
	if ids, _ := netns.Dir(filepath.Join(h.cfg.RunDir, "netns")).List(); len(ids) > 0 {
		h.Errorf("pins are left: %v", ids)
	}
	if b, _ := os.ReadFile("/proc/self/mounts"); strings.Contains(string(b), h.cfg.RunDir) {
		h.Errorf("mounts are left:\n%s", b)
	}
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

func (h *host) stop(id string) {
	h.Helper()
	if err := h.Detach(context.Background(), id); err != nil {
		h.Error(err)
	}
	if err := h.RemoveNetNS(context.Background(), id); err != nil {
		h.Error(err)
	}
}

// path is that of the pod's namespace; id "" is the host's.
func (h *host) path(id string) string {
	if id == "" {
		return ""
	}
	return h.Pins.Path(id)
}

// in runs f in the pod's namespace.
func (h *host) in(id string, f func() error) {
	h.Helper()
	if err := nettest.In(h.path(id), f); err != nil {
		h.Fatal(err)
	}
}

// serve answers in a namespace on addr with "NAME saw ADDRESS OF CLIENT", until the test ends or stop is called.
func (h *host) serve(id, network, addr, name string) (stop func()) {
	h.Helper()
	return nettest.Serve(h, h.path(id), network, addr, name)
}

// ask sends a question from a namespace and returns the answer.
func (h *host) ask(id, network, addr string) (answer string, err error) {
	return nettest.Ask(h.path(id), network, addr)
}

func (h *host) expect(from, network, addr, want string) {
	h.Helper()
	nettest.Expect(h, h.path(from), network, addr, want)
}

func (h *host) refuse(from, network, addr string) {
	h.Helper()
	nettest.Refuse(h, h.path(from), network, addr)
}

const (
	outside4, hostOutside4 = nettest.Outside4, nettest.HostOutside4
	outside6, hostOutside6 = nettest.Outside6, nettest.HostOutside6
)

// world makes a namespace "outside" with a link to the host, and no route to the pods.
func (h *host) world() {
	h.Helper()
	path, err := h.CreateNetNS(context.Background(), "outside", nil)
	if err != nil {
		h.Fatal(err)
	}
	nettest.World(h, path)
}

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
