package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
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
	var errs []error
	for _, host := range []string{"127.0.0.1", "::1"} {
		d := net.Dialer{Timeout: 10 * time.Second, FallbackDelay: -1}
		c, err := d.DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(int(port))))
		if err == nil {
			return c.(*net.TCPConn), nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// relay copies both ways. The end of one direction is passed on as a half-close; the relay ends when
// the server's side has, or the context does.
func relay(ctx context.Context, conn *net.TCPConn, stream io.ReadWriteCloser) error {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	go func() {
		io.Copy(conn, stream)
		conn.CloseWrite()
	}()
	_, err := io.Copy(stream, conn)
	stream.Close()
	if err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, io.ErrClosedPipe) {
		return fmt.Errorf("forward: %w", err)
	}
	return ctx.Err()
}
