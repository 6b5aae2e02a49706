package ttrpc

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/11f9778f/berth/internal/shim/wire"
)

// Method is a method of a service.
type Method struct {
	name string
	call func(ctx context.Context, payload []byte) (wire.Message, error)
}

type message[T any] interface {
	*T
	wire.Message
}

// Unary makes a Method of a function.
func Unary[Req, Resp any, PReq message[Req], PResp message[Resp]](name string, f func(context.Context, *Req) (*Resp, error)) Method {
	return Method{name, func(ctx context.Context, payload []byte) (wire.Message, error) {
		req := new(Req)
		if err := wire.Unmarshal(payload, PReq(req)); err != nil {
			return nil, fmt.Errorf("request: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		resp, err := f(ctx, req)
		if err != nil {
			return nil, err
		}
		return PResp(resp), nil
	}}
}

// Call is a method with its request.
type Call func(context.Context) (wire.Message, error)

// Around is called for each call in its place, with the method's name ("/service/method"). What it returns is the answer.
type Around func(ctx context.Context, method string, call Call) (wire.Message, error)

// Server answers calls.
type Server struct {
	around   Around
	services []service

	mu       sync.Mutex
	closed   bool
	listener net.Listener
	conns    map[*connection]bool
}

type service struct {
	name    string
	methods []Method
}

// NewServer makes a server. around may be nil.
func NewServer(around Around) *Server {
	if around == nil {
		around = func(ctx context.Context, _ string, call Call) (wire.Message, error) { return call(ctx) }
	}
	return &Server{around: around, conns: map[*connection]bool{}}
}

// Register adds a service. It must not be called any more once Serve was.
func (s *Server) Register(name string, methods ...Method) {
	s.services = append(s.services, service{name, methods})
}

func (s *Server) find(serviceName, method string) (Method, error) {
	for _, v := range s.services {
		if v.name != serviceName {
			continue
		}
		for _, m := range v.methods {
			if m.name == method {
				return m, nil
			}
		}
		return Method{}, fmt.Errorf("method %s of %s: %w", method, serviceName, errdefs.ErrNotImplemented)
	}
	return Method{}, fmt.Errorf("service %s: %w", serviceName, errdefs.ErrNotImplemented)
}

// Serve answers the clients of l, which it closes at the end: at Close, or at an error of l. The contexts of calls end with
// their connection, and with ctx.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	defer l.Close()
	s.mu.Lock()
	s.listener = l
	s.mu.Unlock()
	for wait := time.Duration(0); !s.isClosed(); {
		conn, err := l.Accept()
		if err == nil {
			wait = 0
			s.accept(ctx, conn)
			continue
		}
		// Out of descriptors, say: that passes.
		if t, ok := err.(interface{ Temporary() bool }); !ok || !t.Temporary() {
			if s.isClosed() {
				break
			}
			return fmt.Errorf("accept: %w", err)
		}
		wait = min(max(2*wait, time.Millisecond), time.Second)
		time.Sleep(wait)
	}
	return net.ErrClosed
}

func (s *Server) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

func (s *Server) accept(ctx context.Context, conn net.Conn) {
	c := &connection{Conn: conn, s: s}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		conn.Close()
		return
	}
	s.conns[c] = true
	go c.serve(ctx)
}

// Close ends all connections, and lets Serve return.
func (s *Server) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.listener != nil {
		s.listener.Close()
	}
	for c := range s.conns {
		c.Close()
	}
}
