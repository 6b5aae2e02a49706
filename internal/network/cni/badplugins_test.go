package cni

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/11f9778f/berth/internal/network"
	"github.com/11f9778f/berth/internal/network/book"
)

// What an ADD that fails has done is taken back, by every plugin.
func TestFailedAdd(t *testing.T) {
	for _, c := range []struct{ do, want string }{
		{"fail", "fake ADD: try later; the switch is asleep"},
		{"die", `signal: killed (it said "no such switch")`},
		{"this is no JSON", "invalid character"},
		{"null", "no address"},
		{`{"cniVersion":"1.1.0"}`, "no address"},
		{`{"cniVersion":"99.0.0","ips":[]}`, "99.0.0"},
		{`{"cniVersion":"1.1.0","ips":[{"address":"127.0.0.1/8"}]}`, "ips[0]: address: 127.0.0.1/8"},
		{`{"cniVersion":"1.1.0","ips":[{"address":"10.0.0.1/24","interface":7}]}`, "ips[0]: interface: there is no interfaces[7]"},
		{`{"cniVersion":"1.1.0","ips":[null]}`, "ips[0]: it is null"},
		{`{"cniVersion":"1.1.0","interfaces":[null],"ips":[{"address":"10.0.0.1/24","interface":0}]}`, "interfaces[0] is null"},
		{`{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","sandbox":"/n","mac":"x"}]}`, "interfaces[0].mac"},
		{"flood", "printed more than"},
	} {
		t.Run(c.do[:min(len(c.do), 40)], func(t *testing.T) {
			n := newNode(t)
			n.settled()
			n.set("fake", "ADD", c.do)
			_, err := n.start("a", nil)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %s", err, c.want)
			}
			said := n.said()
			if len(said) < 3 || !slices.Equal(said[len(said)-2:], []string{"second DEL a", "fake DEL a"}) {
				t.Errorf("calls: %q", said)
			}
			if all, err := n.List(context.Background()); len(all) > 0 || err != nil {
				t.Errorf("left: %v, %v", all, err)
			}
			n.set("fake", "ADD", "")
			n.pod("a") // and now it works
		})
	}
}

// A plugin that hangs, or leaves behind what does, holds up its own pod for a bounded time.
func TestHangingPlugin(t *testing.T) {
	for _, do := range []string{"hang", "hang in a child"} {
		t.Run(do, func(t *testing.T) {
			n := newNode(t)
			n.Close()
			n.cfg.Timeout = 300 * time.Millisecond
			n.open()
			n.set("fake", "ADD", do)
			if _, err := n.start("a", nil); err == nil || !strings.Contains(err.Error(), "fake ADD did not answer within 300ms and was killed") {
				t.Error("error:", err)
			}
			n.set("fake", "ADD", "")
			n.Close()
			n.cfg.Timeout = 20 * time.Second
			n.open()
			n.pod("b")
		})
	}
}

// Plugins that give one address twice: the second pod is refused, with the name of the first, and taken back; a later daemon
// knows, too. When the first is gone the address is free.
func TestAddressGivenTwice(t *testing.T) {
	n := newNode(t)
	n.settled()
	n.pod("a")
	n.set("fake", "ADD", goodResult) // a's, whoever asks
	for _, what := range []string{"this daemon", "the next one"} {
		_, err := n.start("b", func(r *network.Request) { r.PodName = "other" })
		if !errors.Is(err, book.ErrTaken) || !strings.Contains(err.Error(), "the address 10.99.0.5, which belongs to pod default/web (sandbox a) of network") {
			t.Errorf("%s: %v", what, err)
		}
		if said := n.said(); len(said) < 2 || !slices.Equal(said[len(said)-2:], []string{"second DEL b", "fake DEL b"}) {
			t.Errorf("%s: calls %q", what, said)
		}
		if all, err := n.List(context.Background()); len(all) != 1 || all[0].SandboxID != "a" || err != nil {
			t.Errorf("%s: attached are %v, %v", what, all, err)
		}
		n.Close()
		n.open()
	}
	if again, err := n.start("a", nil); err != nil || again.IPs[0].String() != "10.99.0.5" {
		t.Errorf("the first pod again: %v, %v", again, err)
	}
	n.Stop("a")
	n.pod("b")
}

// A sandbox whose record is lost has no address any more once it is detached, whichever way its record went.
func TestAddressOfALostRecord(t *testing.T) {
	for what, lose := range map[string]func(n *node) error{
		"gone": func(n *node) error {
			return errors.Join(os.Remove(n.records.record("a")), n.Detach(context.Background(), "a"))
		},
		"damaged, and there is no network": func(n *node) error {
			conf := filepath.Join(n.cfg.ConfDir, "10.conflist")
			err := errors.Join(os.WriteFile(n.records.record("a"), []byte("{"), 0o600), os.Rename(conf, conf+".off"))
			_, rerr := n.Repair(context.Background(), func(string) bool { return false })
			return errors.Join(err, rerr, os.Rename(conf+".off", conf))
		},
	} {
		t.Run(what, func(t *testing.T) {
			n := newNode(t)
			n.settled()
			n.pod("a")
			if err := lose(n); err != nil {
				t.Error(err)
			}
			for _, plugin := range []string{"fake", "second"} { // which nobody has told
				if err := os.Remove(filepath.Join(n.folder, "has-"+plugin+"-a")); err != nil {
					t.Error(err)
				}
			}
			n.set("fake", "ADD", goodResult) // a's
			n.pod("b")
			n.Stop("a")
		})
	}
}

// Of two pods that have one address already, none loses it when the other goes.
func TestAddressOfTwo(t *testing.T) {
	n := newNode(t)
	n.settled()
	n.pod("a")
	n.pod("c")
	c, err := n.records.read("c")
	if err != nil {
		t.Fatal(err)
	}
	c.Result.IPs[0] = netip.MustParseAddr("10.99.0.5")
	if err := n.records.write(c); err != nil {
		t.Fatal(err)
	}
	n.Close()
	n.open()
	n.set("fake", "ADD", goodResult) // a's, whoever asks
	for _, first := range []string{"a", "c"} {
		if _, err := n.start("b", nil); !errors.Is(err, book.ErrTaken) || !strings.Contains(err.Error(), "(sandbox "+first+")") {
			t.Errorf("while %s is there: %v", first, err)
		}
		n.Stop(first)
	}
	n.pod("b")
}
