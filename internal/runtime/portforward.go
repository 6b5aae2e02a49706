package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/11f9778f/berth/internal/sys"
)

// dialIn connects to a port on the loopback of a network namespace; an empty path is the host's.
func dialIn(ctx context.Context, netns string, port int32) (*net.TCPConn, error) {
	if netns == "" {
		return dialLoopback(ctx, port)
	}
	ns, err := sys.OpenNetNS(netns)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	var conn *net.TCPConn
	err = sys.InNetNS(ns, func() (err error) {
		conn, err = dialLoopback(ctx, port)
		return err
	})
	return conn, err
}

// dialLoopback tries IPv4, then IPv6. It dials addresses, one after the other: the resolver or a race
// between families would start goroutines, and those are in no namespace but the host's.
func dialLoopback(ctx context.Context, port int32) (*net.TCPConn, error) {
	var first error
	for _, host := range []string{"127.0.0.1", "::1"} {
		d := net.Dialer{Timeout: 10 * time.Second, FallbackDelay: -1}
		c, err := d.DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(int(port))))
		switch {
		case err == nil:
			return c.(*net.TCPConn), nil
		case errors.Is(err, syscall.ECONNRESET):
			return nil, err // there is a server, and it has accepted
		case first != nil:
			return nil, fmt.Errorf("%w; %w", first, err)
		}
		first = err
	}
	return nil, first
}

// lull is how long, after the server has ended its direction, the client's may be silent before the
// connection is given up. Old clients never end theirs by themselves.
const lull = time.Second

// relay copies both ways until both directions have ended. The end of one is passed on as a half-close,
// and a reset of one side as a reset of the other.
func relay(ctx context.Context, conn *net.TCPConn, stream io.ReadWriteCloser) error {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { reset(conn) })
	defer stop()
	moved := make(chan struct{}, 1)
	up := make(chan struct{})
	var ended atomic.Bool // our direction of the stream
	go func() {
		defer close(up)
		_, err := io.Copy(&busy{conn, moved}, stream)
		if err != nil || !ended.Load() && wasReset(stream) {
			reset(conn)
			return
		}
		conn.CloseWrite()
	}()
	_, err := io.Copy(stream, conn)
	if err != nil { // either side has broken off, which is not the forwarding's fault
		reset(conn)
		breakOff(stream)
		return ctx.Err()
	}
	ended.Store(true)
	stream.Close()
	for {
		select {
		case <-up:
			return ctx.Err()
		case <-moved:
		case <-time.After(lull):
			return ctx.Err()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// breakOff resets the client's stream where its kind can.
func breakOff(stream io.Closer) {
	if r, ok := stream.(interface{ Reset() error }); ok {
		r.Reset()
		return
	}
	stream.Close()
}

// wasReset tells whether the client broke the stream off, where it can be told: a stream of SPDY is
// finished before we have finished it only then.
func wasReset(stream io.Reader) bool {
	s, ok := stream.(interface{ IsFinished() bool })
	return ok && s.IsFinished()
}

// reset closes the connection so that the other side sees a reset and not an orderly end.
func reset(conn *net.TCPConn) {
	conn.SetLinger(0)
	conn.Close()
}

// busy tells of every write.
type busy struct {
	io.Writer
	moved chan<- struct{}
}

func (b *busy) Write(p []byte) (int, error) {
	select {
	case b.moved <- struct{}{}:
	default:
	}
	return b.Writer.Write(p)
}
