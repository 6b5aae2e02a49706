package ttrpc

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"

	"github.com/11f9778f/berth/internal/shim/wire"
)

const (
	// maxCalls is how many calls of one connection may be under way. A daemon waits for the end of each container in one.
	maxCalls = 4096
	// readBuffer is what a connection that rests holds. What is longer gets room of its own, which is kept up to keptBuffer.
	readBuffer = 512
	keptBuffer = 4 << 10
)

// connection is one client of a Server.
type connection struct {
	net.Conn
	s     *Server
	calls atomic.Int32

	mu sync.Mutex // of writing
}

// serve reads requests until the client leaves. It waits for nothing but the client: calls run beside it, and when answers
// are not read it reads no more.
func (c *connection) serve(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer func() {
		stop()
		cancel()
		c.Close()
		c.s.mu.Lock()
		defer c.s.mu.Unlock()
		delete(c.s.conns, c)
	}()
	r := bufio.NewReaderSize(c, readBuffer)
	var buf []byte
	var last uint32
	for {
		h, payload, err := readFrame(r, buf)
		switch {
		case errors.Is(err, errTooLong):
			c.refuse(h.stream, fmt.Errorf("%w: %w", err, errdefs.ErrResourceExhausted))
			continue
		case err != nil:
			return
		}
		if len(payload) > len(buf) && len(payload) <= keptBuffer {
			buf = payload
		}
		if err := h.check(last); err != nil {
			c.refuse(h.stream, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument))
			continue
		}
		if h.kind != typeRequest {
			continue // of a version to come
		}
		last = h.stream
		if err := c.request(ctx, h.stream, payload); err != nil {
			c.refuse(h.stream, err)
		}
	}
}

// check looks whether a client may send this now; last is its latest stream.
func (h header) check(last uint32) error {
	switch {
	case h.stream%2 != 1:
		return errors.New("streams of clients have odd numbers")
	case h.kind == typeData:
		return errors.New("there is no such stream")
	case h.kind == typeRequest && h.stream <= last:
		return errors.New("streams of clients have rising numbers")
	}
	return nil
}

func (c *connection) request(ctx context.Context, stream uint32, payload []byte) error {
	var req request
	if err := wire.Unmarshal(payload, &req); err != nil {
		return fmt.Errorf("request: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	m, err := c.s.find(req.service, req.method)
	if err != nil {
		return err
	}
	if c.calls.Add(1) > maxCalls {
		c.calls.Add(-1)
		return fmt.Errorf("%d calls are under way on this connection: %w", maxCalls, errdefs.ErrResourceExhausted)
	}
	go func() {
		defer c.calls.Add(-1)
		c.call(ctx, stream, m, &req)
	}()
	return nil
}

func (c *connection) call(ctx context.Context, stream uint32, m Method, req *request) {
	if req.timeoutNano != 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(req.timeoutNano))
		defer cancel()
	}
	answer, err := c.s.around(ctx, "/"+req.service+"/"+req.method, func(ctx context.Context) (wire.Message, error) {
		return m.call(ctx, req.payload)
	})
	if err != nil {
		c.refuse(stream, err)
		return
	}
	b, err := frame(stream, typeResponse, 0, &response{payload: wire.Marshal(answer)})
	if err != nil {
		c.refuse(stream, fmt.Errorf("answer: %w: %w", err, errdefs.ErrResourceExhausted))
		return
	}
	c.send(b)
}

// maxWords bounds an error's message.
const maxWords = 64 << 10

// refuse answers with an error.
func (c *connection) refuse(stream uint32, err error) {
	st := StatusOf(err)
	st.Message = st.Message[:min(len(st.Message), maxWords)]
	if b, err := frame(stream, typeResponse, 0, &response{status: st}); err == nil {
		c.send(b)
	}
}

func (c *connection) send(b []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, err := c.Write(b); err != nil {
		c.Close()
	}
}
