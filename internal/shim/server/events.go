package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/11f9778f/berth/internal/engine"
	"github.com/11f9778f/berth/internal/shim/api/containerd"
	"github.com/11f9778f/berth/internal/shim/ttrpc"
	"github.com/11f9778f/berth/internal/shim/wire"
)

const (
	// maxEvents and maxEventBytes bound what is kept while nobody listens; then the oldest go. A daemon that comes back asks
	// for the state anyway.
	maxEvents     = 10_000
	maxEventBytes = ttrpc.MaxMessage
	// eventTimeout is how long the daemon may take to acknowledge one event.
	eventTimeout = 5 * time.Second
	// maxRefusals is how often an event is sent that the daemon answers with an error which may be of the moment.
	maxRefusals = 5
	// eventLinger is how long the connection stays for the next event: to make one costs both sides more than an event does.
	eventLinger = time.Second
	// firstEventPause doubles from try to try.
	firstEventPause, longestEventPause = 100 * time.Millisecond, 10 * time.Second
)

var errNoDaemon = errors.New("no daemon listens for events")

// publisher sends events to the daemon, in order, each until it is acknowledged. One that the daemon refuses is given up: those
// behind it must not wait for ever. One that finds no daemon waits for it. publish never blocks.
type publisher struct {
	namespace string
	log       *slog.Logger
	wake      chan struct{}

	mu      sync.Mutex
	address string
	queue   []*containerd.Envelope
	bytes   int // of queue
	lost    int // dropped since the daemon last took an event
	running bool
	idle    chan struct{} // closed when all is sent; replaced when there is more
	isIdle  bool
}

func newPublisher(namespace, address string, log *slog.Logger) *publisher {
	idle := make(chan struct{})
	close(idle)
	return &publisher{namespace: namespace, address: address, log: log, wake: make(chan struct{}, 1), idle: idle, isIdle: true}
}

// listen names the daemon's socket and sends what waits.
func (p *publisher) listen(address string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if address != "" {
		p.address = address
	}
	p.kick()
}

// kick starts or wakes the sender; the caller holds mu.
func (p *publisher) kick() {
	if len(p.queue) > 0 && !p.running && p.address != "" {
		p.running = true
		go p.run()
	}
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

func (p *publisher) publish(event containerd.Event) {
	topic, kind := event.Name()
	a := &wire.Any{TypeURL: "containerd.events." + kind, Value: wire.Marshal(event)}
	e := &containerd.Envelope{Timestamp: time.Now(), Namespace: p.namespace, Topic: topic, Event: a}
	if size(e) > ttrpc.MaxMessage {
		p.log.Warn("an event that is too long to be sent is given up", "topic", topic, "bytes", size(e))
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.isIdle {
		p.idle, p.isIdle = make(chan struct{}), false
	}
	p.queue = append(p.queue, e)
	p.bytes += size(e)
	for len(p.queue) > maxEvents || p.bytes > maxEventBytes {
		if p.lost == 0 {
			p.log.Warn("the daemon has taken no events for so long that the oldest are dropped", "address", p.address)
		}
		p.lost++
		p.drop()
	}
	p.kick()
}

// size is about what an event takes in the queue.
func size(e *containerd.Envelope) int {
	return 256 + len(e.Topic) + len(e.Event.TypeURL) + len(e.Event.Value)
}

// drop takes the oldest event off the queue; the caller holds mu.
func (p *publisher) drop() {
	p.bytes -= size(p.queue[0])
	p.queue[0] = nil
	p.queue = p.queue[1:]
}

// sent takes an event off the queue that was taken or given up. It may have been dropped meanwhile.
func (p *publisher) sent(e *containerd.Envelope) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.queue) > 0 && p.queue[0] == e {
		p.drop()
	}
	if p.lost > 0 {
		p.log.Warn("events were dropped that nobody took", "count", p.lost)
		p.lost = 0
	}
}

// run sends until the queue is empty, and has been for a while. It sleeps while the daemon is away, longer each time; Hello
// wakes it.
func (p *publisher) run() {
	var client *ttrpc.Client
	var to string
	var last *containerd.Envelope
	refusals, wait := 0, firstEventPause
	for {
		next, address := p.next()
		if next == nil && p.linger() {
			continue
		}
		if client != nil && (to != address || next == nil) {
			client.Close()
			client = nil
		}
		if next == nil {
			return
		}
		if next != last {
			last, refusals = next, 0
		}
		err := p.forward(&client, address, next)
		to = address
		if err != nil && refused(err) {
			refusals++
		}
		switch {
		case err == nil:
		case hopeless(err) || refusals >= maxRefusals:
			p.log.Warn("the daemon refuses an event, which is given up", "address", address, "topic", next.Topic, "err", err)
		default:
			p.log.Debug("the daemon takes no events", "address", address, "err", err)
			select {
			case <-p.wake:
			case <-time.After(wait):
			}
			wait = min(2*wait, longestEventPause)
			continue
		}
		p.sent(next)
		wait = firstEventPause
	}
}

// next is what is to be sent, and where to; nil if there is nothing.
func (p *publisher) next() (*containerd.Envelope, string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.queue) > 0 {
		return p.queue[0], p.address
	}
	if !p.isIdle {
		close(p.idle)
		p.isIdle = true
	}
	return nil, ""
}

// linger tells whether more has come soon; else the sender must end.
func (p *publisher) linger() bool {
	more := time.NewTimer(eventLinger)
	defer more.Stop()
	select {
	case <-p.wake:
		return true
	case <-more.C:
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running = len(p.queue) > 0
	return p.running
}

// refused tells whether an error is an answer to the event itself: somebody was there and did not take it.
func refused(err error) bool {
	for _, away := range []error{errNoDaemon, ttrpc.ErrClosed, context.DeadlineExceeded, context.Canceled, errdefs.ErrUnavailable} {
		if errors.Is(err, away) {
			return false
		}
	}
	return true
}

// hopeless tells whether the same event will be refused again.
func hopeless(err error) bool {
	for _, final := range []error{errdefs.ErrInvalidArgument, errdefs.ErrOutOfRange, errdefs.ErrNotImplemented} {
		if errors.Is(err, final) {
			return true
		}
	}
	return false
}

// forward sends an event by the connection that there is, or by a new one.
func (p *publisher) forward(client **ttrpc.Client, address string, e *containerd.Envelope) error {
	ctx, cancel := context.WithTimeout(context.Background(), eventTimeout)
	defer cancel()
	if *client != nil {
		err := p.send(ctx, client, e)
		if !errors.Is(err, ttrpc.ErrClosed) {
			return err
		}
		// It had lingered, and ended with its daemon.
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", strings.TrimPrefix(address, "unix://"))
	if err != nil {
		return fmt.Errorf("%w: %w", errNoDaemon, err)
	}
	*client = ttrpc.NewClient(conn)
	return p.send(ctx, client, e)
}

// send gives a connection up at any error.
func (p *publisher) send(ctx context.Context, client **ttrpc.Client, e *containerd.Envelope) error {
	err := (*client).Call(ctx, containerd.EventsService, "Forward", &containerd.ForwardRequest{Envelope: e}, &wire.Empty{})
	if err != nil {
		(*client).Close()
		*client = nil
	}
	return err
}

// flush waits until all is sent, but not long.
func (p *publisher) flush(timeout time.Duration) {
	p.mu.Lock()
	idle := p.idle
	if !p.running {
		timeout = 0
	}
	p.mu.Unlock()
	select {
	case <-idle:
	case <-time.After(timeout):
	}
}

func (p *publisher) started(t *task) {
	p.publish(&containerd.TaskStart{ContainerID: t.rec.ID, Pid: uint32(t.main.p.Pid())})
}

func (p *publisher) execStarted(e *process) {
	p.publish(&containerd.TaskExecStarted{ContainerID: e.t.rec.ID, ExecID: e.execID, Pid: uint32(e.p.Pid())})
}

func (p *publisher) oom(t *task) {
	p.publish(&containerd.TaskOOM{ContainerID: t.rec.ID, Victims: t.snapshot().OOMVictims})
}

// exit reports the end of a process; id is the container's for its main process, else that of the exec.
func (p *publisher) exit(container, id string, pid int, st engine.ExitStatus) {
	p.publish(&containerd.TaskExit{ContainerID: container, ID: id, Pid: uint32(pid), ExitStatus: uint32(st.Code), ExitedAt: st.At})
}
