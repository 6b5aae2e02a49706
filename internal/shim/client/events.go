package client

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/containerd/api/events"
	eventsv1 "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/11f9778f/berth/internal/shim/api"
	"github.com/11f9778f/berth/internal/shim/api/pb"
)

// eventsSocket is the name of the socket that shims send their events to.
const eventsSocket = "events.sock"

// eventServer is containerd's ttrpc events service.
type eventServer struct {
	address string
	srv     *ttrpc.Server
	done    chan struct{}
	out     *pump
}

func serveEvents(dir string, out *pump) (*eventServer, error) {
	path := filepath.Join(dir, eventsSocket)
	os.Remove(path)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen for events of shims: %w", err)
	}
	srv, err := ttrpc.NewServer()
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("listen for events of shims: %w", err)
	}
	e := &eventServer{address: path, srv: srv, done: make(chan struct{}), out: out}
	eventsv1.RegisterTTRPCEventsService(srv, e)
	go func() {
		defer close(e.done)
		srv.Serve(context.Background(), l) // ends with close
	}()
	return e, nil
}

func (e *eventServer) close() {
	e.srv.Close()
	<-e.done
	os.Remove(e.address)
}

// Forward implements the events service. What it does not know it acknowledges and forgets.
func (e *eventServer) Forward(ctx context.Context, r *eventsv1.ForwardRequest) (*emptypb.Empty, error) {
	if ev, ok := translate(r.GetEnvelope()); ok {
		e.out.put(ev)
	}
	return &emptypb.Empty{}, nil
}

// translate makes our event of containerd's.
func translate(env *types.Envelope) (Event, bool) {
	ev := Event{Time: env.GetTimestamp().AsTime()}
	read := func(m proto.Message) bool { return proto.Unmarshal(env.GetEvent().GetValue(), m) == nil }
	switch env.GetTopic() {
	case "/tasks/exit":
		var m events.TaskExit
		if !read(&m) {
			return ev, false
		}
		ev.Kind, ev.ContainerID, ev.Pid = EventExit, m.ContainerID, int(m.Pid)
		ev.Exit = &pb.Exit{Code: m.ExitStatus, At: m.ExitedAt}
		if m.ID != m.ContainerID {
			ev.ExecID = m.ID
		}
	case "/tasks/oom":
		var m events.TaskOOM
		if !read(&m) {
			return ev, false
		}
		ev.Kind, ev.ContainerID, ev.Victims = EventOOM, m.ContainerID, oomVictims(m.ProtoReflect().GetUnknown())
	case "/tasks/start":
		var m events.TaskStart
		if !read(&m) {
			return ev, false
		}
		ev.Kind, ev.ContainerID, ev.Pid = EventStarted, m.ContainerID, int(m.Pid)
	case "/tasks/paused":
		var m events.TaskPaused
		if !read(&m) {
			return ev, false
		}
		ev.Kind, ev.ContainerID = EventPaused, m.ContainerID
	case "/tasks/resumed":
		var m events.TaskResumed
		if !read(&m) {
			return ev, false
		}
		ev.Kind, ev.ContainerID = EventResumed, m.ContainerID
	default:
		return ev, false
	}
	return ev, ev.ContainerID != ""
}

// oomVictims reads what Berth's shim adds to the event.
func oomVictims(fields []byte) (victims []string) {
	for len(fields) > 0 {
		number, kind, n := protowire.ConsumeTag(fields)
		if n < 0 {
			return nil
		}
		fields = fields[n:]
		if n = protowire.ConsumeFieldValue(number, kind, fields); n < 0 {
			return nil
		}
		if v, m := protowire.ConsumeString(fields); number == api.FieldOOMVictims && kind == protowire.BytesType && m > 0 {
			victims = append(victims, v)
		}
		fields = fields[n:]
	}
	return victims
}

// pump is a channel with a buffer without bounds: producers never wait for the reader.
type pump struct {
	out  chan Event
	stop chan struct{}
	done chan struct{}

	mu    sync.Mutex
	queue []Event
	wake  chan struct{}
}

func newPump() *pump {
	p := &pump{out: make(chan Event), stop: make(chan struct{}), done: make(chan struct{}), wake: make(chan struct{}, 1)}
	go p.run()
	return p
}

func (p *pump) put(e Event) {
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	p.mu.Lock()
	p.queue = append(p.queue, e)
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

func (p *pump) run() {
	defer close(p.done)
	defer close(p.out)
	for {
		p.mu.Lock()
		batch := p.queue
		p.queue = nil
		p.mu.Unlock()
		for _, e := range batch {
			select {
			case p.out <- e:
			case <-p.stop:
				return
			}
		}
		if len(batch) > 0 {
			continue
		}
		select {
		case <-p.wake:
		case <-p.stop:
			return
		}
	}
}

func (p *pump) close() {
	close(p.stop)
	<-p.done
}
