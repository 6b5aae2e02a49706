package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/11f9778f/berth/internal/sys"
)

// begin relays from a port of ::1, to the address.
func begin(t *testing.T, protocol, to string) (r *Relay, addr string) {
	t.Helper()
	var free net.Addr
	if protocol == "tcp" {
		l, err := net.Listen("tcp6", "[::1]:0")
		if err != nil {
			t.Skip("this machine has no IPv6:", err)
		}
		free = l.Addr()
		l.Close()
	} else {
		c, err := net.ListenPacket("udp6", "[::1]:0")
		if err != nil {
			t.Skip("this machine has no IPv6:", err)
		}
		free = c.LocalAddr()
		c.Close()
	}
	f, err := sys.ListenPort(protocol, netip.MustParseAddrPort(free.String()))
	if err != nil {
		t.Fatal(err)
	}
	r, err = Start(protocol, f, func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, protocol, to)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r, free.String()
}

// counted is a connection to a pod that counts how often it was given time.
type counted struct {
	net.Conn
	deadlines atomic.Int32
}

func (c *counted) SetReadDeadline(at time.Time) error {
	c.deadlines.Add(1)
	return c.Conn.SetReadDeadline(at)
}

// A client that only listens is not forgotten while the pod has something to say.
func TestAnswersKeepClient(t *testing.T) {
	pod, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer pod.Close()
	far := &counted{}
	f, err := sys.ListenPort("udp", netip.MustParseAddrPort("[::1]:0"))
	if err != nil {
		t.Skip("this machine has no IPv6:", err)
	}
	bound, err := net.FilePacketConn(f)
	if err != nil {
		t.Fatal(err)
	}
	addr := bound.LocalAddr().String()
	bound.Close()
	r, err := Start("udp", f, func(ctx context.Context) (c net.Conn, err error) {
		far.Conn, err = new(net.Dialer).DialContext(ctx, "udp", pod.LocalAddr().String())
		return far, err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	client, err := net.Dial("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	client.Write([]byte("hello"))
	buf := make([]byte, 10)
	_, from, err := pod.ReadFrom(buf)
	if err != nil {
		t.Fatal(err)
	}
	before := far.deadlines.Load()
	pod.WriteTo([]byte("one"), from)
	if n, err := client.Read(buf); err != nil || string(buf[:n]) != "one" || far.deadlines.Load() <= before {
		t.Errorf("%q, %v, and %d more deadlines", buf[:n], err, far.deadlines.Load()-before)
	}
}

func dial(t *testing.T, addr string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*net.TCPConn)
}

// isReset wants a connection to be reset, be it while it is made.
func isReset(t *testing.T, addr string) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err == nil {
		defer c.Close()
		_, err = io.ReadAll(c)
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%v, want a reset", err)
	}
}

// server does with each connection what serve does.
func server(t *testing.T, serve func(c *net.TCPConn)) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go serve(c.(*net.TCPConn))
		}
	}()
	return l.Addr().String()
}

// A direction's end leaves the other open; a reset is passed on; Close ends all.
func TestConnections(t *testing.T) {
	r, addr := begin(t, "tcp", server(t, func(c *net.TCPConn) {
		defer c.Close()
		n, _ := io.Copy(io.Discard, c)
		if n == 13 {
			c.SetLinger(0)
			return
		}
		fmt.Fprintf(c, "%d bytes", n)
	}))
	for range 3 {
		c := dial(t, addr)
		if _, err := c.Write(make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
		}
		c.CloseWrite()
		if got, err := io.ReadAll(c); string(got) != "1048576 bytes" || err != nil {
			t.Errorf("%q, %v", got, err)
		}
	}
	c := dial(t, addr)
	c.Write(make([]byte, 13))
	c.CloseWrite()
	if got, err := io.ReadAll(c); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%q, %v; want a reset", got, err)
	}
	open := dial(t, addr)
	open.Write([]byte("x"))
	r.Close()
	if _, err := io.ReadAll(open); err == nil && r.peers > 0 {
		t.Error("a connection outlived its relay")
	}
	if _, err := net.Dial("tcp", addr); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("after the end: %v", err)
	}
	if r.peers != 0 || len(r.open) > 1 { // the listener
		t.Errorf("%d peers, %d open", r.peers, len(r.open))
	}
}

func TestNobodyThere(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	_, addr := begin(t, "tcp", l.Addr().String())
	isReset(t, addr)
}

func TestDatagrams(t *testing.T) {
	pod, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer pod.Close()
	go func() {
		buf := make([]byte, 100)
		for {
			n, from, err := pod.ReadFrom(buf)
			if err != nil {
				return
			}
			pod.WriteTo([]byte(strings.ToUpper(string(buf[:n]))), from)
		}
	}()
	r, addr := begin(t, "udp", pod.LocalAddr().String())
	for i := range 20 {
		c, err := net.Dial("udp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for range 2 { // the second finds its way
			fmt.Fprintf(c, "client %d", i)
			buf := make([]byte, 100)
			if n, err := c.Read(buf); err != nil || string(buf[:n]) != fmt.Sprintf("CLIENT %d", i) {
				t.Fatalf("%q, %v", buf[:n], err)
			}
		}
	}
	if r.peers != 20 {
		t.Errorf("%d clients, want 20", r.peers)
	}
	r.Close()
	if r.peers != 0 {
		t.Errorf("%d clients are left", r.peers)
	}
}

// One more than there is room for.
func TestMany(t *testing.T) {
	r, addr := begin(t, "tcp", server(t, func(c *net.TCPConn) { io.Copy(c, c) }))
	r.mu.Lock()
	r.peers = maxPeers
	r.mu.Unlock()
	isReset(t, addr)
}
