package server

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	eventsv1 "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/11f9778f/berth/internal/shim/api/containerd"
	ourttrpc "github.com/11f9778f/berth/internal/shim/ttrpc"
	"github.com/11f9778f/berth/internal/shim/wire"
)

// critic is a daemon that answers each event, by its topic, as it was told to.
type critic struct {
	mu    sync.Mutex
	heard map[string]int
	says  map[string]codes.Code
}

func (c *critic) Forward(_ context.Context, r *eventsv1.ForwardRequest) (*emptypb.Empty, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	topic := r.Envelope.Topic
	c.heard[topic]++
	if code := c.says[topic]; code != codes.OK {
		return nil, status.Error(code, "no")
	}
	return &emptypb.Empty{}, nil
}

// serve plays the daemon at path until the returned function is called.
func (c *critic) serve(t *testing.T, path string) (stop func()) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	eventsv1.RegisterTTRPCEventsService(srv, c)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(context.Background(), l) }()
	return func() { srv.Close(); <-served }
}

func awaitIdle(t *testing.T, p *publisher) {
	t.Helper()
	p.mu.Lock()
	idle := p.idle
	p.mu.Unlock()
	select {
	case <-idle:
	case <-time.After(2 * time.Minute):
		t.Fatal("events are stuck")
	}
}

// An event that can't be sent, or that the daemon does not take, does not keep those behind it; one that finds no daemon is kept.
func TestRefusedEventsAreGivenUp(t *testing.T) {
	path := filepath.Join(t.TempDir(), "e")
	var text strings.Builder
	p := newPublisher("ns", path, slog.New(slog.NewTextHandler(&text, nil)))
	p.publish(&containerd.TaskExit{ContainerID: strings.Repeat("x", ourttrpc.MaxMessage)}) // longer than a message may be
	p.publish(&containerd.TaskStart{ContainerID: "c"})
	p.publish(&containerd.TaskPaused{ContainerID: "c"})
	p.publish(&containerd.TaskResumed{ContainerID: "c"})
	c := &critic{heard: map[string]int{}, says: map[string]codes.Code{"/tasks/start": codes.InvalidArgument, "/tasks/paused": codes.Internal}}
	stop := c.serve(t, path)
	p.listen("")
	awaitIdle(t, p)
	stop()
	want := map[string]int{"/tasks/start": 1, "/tasks/paused": maxRefusals, "/tasks/resumed": 1}
	if fmt.Sprint(c.heard) != fmt.Sprint(want) {
		t.Errorf("the daemon heard %v, want %v", c.heard, want)
	}
	if n := strings.Count(text.String(), "given up"); n != 3 {
		t.Errorf("%d of 3 are logged: %.1000s", n, text.String())
	}

	p.publish(&containerd.TaskDelete{ContainerID: "c"}) // for the next daemon
	again := &critic{heard: map[string]int{}, says: nil}
	defer again.serve(t, path)()
	p.listen("")
	awaitIdle(t, p)
	if again.heard["/tasks/delete"] != 1 {
		t.Errorf("the next daemon heard %v", again.heard)
	}
}

// A daemon that can't take an event just now gets it later.
func TestEventsMeetABusyDaemon(t *testing.T) {
	for code, want := range map[codes.Code]bool{
		codes.Unavailable: false, codes.DeadlineExceeded: false, codes.Canceled: false, codes.ResourceExhausted: true, codes.Unknown: true,
	} {
		err := (&ourttrpc.Status{Code: int32(code), Message: "no"}).Err()
		if refused(err) != want || hopeless(err) {
			t.Errorf("%s: counts as refused: %v, is hopeless: %v", code, refused(err), hopeless(err))
		}
	}
}

// What waits for a daemon is bounded in number and in bytes; the newest stay.
func TestWaitingEventsAreBounded(t *testing.T) {
	for name, test := range map[string]struct{ events, each int }{"many": {3 * maxEvents, 1}, "large": {100, maxEventBytes / 10}} {
		t.Run(name, func(t *testing.T) {
			p := newPublisher("ns", "", slog.New(slog.NewTextHandler(io.Discard, nil)))
			for i := range test.events {
				p.publish(&containerd.TaskStart{ContainerID: strings.Repeat("x", test.each), Pid: uint32(i + 1)})
			}
			total := 0
			for _, e := range p.queue {
				total += size(e)
			}
			if n := len(p.queue); n == 0 || n > maxEvents || total > maxEventBytes || total != p.bytes || n+p.lost != test.events {
				t.Errorf("%d events of %d bytes (counted as %d) wait, %d were dropped", n, total, p.bytes, p.lost)
			}
			last := &containerd.TaskStart{}
			if err := wire.Unmarshal(p.queue[len(p.queue)-1].Event.Value, last); err != nil || last.Pid != uint32(test.events) {
				t.Errorf("the last is %d, %v", last.Pid, err)
			}
		})
	}
}
