package server

import (
	"encoding/binary"
	"errors"
	"io"
	"maps"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/11f9778f/berth/internal/engine"
	"github.com/11f9778f/berth/internal/shim/api"
	"github.com/11f9778f/berth/internal/shim/ttrpc"
	"github.com/11f9778f/berth/internal/shim/wire"
)

// Kinds of frames on the stream socket, as shim.proto describes them.
const (
	frameStdin    = api.FrameStdin
	frameStdout   = api.FrameStdout
	frameStderr   = api.FrameStderr
	frameStdinEnd = api.FrameStdinEnd
	frameResize   = api.FrameResize
	frameExit     = api.FrameExit
	frameError    = api.FrameError
)

// patience is how long a client that does not read may hold up the stream that it is attached to.
const patience = 5 * time.Second

// client is one connection of the stream socket.
type client struct {
	conn                  net.Conn
	stdin, stdout, stderr bool // what it wants

	mu   sync.Mutex
	dead bool

	halt chan struct{} // of pause: a token for receive to stop between two frames, which it answers by taking it
	on   chan struct{} // lets it go on
}

func newClient(conn net.Conn, r *api.AttachRequest) *client {
	return &client{conn: conn, stdin: r.Stdin, stdout: r.Stdout, stderr: r.Stderr, halt: make(chan struct{}), on: make(chan struct{})}
}

// pause stops receive between two frames, until resume. It tells whether that was so in time.
func (c *client) pause(d time.Duration) bool {
	c.conn.SetReadDeadline(time.Now())
	select {
	case c.halt <- struct{}{}:
		return true
	case <-time.After(d):
		c.conn.SetReadDeadline(time.Time{})
		return false
	}
}

func (c *client) resume() { c.on <- struct{}{} }

// next reads a frame. When the deadline that pause has set passes between two of them it waits there; one that has begun
// is read to its end.
func (c *client) next(buf []byte) (kind byte, p []byte, err error) {
	r := &frameReader{conn: c.conn}
	for {
		kind, p, err = api.ReadFrame(r, buf)
		if err == nil || r.begun || !errors.Is(err, os.ErrDeadlineExceeded) {
			return kind, p, err
		}
		select {
		case <-c.halt:
			<-c.on
		case <-time.After(patience): // pause has given up
		}
		c.conn.SetReadDeadline(time.Time{})
	}
}

// frameReader reads on over a deadline once something has come.
type frameReader struct {
	conn  net.Conn
	begun bool
}

func (r *frameReader) Read(p []byte) (n int, err error) {
	for {
		n, err = r.conn.Read(p)
		r.begun = r.begun || n > 0
		if n > 0 || !r.begun || !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
		r.conn.SetReadDeadline(time.Now().Add(patience)) // the rest is on its way
	}
}

// send writes a frame. A client that takes nothing for too long is cut off.
func (c *client) send(kind byte, p []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead {
		return net.ErrClosed
	}
	c.conn.SetWriteDeadline(time.Now().Add(patience))
	if err := api.WriteFrame(c.conn, kind, p); err != nil {
		c.dead = true
		c.conn.Close()
		return err
	}
	return nil
}

// exit sends the end of the process.
func (c *client) exit(st engine.ExitStatus) {
	c.send(frameExit, wire.Marshal(exitMessage(st, false)))
}

// fail sends an error in place of an end.
func (c *client) fail(err error) {
	c.send(frameError, wire.Marshal(ttrpc.StatusOf(classify(err))))
}

// receive handles the client's frames until it leaves or breaks the protocol. input is nil where none is wanted.
func (c *client) receive(input io.Writer, endInput func(), resize func(width, height uint16) error) error {
	buf := make([]byte, api.MaxFrame)
	for {
		kind, p, err := c.next(buf)
		if err != nil {
			return err
		}
		switch {
		case kind == frameStdin && input != nil:
			if _, err := input.Write(p); err != nil {
				input = nil // the process reads no more; what comes is thrown away
			}
		case kind == frameStdin:
		case kind == frameStdinEnd:
			input = nil
			endInput()
		case kind == frameResize && len(p) == 4:
			_ = resize(binary.BigEndian.Uint16(p), binary.BigEndian.Uint16(p[2:])) // a size too late is no matter
		default:
			return errors.New("unexpected frame")
		}
	}
}

// hub gives a main process's output to the clients attached to it.
type hub struct {
	mu      sync.Mutex
	clients map[*client]bool
	closed  bool
}

func (h *hub) add(c *client) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return false
	}
	if h.clients == nil {
		h.clients = map[*client]bool{}
	}
	h.clients[c] = true
	return true
}

func (h *hub) all() []*client {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Collect(maps.Keys(h.clients))
}

func (h *hub) remove(c *client) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.clients, c)
}

func (h *hub) send(kind byte, p []byte) {
	h.mu.Lock()
	var to []*client
	for c := range h.clients {
		if kind == frameStdout && c.stdout || kind == frameStderr && c.stderr {
			to = append(to, c)
		}
	}
	h.mu.Unlock()
	for _, c := range to {
		if c.send(kind, p) != nil {
			h.remove(c)
		}
	}
}

// close lets nobody in any more; who is there gets the end from where it waits.
func (h *hub) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
}
