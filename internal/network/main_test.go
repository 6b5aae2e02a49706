package network

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/11f9778f/berth/internal/network/netns"
	"github.com/11f9778f/berth/internal/network/rtnl"
	"github.com/11f9778f/berth/internal/sys"
)

const (
	insideEnv = "BERTH_NETWORK_TEST_INSIDE" // set in the process that has namespaces of its own
	childEnv  = "BERTH_NETWORK_TEST_CHILD"  // what a child of a test is to do
)

// TestMain runs the tests in a process with a network and a mount namespace of its own, so that they meet
// nothing of this machine's and leave nothing in it. That namespace plays the host.
func TestMain(m *testing.M) {
	switch {
	case os.Getenv(childEnv) != "":
		os.Exit(child(os.Getenv(childEnv)))
	case os.Geteuid() == 0 && os.Getenv(insideEnv) == "":
		os.Exit(reexec())
	case os.Getenv(insideEnv) != "":
		if err := bringLoopbackUp(); err != nil {
			fmt.Fprintln(os.Stderr, "bring lo up:", err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

func reexec() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); err != nil {
		if cmd.ProcessState == nil {
			fmt.Fprintln(os.Stderr, "start the tests in namespaces of their own:", err)
			return 1
		}
		return cmd.ProcessState.ExitCode()
	}
	return 0
}

func bringLoopbackUp() error {
	c, err := rtnl.Dial(nil)
	if err != nil {
		return err
	}
	defer c.Close()
	return c.LinkUp(1)
}

// needRoot skips a test that makes namespaces and links.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes network namespaces, links and an nftables table")
	}
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
	needRoot(t)
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
	return h.Attach(context.Background(), Request{SandboxID: id, NetNS: path, PortMappings: ports})
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

// in runs f in the pod's namespace; id "" is the host's.
func (h *host) in(id string, f func() error) {
	h.Helper()
	if err := h.try(id, f); err != nil {
		h.Fatal(err)
	}
}

func (h *host) try(id string, f func() error) error {
	if id == "" {
		return f()
	}
	ns, err := sys.OpenNetNS(h.pins.Path(id))
	if err != nil {
		return err
	}
	defer ns.Close()
	return sys.InNetNS(ns, f)
}

// serve answers in a namespace on addr with "NAME saw ADDRESS OF CLIENT", until the test ends or stop is called.
func (h *host) serve(id, network, addr, name string) (stop func()) {
	h.Helper()
	var c io.Closer
	h.in(id, func() error {
		if strings.HasPrefix(network, "udp") {
			p, err := net.ListenPacket(network, addr)
			if err == nil {
				c = p
				go answerPackets(p, name)
			}
			return err
		}
		l, err := net.Listen(network, addr)
		if err == nil {
			c = l
			go answerStreams(l, name)
		}
		return err
	})
	stop = func() { c.Close() }
	h.Cleanup(stop)
	return stop
}

func answerPackets(c net.PacketConn, name string) {
	buf := make([]byte, 100)
	for {
		_, from, err := c.ReadFrom(buf)
		if err != nil {
			return
		}
		fmt.Fprintf(packetTo{c, from}, "%s saw %s\n", name, addrOf(from))
	}
}

type packetTo struct {
	net.PacketConn
	to net.Addr
}

func (p packetTo) Write(b []byte) (int, error) { return p.WriteTo(b, p.to) }

func answerStreams(l net.Listener, name string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		fmt.Fprintf(c, "%s saw %s\n", name, addrOf(c.RemoteAddr()))
		c.Close()
	}
}

func addrOf(a net.Addr) netip.Addr { return netip.MustParseAddrPort(a.String()).Addr().Unmap() }

// ask sends a question from a namespace and returns the answer.
func (h *host) ask(id, network, addr string) (answer string, err error) {
	err = h.try(id, func() error {
		c, err := net.DialTimeout(network, addr, 2*time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(2 * time.Second))
		if strings.HasPrefix(network, "udp") {
			if _, err := c.Write([]byte("?")); err != nil {
				return err
			}
		}
		answer, err = bufio.NewReader(c).ReadString('\n')
		return err
	})
	return strings.TrimSpace(answer), err
}

func (h *host) expect(from, network, addr, want string) {
	h.Helper()
	got, err := h.ask(from, network, addr)
	if err != nil || got != want {
		h.Errorf("from %q to %s %s: got %q, %v; want %q", from, network, addr, got, err, want)
	}
}

func (h *host) refuse(from, network, addr string) {
	h.Helper()
	if got, err := h.ask(from, network, addr); err == nil {
		h.Errorf("from %q to %s %s: got %q, want no answer", from, network, addr, got)
	}
}

// Addresses of the world outside and of the host's link to it.
const (
	outside4, hostOutside4 = "198.51.100.2", "198.51.100.1"
	outside6, hostOutside6 = "2001:db8::2", "2001:db8::1"
)

// world makes a namespace "outside" with a link to the host, and no route to the pods.
func (h *host) world() {
	h.Helper()
	path, err := h.CreateNetNS(context.Background(), "outside", nil)
	if err != nil {
		h.Fatal(err)
	}
	ns, err := sys.OpenNetNS(path)
	if err != nil {
		h.Fatal(err)
	}
	defer ns.Close()
	must := func(err error) {
		h.Helper()
		if err != nil {
			h.Fatal(err)
		}
	}
	uplink := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "uplink"}, PeerName: "eth0", PeerNamespace: netlink.NsFd(ns.Fd())}
	must(netlink.LinkAdd(uplink))
	h.Cleanup(func() { netlink.LinkDel(uplink) })
	up := func(name string, addrs ...string) error {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		for _, a := range addrs {
			parsed, err := netlink.ParseAddr(a)
			if err != nil {
				return err
			}
			parsed.Flags = syscall.IFA_F_NODAD
			if err := netlink.AddrAdd(l, parsed); err != nil {
				return err
			}
		}
		return netlink.LinkSetUp(l)
	}
	must(up("uplink", hostOutside4+"/24", hostOutside6+"/64"))
	h.in("outside", func() error { return up("eth0", outside4+"/24", outside6+"/64") })
	for _, ip := range []string{outside4, outside6} { // the kernel brings a link up in its own time
		await(h, ip+" answers", func() bool {
			_, err := h.ask("", "tcp", net.JoinHostPort(ip, "1"))
			return errors.Is(err, syscall.ECONNREFUSED)
		})
	}
}

// await waits until the condition holds.
func await(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if holds() {
			return
		}
	}
	t.Errorf("in 20 s it did not come true: %s", what)
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
