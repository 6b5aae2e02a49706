package network

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/11f9778f/berth/internal/network/nettest"

	"github.com/vishvananda/netlink"
)

// job is what a child process of a test does, as JSON in the environment.
type job struct {
	RunDir string
	Do     string // "life", "spare" (a life that begins with a spare) or "churn"
}

// child is the main function of such a process.
func child(j job) int {
	cfg := Config{RunDir: j.RunDir, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))}
	if j.Do == "spare" {
		cfg.Spares = 1
	}
	m, err := Open(cfg)
	if err == nil && j.Do == "spare" {
		err = warm(m)
	}
	if err == nil && j.Do != "churn" {
		err = life(m)
	}
	if err == nil && j.Do == "churn" {
		err = churn(m)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func lifeRequest(path string) Request {
	return Request{SandboxID: "life", NetNS: path, Bandwidth: Bandwidth{Ingress: 1e9, Egress: 1e9}, PortMappings: []PortMapping{
		tcp(8080, 80), {Protocol: "UDP", HostPort: 5353, ContainerPort: 53},
	}}
}

// life is one pod's network from its beginning to its end.
func life(m *Manager) error {
	ctx := context.Background()
	path, err := m.CreateNetNS(ctx, "life", nil)
	if err != nil {
		return err
	}
	if _, err := m.Attach(ctx, lifeRequest(path)); err != nil {
		return err
	}
	if err := m.Detach(ctx, "life"); err != nil {
		return err
	}
	if err := m.RemoveNetNS(ctx, "life"); err != nil {
		return err
	}
	return m.Close()
}

const churnIDs = 40

// churn starts and stops pods until it is killed, and prints a line for each.
func churn(m *Manager) error {
	var wg sync.WaitGroup
	var out sync.Mutex
	for worker := range 4 {
		wg.Go(func() {
			for {
				id := fmt.Sprintf("pod-%d", rand.IntN(churnIDs/4)*4+worker)
				if err := flip(m, id); err != nil {
					fmt.Fprintln(os.Stderr, err)
					os.Exit(1)
				}
				out.Lock()
				fmt.Println(id)
				out.Unlock()
			}
		})
	}
	wg.Wait()
	return nil
}

// flip stops a pod that is attached, and starts one that is not.
func flip(m *Manager, id string) error {
	ctx := context.Background()
	if _, ok := m.book.Get(id); ok {
		if err := m.Detach(ctx, id); err != nil {
			return err
		}
		return m.RemoveNetNS(ctx, id)
	}
	path, err := m.CreateNetNS(ctx, id, nil)
	if err != nil {
		return err
	}
	var n uint16
	fmt.Sscanf(id, "pod-%d", &n)
	_, err = m.Attach(ctx, Request{SandboxID: id, NetNS: path, PortMappings: []PortMapping{tcp(30000+n, 80)}})
	return err
}

// child returns the child process for a job, with a failpoint.
func (h *host) child(do, failpoint string) *exec.Cmd {
	return nettest.Child(h, job{RunDir: h.cfg.RunDir, Do: do}, failpoint)
}

// failpoints returns the places that a life passes.
func failpoints(t *testing.T) []string {
	h := newHost(t, nil)
	h.Close()
	defer h.open()
	resetForwarding(t)
	return nettest.Places(t, job{RunDir: h.cfg.RunDir, Do: "life"})
}

// resetForwarding makes the next Manager change the host's setting again.
func resetForwarding(t *testing.T) {
	t.Helper()
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("0"), 0); err != nil {
		t.Fatal(err)
	}
}

func TestKilledAtEveryPlace(t *testing.T) {
	nettest.NeedRoot(t)
	places := failpoints(t)
	if len(places) < 25 {
		t.Errorf("only %d places: %v", len(places), places)
	}
	for _, place := range places {
		for _, then := range []string{"repair", "repeat", "stop"} {
			t.Run(place+"/"+then, func(t *testing.T) {
				h := newHost(t, nil)
				h.Close()
				resetForwarding(t)
				nettest.WasKilled(t, h.child("life", place+"=kill").Run())
				h.open()
				h.goOn(then)
				await(t, "nothing of life is left", func() bool { return len(h.items("life")) == 0 })
			}) // newHost's clean-up finds nothing in the kernel
		}
	}
}

// goOn is what a daemon does after a crash: it forgets the pod, starts it again, or stops it.
func (h *host) goOn(then string) {
	h.Helper()
	ctx := context.Background()
	switch then {
	case "repair":
		if _, err := h.Repair(ctx, func(string) bool { return false }); err != nil {
			h.Fatal(err)
		}
	case "repeat":
		path, err := h.CreateNetNS(ctx, "life", nil)
		if err != nil {
			h.Fatal(err)
		}
		r, err := h.Attach(ctx, lifeRequest(path))
		if err != nil {
			h.Fatal(err)
		}
		for _, it := range h.items("life") {
			if it.Note != "" {
				h.Error("after the repetition:", it)
			}
		}
		h.expectPing("life", r)
		h.Serve("life", "tcp", ":80", "life")()
		h.Stop("life")
	case "stop":
		h.Stop("life")
	}
}

// An error at any place is reported, and Detach and RemoveNetNS clear up.
func TestErrorAtEveryPlace(t *testing.T) {
	nettest.NeedRoot(t)
	for _, place := range failpoints(t) {
		t.Run(place, func(t *testing.T) {
			h := newHost(t, nil)
			h.Close()
			resetForwarding(t)
			nettest.FailsAt(t, job{RunDir: h.cfg.RunDir, Do: "life"}, place)
			h.open()
			if strings.HasPrefix(place, "network/netns/pin") || strings.HasPrefix(place, "network/netns/file") {
				return // Create cleared up by itself; clean-up looks
			}
			h.Stop("life")
			await(t, "nothing of life is left", func() bool { return len(h.items("life")) == 0 })
		})
	}
}

var churnLength = flag.Int("churn", 1200, "starts and stops of TestChurnWithKills; 10000 take some two minutes")

// A thousand starts and stops, with kill -9 in between. The book alone goes through ten thousand by itself.
func TestChurnWithKills(t *testing.T) {
	h := newHost(t, nil)
	kills, each := *churnLength/60, 60
	if testing.Short() {
		kills = 3
	}
	for range kills {
		h.Close()
		cmd := h.child("churn", "")
		lines, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		in := bufio.NewScanner(lines)
		for n := 0; n < each+rand.IntN(10) && in.Scan(); n++ {
		}
		cmd.Process.Kill()
		nettest.WasKilled(t, cmd.Wait())
		h.open()
		h.checkBook()
	}
	if _, err := h.Repair(context.Background(), func(string) bool { return false }); err != nil {
		t.Error(err)
	}
	await(t, "nothing is left", func() bool {
		all, err := h.Inventory(context.Background())
		return err == nil && len(all) <= 2 // bridge and table
	})
}

// checkBook compares the book with what the namespaces have.
func (h *host) checkBook() {
	h.Helper()
	owners := map[netip.Addr]string{}
	for _, e := range h.book.Entries() {
		for _, a := range e.Addresses {
			if other, ok := owners[a.Addr()]; ok {
				h.Errorf("%s belongs to %s and %s", a.Addr(), other, e.Owner)
			}
			owners[a.Addr()] = e.Owner
		}
	}
	ids, err := h.Pins.List()
	if err != nil {
		h.Fatal(err)
	}
	for _, id := range ids {
		if !h.Pins.Pinned(id) {
			continue
		}
		h.In(id, func() error {
			addrs, err := netlink.AddrList(nil, netlink.FAMILY_V4)
			for _, a := range addrs {
				ip, _ := netip.AddrFromSlice(a.IP)
				if !ip.IsLoopback() && owners[ip] != id {
					h.Errorf("%s has %s, which the book gives to %q", id, ip, owners[ip])
				}
			}
			return err
		})
	}
	if d, err := h.book.Damaged(); len(d) > 0 || err != nil {
		h.Errorf("damaged records: %v, %v", d, err)
	}
}
