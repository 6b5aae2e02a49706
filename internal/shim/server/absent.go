package server

import (
	"context"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/11f9778f/berth/internal/engine"
	"github.com/11f9778f/berth/internal/engine/cgroup"
	"github.com/11f9778f/berth/internal/shim/api"
	"github.com/11f9778f/berth/internal/shim/crilog"
	"github.com/11f9778f/berth/internal/shim/wire"
	"github.com/11f9778f/berth/internal/sys"
)

// absent is a container that another project's shim runs, and its process: this shim keeps its FIFOs, its log and its
// clients. It holds the FIFOs open for writing, so that their readers see no end before the other shim has come, and
// ends when somebody tells how the process did.
type absent struct {
	ends ends
	over chan struct{}
	once sync.Once
	st   engine.ExitStatus // written before over is closed
}

func newAbsent(e ends) *absent {
	if e.in != nil { // the other shim reads it
		e.in.Close()
		e.in = nil
	}
	return &absent{ends: e, over: make(chan struct{})}
}

func (a *absent) end(st engine.ExitStatus) {
	a.once.Do(func() {
		a.st = st
		a.ends.close()
		close(a.over)
	})
}

// Kill and Delete are for one of which nobody will tell any more.
func (a *absent) Kill(context.Context) error {
	a.end(engine.ExitStatus{Code: 255, Unknown: true, Reason: "nobody told how it ended", At: time.Now()})
	return nil
}

func (a *absent) Delete(ctx context.Context) error { return a.Kill(ctx) }

func (a *absent) Wait(ctx context.Context) (engine.ExitStatus, error) {
	select {
	case <-a.over:
		return a.st, nil
	case <-ctx.Done():
		return engine.ExitStatus{}, ctx.Err()
	}
}

func errAbsent() error {
	return fmt.Errorf("another shim runs this container: %w", errdefs.ErrNotImplemented)
}

func (a *absent) Init() Process                                       { return a }
func (a *absent) Pid() int                                            { return 0 }
func (a *absent) PidFD() *os.File                                     { return nil }
func (a *absent) Console() *os.File                                   { return nil }
func (a *absent) State() engine.State                                 { return engine.State{} }
func (a *absent) Pids() ([]int, error)                                { return nil, nil }
func (a *absent) OOMKills() (uint64, error)                           { return 0, nil }
func (a *absent) Start(context.Context) error                         { return errAbsent() }
func (a *absent) Pause(context.Context) error                         { return errAbsent() }
func (a *absent) Resume(context.Context) error                        { return errAbsent() }
func (a *absent) Update(context.Context, *specs.LinuxResources) error { return errAbsent() }
func (a *absent) Stats() (*cgroup.Stats, error)                       { return nil, errAbsent() }
func (a *absent) Signal(syscall.Signal) error                         { return errAbsent() }
func (a *absent) Restore(context.Context, engine.RestoreOptions) (Container, error) {
	return nil, errAbsent()
}
func (a *absent) Exec(context.Context, engine.ExecOptions) (Process, error) {
	return nil, errAbsent()
}

// End: see shim.proto.
func (v shimService) End(ctx context.Context, r *api.EndRequest) (*wire.Empty, error) {
	t, err := v.s.task(r.Id)
	if err != nil {
		return nil, err
	}
	c, err := t.made()
	if err != nil {
		return nil, err
	}
	a, ok := c.(*absent)
	if !ok {
		return nil, fmt.Errorf("end of container %s: this shim runs it itself: %w", r.Id, errdefs.ErrFailedPrecondition)
	}
	var x api.Exit
	if r.Exit != nil {
		x = *r.Exit
	}
	a.end(engine.ExitStatus{Code: int(x.Code), Signal: int(x.Signal), At: x.At, Unknown: x.Unknown, Reason: x.Reason})
	_, err = t.main.wait(ctx)
	return &wire.Empty{}, err
}

// watchAbsent waits until somebody has told the end, and for the output that is still on its way.
func (t *task) watchAbsent() {
	st, err := t.main.p.Wait(context.Background())
	if err != nil {
		return
	}
	t.s.gate.join()
	defer t.s.gate.leave()
	t.mu.Lock()
	t.rec.Exit = &st
	gone := t.deleted
	t.mu.Unlock()
	if !gone {
		if err := t.save(); err != nil {
			t.s.log.Warn("an end is not on disk", "container", t.rec.ID, "err", err)
		}
	}
	t.main.awaitOutput()
	t.main.finish(st)
	t.s.idle()
}

// awaitOutput waits until the other shim has let go of the FIFOs, for some time: what a process left behind may hold them.
func (p *process) awaitOutput() {
	p.stdio.mu.Lock()
	streams := p.stdio.streams
	p.stdio.mu.Unlock()
	patience := time.NewTimer(lastOutput)
	defer patience.Stop()
	for _, s := range streams {
		select {
		case <-s.Done():
		case <-patience.C:
			p.drain()
			return
		}
	}
}

// adoptAbsent takes over what a predecessor kept for another shim.
func (s *Server) adoptAbsent(t *task) error {
	var e ends
	if t.rec.Exit == nil {
		for name, f := range map[string]**os.File{crilog.Stdout: &e.out, crilog.Stderr: &e.err} {
			var err error
			if *f, err = sys.OpenFIFO(t.main.fifo(name), syscall.O_RDWR); err != nil && !os.IsNotExist(err) {
				s.log.Error("open output", "container", t.rec.ID, "err", err)
			}
		}
	}
	a := newAbsent(e)
	t.c, t.main.p = a, a
	close(t.created)
	s.containers[t.rec.ID] = t
	t.main.adoptStdio(t.rec.Stdio)
	if t.rec.Exit != nil {
		a.end(*t.rec.Exit)
	}
	defer t.inheritClients()()
	if err := t.main.connect(t.rec.Stdio); err != nil {
		return err
	}
	go t.watchAbsent()
	return nil
}
