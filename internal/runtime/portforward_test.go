package runtime

import (
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// clientStream is the client's end of a forwarded connection, as SPDY has it.
type clientStream struct {
	in     *io.PipeReader
	out    chan []byte
	closed chan struct{}
	broken chan struct{}
	gone   bool // the client has reset it
}

func newClientStream() (*clientStream, *io.PipeWriter) {
	r, w := io.Pipe()
	return &clientStream{in: r, out: make(chan []byte, 100), closed: make(chan struct{}), broken: make(chan struct{})}, w
}

func (s *clientStream) Read(p []byte) (int, error) { return s.in.Read(p) }
func (s *clientStream) Write(p []byte) (int, error) {
	s.out <- append([]byte(nil), p...)
	return len(p), nil
}
func (s *clientStream) Close() error     { close(s.closed); return nil }
func (s *clientStream) Reset() error     { close(s.broken); return nil }
func (s *clientStream) IsFinished() bool { return s.gone }

// forwarded starts a relay to a server that is a function, and returns its result.
func forwarded(t *testing.T, ctx context.Context, s io.ReadWriteCloser, server func(*net.TCPConn)) <-chan error {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		c, err := l.Accept()
		if err == nil {
			server(c.(*net.TCPConn))
		}
	}()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- relay(ctx, conn.(*net.TCPConn), s) }()
	return done
}

func wait[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(2 * time.Minute):
		t.Fatalf("%s did not come", what)
		panic("unreachable")
	}
}

// The client ends first: the server still answers.
func TestRelayClientHalfClose(t *testing.T) {
	s, w := newClientStream()
	done := forwarded(t, t.Context(), s, func(c *net.TCPConn) {
		b, _ := io.ReadAll(c)
		c.Write([]byte(strings.ToUpper(string(b))))
		c.Close()
	})
	io.WriteString(w, "hello")
	w.Close()
	if got := wait(t, "the answer", s.out); string(got) != "HELLO" {
		t.Errorf("%q", got)
	}
	wait(t, "the half-close", s.closed)
	if err := wait(t, "the end", done); err != nil {
		t.Error(err)
	}
}

// The server ends first: what the client still sends arrives.
func TestRelayServerHalfClose(t *testing.T) {
	s, w := newClientStream()
	got := make(chan string, 1)
	done := forwarded(t, t.Context(), s, func(c *net.TCPConn) {
		c.Write([]byte("bye"))
		c.CloseWrite()
		b, _ := io.ReadAll(c)
		got <- string(b)
		c.Close()
	})
	wait(t, "the half-close", s.closed)
	s.gone = true // a SPDY stream that we have finished says so, too
	for range 3 {
		time.Sleep(lull / 3)
		io.WriteString(w, "more ")
	}
	w.Close()
	if g := wait(t, "the rest", got); g != "more more more " {
		t.Errorf("%q", g)
	}
	if err := wait(t, "the end", done); err != nil {
		t.Error(err)
	}
}

// A client that never ends its direction does not keep a connection that the server has ended.
func TestRelaySilentClient(t *testing.T) {
	s, w := newClientStream()
	defer w.Close()
	done := forwarded(t, t.Context(), s, func(c *net.TCPConn) { c.Close() })
	wait(t, "the half-close", s.closed)
	if err := wait(t, "the end", done); err != nil {
		t.Error(err)
	}
}

// A reset by the server is a reset for the client, and no error of the forwarding.
func TestRelayServerReset(t *testing.T) {
	s, w := newClientStream()
	defer w.Close()
	done := forwarded(t, t.Context(), s, func(c *net.TCPConn) {
		io.ReadFull(c, make([]byte, 1))
		reset(c)
	})
	io.WriteString(w, "x")
	wait(t, "the reset", s.broken)
	if err := wait(t, "the end", done); err != nil {
		t.Error(err)
	}
}

// A reset by the client, or its connection's end, is a reset for the server: it sees no orderly end.
func TestRelayClientGone(t *testing.T) {
	for name, leave := range map[string]func(*clientStream, *io.PipeWriter, context.CancelFunc){
		"reset":      func(s *clientStream, w *io.PipeWriter, _ context.CancelFunc) { s.gone = true; w.Close() },
		"connection": func(_ *clientStream, _ *io.PipeWriter, cancel context.CancelFunc) { cancel() },
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			s, w := newClientStream()
			defer w.Close()
			seen := make(chan error, 1)
			done := forwarded(t, ctx, s, func(c *net.TCPConn) {
				_, err := c.Read(make([]byte, 10))
				seen <- err
				c.Close()
			})
			leave(s, w, cancel)
			if err := wait(t, "the server's end", seen); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the server saw %v", err)
			}
			wait(t, "the end", done)
		})
	}
}

func TestDialBothFamilies(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "::1"} {
		l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
		if err != nil {
			t.Skipf("no loopback %s here: %v", host, err)
		}
		defer l.Close()
		_, port, _ := net.SplitHostPort(l.Addr().String())
		n, _ := strconv.Atoi(port)
		c, err := dialIn(t.Context(), "", int32(n))
		if err != nil {
			t.Errorf("%s: %v", host, err)
			continue
		}
		c.Close()
	}
}
