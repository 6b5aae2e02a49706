package server

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/11f9778f/berth/internal/engine"
	"github.com/11f9778f/berth/internal/shim/api"
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
	conn           net.Conn
	stdout, stderr bool

	mu   sync.Mutex
	dead bool
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
	b, err := proto.Marshal(exitMessage(st, false))
	if err == nil {
		c.send(frameExit, b)
	}
}

// fail sends an error in place of an end.
func (c *client) fail(err error) {
	st, _ := status.FromError(errgrpc.ToGRPC(classify(err)))
	if b, err := proto.Marshal(st.Proto()); err == nil {
		c.send(frameError, b)
	}
}

// receive handles the client's frames until it leaves or breaks the protocol. input is nil where none is wanted.
func (c *client) receive(input io.Writer, endInput func(), resize func(width, height uint16) error) error {
	buf := make([]byte, api.MaxFrame)
	for {
		kind, p, err := api.ReadFrame(c.conn, buf)
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
