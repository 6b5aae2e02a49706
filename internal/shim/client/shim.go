package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	sandboxv1 "github.com/containerd/containerd/api/runtime/sandbox/v1"
	taskv3 "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/11f9778f/berth/internal/shim/api/pb"
	"github.com/11f9778f/berth/internal/shim/state"
	"github.com/11f9778f/berth/internal/sys"
)

// Shim is the shim of one group. It stays valid when the process behind it is replaced. Its services' errors are
// those of package errdefs.
type Shim struct {
	g *group
	// front is what callers' stubs speak to. It has no connection of its own: each call goes to the shim that lives
	// when it is made.
	front *ttrpc.Client
	pipe  net.Conn

	starts atomic.Bool // it knows pb.CreateOptions.Start

	mu      sync.Mutex
	conn    *ttrpc.Client // nil while there is none
	pid     int
	arrived chan struct{} // closed while conn is set, or gone is
	gone    error         // no shim will come any more
	calls   int           // that have taken a connection and have no answer; without endless ones
	stuck   bool
}

func newShim(g *group) *Shim {
	s := &Shim{g: g, arrived: make(chan struct{})}
	ours, theirs := net.Pipe()
	s.pipe = theirs
	s.front = ttrpc.NewClient(ours, ttrpc.WithUnaryClientInterceptor(s.route))
	return s
}

// Group is the id of the group that the shim keeps.
func (s *Shim) Group() string { return s.g.id }

// Pid is the shim's process, 0 while there is none.
func (s *Shim) Pid() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pid
}

// StartsAtOnce tells whether the shim knows pb.CreateOptions.Start: one of an earlier version does not.
func (s *Shim) StartsAtOnce() bool { return s.starts.Load() }

// Namespace is where a sandbox's own namespace of a kind ("ipc", "uts") is bound, if it has one.
func (s *Shim) Namespace(sandbox, kind string) string {
	return filepath.Join(state.Namespaces(s.g.dir, sandbox), kind)
}

// Task is the standard service for containers.
func (s *Shim) Task() taskv3.TTRPCTaskService { return taskv3.NewTTRPCTaskClient(s.front) }

// Sandbox is the standard service for sandboxes.
func (s *Shim) Sandbox() sandboxv1.TTRPCSandboxService {
	return sandboxv1.NewTTRPCSandboxClient(s.front)
}

// Berth is our own service, nil for a foreign shim.
func (s *Shim) Berth() pb.ShimService {
	if s.g.rec.Foreign {
		return nil
	}
	return pb.NewShimClient(s.front)
}

// call is a request on its way from front to the living connection, through the connection's interceptor.
type call struct {
	req  *ttrpc.Request
	resp *ttrpc.Response
}

type callKey struct{}

// carry is the interceptor of a real connection: it sends the call that route put into the context.
func carry(ctx context.Context, req *ttrpc.Request, resp *ttrpc.Response, _ *ttrpc.UnaryClientInfo, invoke ttrpc.Invoker) error {
	if c, ok := ctx.Value(callKey{}).(call); ok {
		return invoke(ctx, c.req, c.resp)
	}
	return invoke(ctx, req, resp)
}

// endless are calls that may take as long as what they wait for.
var endless = map[string]bool{
	"/containerd.task.v3.Task/Wait": true, "/containerd.runtime.sandbox.v1.Sandbox/WaitSandbox": true,
}

// route sends a call to the living shim, waiting for one if need be, and gives it a deadline.
func (s *Shim) route(ctx context.Context, req *ttrpc.Request, resp *ttrpc.Response, info *ttrpc.UnaryClientInfo, _ ttrpc.Invoker) error {
	if _, ok := ctx.Deadline(); !ok && !endless[info.FullMethod] {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.g.m.cfg.CallTimeout)
		defer cancel()
		req.TimeoutNano = s.g.m.cfg.CallTimeout.Nanoseconds()
	}
	weight := 1
	if endless[info.FullMethod] {
		weight = 0
	}
	conn, err := s.living(ctx, weight)
	if err != nil {
		return err
	}
	defer s.answered(weight)
	err = s.send(ctx, conn, req, resp)
	switch {
	case err == nil && resp.Status.GetCode() != 0:
		return errgrpc.ToNative(statusError(resp))
	case errors.Is(err, ttrpc.ErrClosed):
		return fmt.Errorf("%s: the connection to shim %s ended: %w", info.FullMethod, s.g.id, errdefs.ErrUnavailable)
	case errors.Is(err, context.DeadlineExceeded):
		s.suspect(conn)
		return fmt.Errorf("%s: shim %s does not answer in time: %w", info.FullMethod, s.g.id, err)
	}
	return err
}

func (s *Shim) send(ctx context.Context, conn *ttrpc.Client, req *ttrpc.Request, resp *ttrpc.Response) error {
	if req.Service == taskService && s.g.rec.TaskV2 {
		req.Service = taskServiceV2
	}
	ctx = context.WithValue(ctx, callKey{}, call{req, resp})
	return conn.Call(ctx, req.Service, req.Method, &emptypb.Empty{}, &emptypb.Empty{})
}

// living returns the present connection, for a call, at whose end answered must be called. While a successor is being started it
// waits.
func (s *Shim) living(ctx context.Context, weight int) (*ttrpc.Client, error) {
	for {
		s.mu.Lock()
		conn, gone, arrived := s.conn, s.gone, s.arrived
		if conn != nil {
			s.calls += weight
		}
		s.mu.Unlock()
		if conn != nil {
			return conn, nil
		}
		if gone != nil {
			return nil, fmt.Errorf("shim %s is gone: %w: %w", s.g.id, gone, errdefs.ErrUnavailable)
		}
		select {
		case <-arrived:
		case <-ctx.Done():
			return nil, fmt.Errorf("shim %s is being replaced: %w: %w", s.g.id, ctx.Err(), errdefs.ErrUnavailable)
		}
	}
}

func (s *Shim) answered(weight int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls -= weight
}

// quiet tells whether no call is under way, or about to be sent, but the endless ones.
func (s *Shim) quiet() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls == 0
}

// connection is a dialled shim.
type connection struct {
	client *ttrpc.Client
	pid    int
}

func (c *connection) Close() { c.client.Close() }

// dial connects to the group's socket.
func (g *group) dial(ctx context.Context) (*connection, int, error) {
	path := filepath.Join(g.dir, socketTTRPC)
	if g.rec.Foreign {
		path = strings.TrimPrefix(g.rec.Address, "unix://")
	}
	d := net.Dialer{Timeout: 5 * time.Second}
	nc, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, 0, fmt.Errorf("connect to shim: %w", err)
	}
	pid, err := sys.PeerPid(nc.(*net.UnixConn))
	if err != nil {
		nc.Close()
		return nil, 0, err
	}
	return &connection{ttrpc.NewClient(nc, ttrpc.WithUnaryClientInterceptor(carry)), pid}, pid, nil
}

func (s *Shim) connected(c *connection) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conn, s.pid, s.gone, s.stuck = c.client, c.pid, nil, false
	select {
	case <-s.arrived:
	default:
		close(s.arrived)
	}
}

// lost is disconnected if the connection is to that process, and not to a successor yet.
func (s *Shim) lost(pid int) {
	s.mu.Lock()
	own := s.pid == pid
	s.mu.Unlock()
	if own {
		s.disconnected()
	}
}

// disconnected makes calls wait for a successor. The connection of a dead process ends by itself, behind its last
// answers.
func (s *Shim) disconnected() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil {
		s.conn, s.pid = nil, 0
		s.arrived = make(chan struct{})
	}
}

// setGone makes calls fail: no successor will come.
func (s *Shim) setGone(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil {
		s.conn.Close()
		s.conn, s.pid = nil, 0
	}
	s.gone = err
	select {
	case <-s.arrived:
	default:
		close(s.arrived)
	}
}

func (s *Shim) isGone() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gone != nil
}

func (s *Shim) isStuck() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stuck
}

// close ends the connection for good.
func (s *Shim) close() {
	s.setGone(net.ErrClosed)
	s.front.Close()
	s.pipe.Close()
}

// suspect asks a shim that did not answer in time for a sign of life. If none comes it is stuck (stopped, or wedged in
// the kernel) until one does.
func (s *Shim) suspect(conn *ttrpc.Client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stuck || s.conn != conn {
		return
	}
	s.stuck = true
	s.g.m.wg.Go(func() { s.await(conn) })
}

func (s *Shim) await(conn *ttrpc.Client) {
	answered := make(chan error, 1)
	go func() { // ends with the answer or the connection
		answered <- s.ping(conn)
	}()
	select {
	case <-answered:
		s.unstick(conn)
		return
	case <-time.After(time.Second):
	}
	s.g.m.log.Warn("a shim does not answer", "group", s.g.id)
	s.g.m.out.put(Event{Kind: EventShimStuck, Time: time.Now(), Group: s.g.id})
	select {
	case err := <-answered:
		if s.unstick(conn) && err == nil {
			s.g.m.out.put(Event{Kind: EventShimAnswers, Time: time.Now(), Group: s.g.id})
		}
	case <-time.After(s.g.m.cfg.StuckTimeout):
		s.g.giveUp(conn)
	case <-s.g.m.ctx.Done():
	}
}

// ping is answered by every shim, if only with an error.
func (s *Shim) ping(conn *ttrpc.Client) error {
	_, err := taskv3.NewTTRPCTaskClient(conn).Connect(context.Background(), &taskv3.ConnectRequest{})
	if errors.Is(err, ttrpc.ErrClosed) {
		return err
	}
	return nil
}

func (s *Shim) unstick(conn *ttrpc.Client) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != conn {
		return false
	}
	s.stuck = false
	return true
}
