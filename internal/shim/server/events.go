package server

import (
	"context"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/11f9778f/berth/internal/engine"
	"github.com/11f9778f/berth/internal/shim/api/containerd"
	"github.com/11f9778f/berth/internal/shim/ttrpc"
	"github.com/11f9778f/berth/internal/shim/wire"
)

const (
	// maxEvents bounds what is kept while nobody listens; then the oldest go. A daemon that comes back asks for
	// the state anyway.
	maxEvents = 10_000
	// eventTimeout is how long the daemon may take to acknowledge one event.
	eventTimeout = 5 * time.Second
)

// publisher sends events to the daemon, in order, each until it is acknowledged. publish never blocks.
type publisher struct {
	namespace string
	log       *slog.Logger
	wake      chan struct{}

	mu      sync.Mutex
	address string
	queue   []*containerd.Envelope
	running bool
	idle    chan struct{} // closed when the queue is empty; replaced when it is not
}

func newPublisher(namespace, address string, log *slog.Logger) *publisher {
	idle := make(chan struct{})
	close(idle)
	return &publisher{namespace: namespace, address: address, log: log, wake: make(chan struct{}, 1), idle: idle}
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
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.queue) == 0 {
		p.idle = make(chan struct{})
	}
	p.queue = append(p.queue, &containerd.Envelope{Timestamp: time.Now(), Namespace: p.namespace, Topic: topic, Event: a})
	if len(p.queue) > maxEvents {
		p.queue = p.queue[1:]
	}
	p.kick()
}

// run sends until the queue is empty. It sleeps while the daemon is away, longer each time; Hello wakes it.
func (p *publisher) run() {
	var client *ttrpc.Client
	var to string
	wait := 100 * time.Millisecond
	for {
		p.mu.Lock()
		if len(p.queue) == 0 {
			p.running = false
			close(p.idle)
			p.mu.Unlock()
			if client != nil {
				client.Close()
			}
			return
		}
		next, address := p.queue[0], p.address
		p.mu.Unlock()
		if client != nil && to != address {
			client.Close()
			client = nil
		}
		err := p.forward(&client, address, next)
		to = address
		if err == nil {
			wait = 100 * time.Millisecond
			p.mu.Lock()
			if len(p.queue) > 0 && p.queue[0] == next {
				p.queue = p.queue[1:]
			}
			p.mu.Unlock()
			continue
		}
		p.log.Debug("the daemon takes no events", "address", address, "err", err)
		select {
		case <-p.wake:
		case <-time.After(wait):
		}
		wait = min(2*wait, 10*time.Second)
	}
}

func (p *publisher) forward(client **ttrpc.Client, address string, e *containerd.Envelope) error {
	ctx, cancel := context.WithTimeout(context.Background(), eventTimeout)
	defer cancel()
	if *client == nil {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "unix", strings.TrimPrefix(address, "unix://"))
		if err != nil {
			return err
		}
		*client = ttrpc.NewClient(conn)
	}
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
