package streaming

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
)

// watched ends the session when the connection, once it is taken over, breaks or is closed. Without it
// an exec or attach whose streams are silent would outlive its client.
type watched struct {
	http.ResponseWriter
	end func()
}

// Hijack hands the connection over.
func (w *watched) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	early, err := rw.Reader.Peek(rw.Reader.Buffered()) // what the client has sent behind its request
	if err != nil {
		conn.Close()
		return nil, nil, err
	}
	c := &watchedConn{Conn: conn, end: w.end}
	r := bufio.NewReader(io.MultiReader(bytes.NewReader(bytes.Clone(early)), c))
	return c, bufio.NewReadWriter(r, bufio.NewWriter(c)), nil
}

type watchedConn struct {
	net.Conn
	end func()
}

func (c *watchedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err != nil {
		c.end() // neither protocol half-closes its connection, and a timeout is the idle one
	}
	return n, err
}

func (c *watchedConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		c.end()
	}
	return n, err
}

func (c *watchedConn) Close() error {
	c.end()
	return c.Conn.Close()
}

// adapter is what cri-streaming calls for one exec or attach.
type adapter struct {
	rt   Runtime
	opts remotecommand.Options
}

// streams drops what was not asked for: a WebSocket connection has a channel for it all the same.
func (a adapter) streams(in io.Reader, out, err io.WriteCloser, resize <-chan remotecommand.TerminalSize) Streams {
	s := Streams{TTY: a.opts.TTY}
	if a.opts.Stdin {
		s.In = in
	}
	if a.opts.Stdout && out != nil {
		s.Out = out
	}
	if a.opts.Stderr && err != nil {
		s.Err = err
	}
	if a.opts.TTY {
		s.Resize = resize
	}
	return s
}

// ExecInContainer implements remotecommand.Executor.
func (a adapter) ExecInContainer(ctx context.Context, _, _, container string, cmd []string, in io.Reader, out, err io.WriteCloser, _ bool, resize <-chan remotecommand.TerminalSize, _ time.Duration) error {
	return a.rt.Exec(ctx, container, cmd, a.streams(in, out, err, resize))
}

// AttachContainer implements remotecommand.Attacher.
func (a adapter) AttachContainer(ctx context.Context, _, _, container string, in io.Reader, out, err io.WriteCloser, _ bool, resize <-chan remotecommand.TerminalSize) error {
	return a.rt.Attach(ctx, container, a.streams(in, out, err, resize))
}

// forwarder is what cri-streaming calls for the connections of one port-forward. It brings no context of
// the connection; this one does.
type forwarder struct {
	session context.Context
	rt      Runtime
}

// PortForward implements portforward.PortForwarder.
func (f forwarder) PortForward(_ context.Context, sandbox, _ string, port int32, stream io.ReadWriteCloser) error {
	return f.rt.PortForward(f.session, sandbox, port, stream)
}
