package network

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/11f9778f/berth/internal/network/nettest"
	"github.com/11f9778f/berth/internal/network/rtnl"
)

// warm makes the first pod, and waits for what is made ahead after it.
func warm(m *Manager) error {
	ctx := context.Background()
	path, err := m.CreateNetNS(ctx, "warm", nil)
	if err == nil {
		_, err = m.Attach(ctx, Request{SandboxID: "warm", NetNS: path})
	}
	if err == nil {
		err = errors.Join(m.Detach(ctx, "warm"), m.RemoveNetNS(ctx, "warm"))
	}
	for range 3000 {
		if err != nil || !m.spares.missing() {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
	return errors.New("nothing was made ahead")
}

// newWarmHost has two spares.
func newWarmHost(t *testing.T) *host {
	t.Helper()
	h := newHost(t, func(c *Config) { both(c); c.Spares = 2 })
	if err := warm(h.Manager); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // before the clean-up that wants no link: the kernel removes them in its own time
		h.closeSpares()
		nettest.Await(t, "no spare is left", func() bool {
			links, err := rtnl.List(nil)
			for _, l := range links {
				if l.Alias == h.Manager.cfg.alias("") {
					return false
				}
			}
			return err == nil
		})
	})
	return h
}

func (h *host) free() int {
	h.spares.mu.Lock()
	defer h.spares.mu.Unlock()
	return len(h.spares.free)
}

// A pod of a spare is a pod like any other.
func TestSpares(t *testing.T) {
	h := newWarmHost(t)
	ctx := context.Background()
	path, err := h.CreateNetNS(ctx, "a", map[string]string{"net.ipv4.ip_unprivileged_port_start": "80"})
	if err != nil || h.free() != 1 {
		t.Fatalf("%d are free, %v", h.free(), err)
	}
	if again, err := h.CreateNetNS(ctx, "a", nil); again != path || err != nil || h.free() != 1 {
		t.Errorf("again: %s, %v; %d are free", again, err, h.free())
	}
	a, err := h.Attach(ctx, Request{SandboxID: "a", NetNS: path, PortMappings: []PortMapping{tcp(8080, 80)}})
	if err != nil {
		t.Fatal(err)
	}
	if h.spares.unpin("a") != nil {
		t.Error("the spare is still nobody's")
	}
	h.healthy("a")
	h.expectPing("a", a)
	h.In("a", func() error {
		if b, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start"); strings.TrimSpace(string(b)) != "80" || err != nil {
			t.Errorf("sysctl: %q, %v", b, err)
		}
		return nil
	})
	for range 3 {
		if again := h.pod("a", tcp(8080, 80)); fmt.Sprint(again) != fmt.Sprint(a) {
			t.Errorf("first %v, then %v", a, again)
		}
	}
	b := h.pod("b")
	h.Serve("a", "tcp", ":80", "a")
	for i, ip := range a.IPs {
		h.Expect("b", "tcp", "["+ip.String()+"]:80", "a saw "+b.IPs[i].String())
	}
	for _, it := range h.items("a") {
		if it.Note != "" {
			t.Error(it)
		}
	}
	nettest.Await(t, "they are made again", func() bool { return h.free() == 2 })
	if _, err := h.CreateNetNS(ctx, "unused", nil); err != nil {
		t.Fatal(err)
	}
	if err := h.RemoveNetNS(ctx, "unused"); err != nil {
		t.Error(err)
	}
	if _, err := h.CreateNetNS(ctx, "bad", map[string]string{"net.no.such": "1"}); err == nil {
		t.Error("a sysctl that is none")
	}
}

// The same id while its old link still dies; and a bridge that was removed behind the spares' back.
func TestSparesOfNoUse(t *testing.T) {
	h := newWarmHost(t)
	for range 6 {
		nettest.Await(t, "there is a spare", func() bool { return h.free() > 0 })
		r := h.pod("again", tcp(8080, 80))
		h.expectPing("again", r)
		if err := h.RemoveNetNS(context.Background(), "again"); err != nil { // without Detach
			t.Fatal(err)
		}
	}
	h.Stop("again")
	nettest.Await(t, "there is a spare", func() bool { return h.free() == 2 })
	nettest.Command(t, "", "ip", "link", "del", "berth0")
	r := h.pod("after")
	h.expectPing("after", r)
	h.healthy("after")
}

// A daemon that dies with spares leaves nothing of them, and one that dies while it takes one leaves what the
// next can finish or undo.
func TestKilledWithSpares(t *testing.T) {
	for _, place := range []string{"network/netns/pin/after=kill@2", "network/spare/before=kill", "network/spare/taken=kill", "network/spare/after=kill", "network/book/remove/before=kill@2"} {
		for _, then := range []string{"repair", "repeat", "stop"} {
			t.Run(place+"/"+then, func(t *testing.T) {
				h := newHost(t, nil)
				h.Close()
				nettest.WasKilled(t, h.child("spare", place).Run())
				h.open()
				h.goOn(then)
				nettest.Await(t, "nothing of life is left", func() bool { return len(h.items("life")) == 0 })
				h.noSpare()
			})
		}
	}
}

// An error while a spare is taken costs the spare alone: the pod is made without it.
func TestErrorWithSpares(t *testing.T) {
	for _, place := range []string{"network/spare/before", "network/spare/taken", "network/spare/after"} {
		t.Run(place, func(t *testing.T) {
			h := newHost(t, nil)
			h.Close()
			if err := h.child("spare", place+"=error").Run(); err != nil {
				t.Error("a life:", err)
			}
			h.open()
			nettest.Await(t, "nothing of life is left", func() bool { return len(h.items("life")) == 0 })
			h.noSpare()
		})
	}
}

// noSpare waits until the kernel has removed what was made ahead.
func (h *host) noSpare() {
	h.Helper()
	nettest.Await(h, "no spare is left", func() bool {
		links, err := rtnl.List(nil)
		return err == nil && !slices.ContainsFunc(links, func(l rtnl.Link) bool { return strings.HasPrefix(l.Alias, "berth0/") })
	})
}
