package ttrpc

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/11f9778f/berth/internal/shim/wire"
)

// Client calls a server. Calls may be made at the same time.
type Client struct {
	conn net.Conn
	turn chan struct{} // of writing: whoever has put his token in

	mu     sync.Mutex
	next   uint32
	calls  map[uint32]chan *response // by stream; closed without an answer when the connection ends
	closed bool
}

// NewClient makes a client that speaks over conn, which it owns.
func NewClient(conn net.Conn) *Client {
	c := &Client{conn: conn, turn: make(chan struct{}, 1), next: 1, calls: map[uint32]chan *response{}}
	go c.receive()
	return c
}

// Close ends the connection. Calls that are under way fail with ErrClosed.
func (c *Client) Close() error { return c.conn.Close() }

// receive hands out answers until the connection ends.
func (c *Client) receive() {
	r := bufio.NewReaderSize(c.conn, readBuffer)
	var buf []byte
	for {
		h, payload, err := readFrame(r, buf)
		tooLong := errors.Is(err, errTooLong)
		if err != nil && !tooLong {
			break
		}
		if len(payload) > len(buf) && len(payload) <= keptBuffer {
			buf = payload
		}
		if h.kind != typeResponse {
			continue
		}
		resp := &response{}
		if tooLong {
			err = fmt.Errorf("answer: %w: %w", err, errdefs.ErrResourceExhausted)
		} else {
			err = wire.Unmarshal(payload, resp)
		}
		if err != nil {
			resp = &response{status: StatusOf(err)}
		}
		c.mu.Lock()
		answered := c.calls[h.stream]
		delete(c.calls, h.stream)
		c.mu.Unlock()
		if answered != nil {
			answered <- resp
		}
	}
	c.conn.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for stream, answered := range c.calls {
		delete(c.calls, stream)
		close(answered)
	}
}

// Call calls a method and waits for its answer, which it puts into resp. Errors are the server's (those of package errdefs),
// ctx's, or ErrClosed. A context's deadline is told to the server.
func (c *Client) Call(ctx context.Context, service, method string, req, resp wire.Message) error {
	r := &request{service: service, method: method, payload: wire.Marshal(req)}
	if deadline, ok := ctx.Deadline(); ok {
		r.timeoutNano = max(1, int64(time.Until(deadline)))
	}
	stream, answered, err := c.begin(ctx, r)
	if err != nil {
		return err
	}
	select {
	case answer, ok := <-answered:
		if !ok {
			return ErrClosed
		}
		if err := answer.status.Err(); err != nil {
			return err
		}
		return wire.Unmarshal(answer.payload, resp)
	case <-ctx.Done():
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.calls, stream)
		return ctx.Err()
	}
}

// begin sends a request. Streams rise in the order in which they are sent.
func (c *Client) begin(ctx context.Context, r *request) (uint32, chan *response, error) {
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		return 0, nil, ctx.Err()
	}
	stream := c.next
	b, err := frame(stream, typeRequest, flagRemoteClosed, r)
	if err != nil {
		return 0, nil, err
	}
	answered := make(chan *response, 1)
	c.mu.Lock()
	if c.closed || stream > 1<<32-3 {
		c.mu.Unlock()
		return 0, nil, ErrClosed
	}
	c.next += 2
	c.calls[stream] = answered
	c.mu.Unlock()
	if err := c.write(ctx, b); err != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.calls, stream)
		return 0, nil, err
	}
	return stream, answered, nil
}

// write gives up when ctx ends. A request that is half sent then takes the connection with it.
func (c *Client) write(ctx context.Context, b []byte) error {
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		c.conn.SetWriteDeadline(time.Now())
		close(interrupted)
	})
	n, err := c.conn.Write(b)
	if !stop() {
		<-interrupted
		c.conn.SetWriteDeadline(time.Time{})
	}
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil && n == 0:
		return ctx.Err()
	}
	c.conn.Close()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("%w: %w", ErrClosed, err)
}
