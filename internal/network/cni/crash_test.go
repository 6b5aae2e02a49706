package cni

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/11f9778f/berth/internal/network"
	"github.com/11f9778f/berth/internal/network/nettest"
)

// child lives the life of one pod.
func child(cfg Config) int {
	if err := life(cfg); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func life(cfg Config) error {
	cfg.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	n, err := Open(cfg)
	if err != nil {
		return err
	}
	<-n.retry.first // no plugin runs beside those of the pod's life, and outlives them
	ctx := context.Background()
	path, err := n.CreateNetNS(ctx, "life", nil)
	if err != nil {
		return err
	}
	if _, err := n.Attach(ctx, network.Request{SandboxID: "life", NetNS: path, PodNamespace: "default", PodName: "web"}); err != nil {
		return err
	}
	if err := n.Detach(ctx, "life"); err != nil {
		return err
	}
	if err := n.RemoveNetNS(ctx, "life"); err != nil {
		return err
	}
	return n.Close()
}

// job is what a child gets: the configuration, without what is of this process.
func (n *node) job() Config {
	cfg := n.cfg
	cfg.Logger = nil
	return cfg
}

// places are those that a life passes.
func places(t *testing.T) []string {
	t.Helper()
	n := newNode(t)
	n.Close()
	defer n.open()
	all := nettest.Places(t, n.job())
	if len(all) < 12 {
		t.Errorf("only %d places: %v", len(all), all)
	}
	return all
}

// Whatever the place where the daemon dies: the next one finds what the plugins have, and has them give it back.
func TestKilledAtEveryPlace(t *testing.T) {
	for _, place := range places(t) {
		for _, then := range []string{"repair", "repeat"} {
			t.Run(place+"/"+then, func(t *testing.T) {
				n := newNode(t)
				n.Close()
				nettest.WasKilled(t, nettest.Child(t, n.job(), place+"=kill").Run())
				n.open()
				if then == "repeat" {
					n.pod("life")
					n.Stop("life")
				}
			}) // newNode's clean-up repairs, and finds nothing
		}
	}
}

// An error at any place is told, and what had been done is taken back, at once or when it is asked for.
func TestErrorAtEveryPlace(t *testing.T) {
	for _, place := range places(t) {
		t.Run(place, func(t *testing.T) {
			n := newNode(t)
			n.Close()
			nettest.FailsAt(t, n.job(), place)
			n.open()
			n.Stop("life")
			if all, err := n.List(context.Background()); len(all) > 0 || err != nil {
				t.Errorf("left: %v, %v", all, err)
			}
		})
	}
}

// A plugin survives the daemon that called it. The next daemon lets it end before it says DEL: an address that is
// given after its DEL is lost.
func TestNoDelOvertakesAnAdd(t *testing.T) {
	n := newNode(t)
	n.settled()
	n.Close()
	n.set("fake", "ADD", "wait for a file")
	cmd := nettest.Child(t, n.job(), "")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(n.folder, "log")
	nettest.Await(t, "ADD runs", func() bool { b, _ := os.ReadFile(log); return strings.Contains(string(b), `"Command":"ADD"`) })
	cmd.Process.Kill()
	nettest.WasKilled(t, cmd.Wait())
	n.open()
	done := make(chan error, 1)
	go func() {
		_, err := n.Repair(context.Background(), func(string) bool { return false })
		done <- err
	}()
	// Whether it waits shows in the order of the log, not in time.
	if err := os.WriteFile(filepath.Join(n.folder, "go on"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	b, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	var order []string
	for line := range strings.Lines(string(b)) {
		var c call
		if err := json.Unmarshal([]byte(line), &c); err != nil {
			t.Fatal(err)
		}
		if c.Command != "GC" {
			order = append(order, c.Plugin+" "+c.Command)
		}
	}
	if want := []string{"fake ADD", "fake end of ADD", "second DEL", "fake DEL"}; !slices.Equal(order, want) {
		t.Errorf("%q, want %q", order, want)
	}
}

// A record that can not be read is told of, and goes with a repair, which the clean-up does.
func TestDamagedRecord(t *testing.T) {
	n := newNode(t)
	n.pod("a")
	if err := os.WriteFile(n.records.record("a"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	items, err := n.Inventory(context.Background())
	if err != nil || len(items) != 2 || items[1].Kind != network.KindRecord {
		t.Errorf("%v, %v", items, err)
	}
	if err := n.Detach(context.Background(), "a"); err == nil {
		t.Error("what is not known was detached")
	}
}
