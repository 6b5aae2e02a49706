package nettest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/11f9778f/berth/internal/sys"
)

// In runs f in the network namespace that is pinned at path; "" is the test's own.
func In(path string, f func() error) error {
	if path == "" {
		return f()
	}
	ns, err := sys.OpenNetNS(path)
	if err != nil {
		return err
	}
	defer ns.Close()
	return sys.InNetNS(ns, f)
}

// Serve answers in a namespace on addr with "NAME saw ADDRESS OF CLIENT", until the test ends or stop is called.
func Serve(t testing.TB, path, network, addr, name string) (stop func()) {
	t.Helper()
	var c io.Closer
	err := In(path, func() error {
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
	if err != nil {
		t.Fatal(err)
	}
	stop = func() { c.Close() }
	t.Cleanup(stop)
	return stop
}

func answerPackets(c net.PacketConn, name string) {
	buf := make([]byte, 100)
	for {
		_, from, err := c.ReadFrom(buf)
		if err != nil {
			return
		}
		c.WriteTo(fmt.Appendf(nil, "%s saw %s\n", name, addrOf(from)), from)
	}
}

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

// Ask sends a question from a namespace and returns the answer.
func Ask(path, network, addr string) (answer string, err error) {
	err = In(path, func() error {
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

// Expect asks until the answer is the one wanted, or for so long that it never will be.
func Expect(t testing.TB, from, network, addr, want string) {
	t.Helper()
	var got string
	var err error
	for range 3 { // on a loaded machine an answer may take longer than the patience of one question
		if got, err = Ask(from, network, addr); err == nil {
			break
		}
	}
	if err != nil || got != want {
		t.Errorf("from %q to %s %s: got %q, %v; want %q", from, network, addr, got, err, want)
	}
}

// Refuse asks, and wants no answer.
func Refuse(t testing.TB, from, network, addr string) {
	t.Helper()
	if got, err := Ask(from, network, addr); err == nil {
		t.Errorf("from %q to %s %s: got %q, want no answer", from, network, addr, got)
	}
}

// Addresses of the world outside and of the host's link to it.
const (
	Outside4, HostOutside4 = "198.51.100.2", "198.51.100.1"
	Outside6, HostOutside6 = "2001:db8::2", "2001:db8::1"
)

// World links the namespace at path, which plays the world outside, to the test's own. It has no route to pods.
func World(t testing.TB, path string) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ns, err := sys.OpenNetNS(path)
	must(err)
	defer ns.Close()
	uplink := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "uplink"}, PeerName: "eth0", PeerNamespace: netlink.NsFd(ns.Fd())}
	must(netlink.LinkAdd(uplink))
	t.Cleanup(func() { netlink.LinkDel(uplink) })
	must(up("uplink", HostOutside4+"/24", HostOutside6+"/64"))
	must(In(path, func() error { return up("eth0", Outside4+"/24", Outside6+"/64") }))
	for _, ip := range []string{Outside4, Outside6} { // the kernel brings a link up in its own time
		Await(t, ip+" answers", func() bool {
			_, err := Ask("", "tcp", net.JoinHostPort(ip, "1"))
			return errors.Is(err, syscall.ECONNREFUSED)
		})
	}
}

func up(name string, addrs ...string) error {
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

// Await waits until the condition holds.
func Await(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if holds() {
			return
		}
	}
	t.Errorf("it did not come true: %s", what)
}

// Command runs a program in the namespace at path ("" is the test's own). The test is skipped where the program
// is not installed.
func Command(t testing.TB, path string, args ...string) {
	t.Helper()
	if _, err := exec.LookPath(args[0]); err != nil {
		t.Skip("this test needs a program that is not installed:", err)
	}
	err := In(path, func() error {
		out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, out)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
