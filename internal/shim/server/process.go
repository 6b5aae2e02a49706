package server

import (
	"context"
	"fmt"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/11f9778f/berth/internal/engine"
)

// process is a process of a container: its main one, or one that Exec made.
type process struct {
	t      *task
	execID string // "" for the main process
	spec   *specs.Process
	want   stdioSpec
	stdio  stdio

	p     Process // nil until it exists; written before anybody may read it (created, started)
	begun chan struct{}
	done  chan struct{}
	// status is written before done is closed.
	status engine.ExitStatus
}

func newProcess(t *task, execID string) *process {
	return &process{t: t, execID: execID, begun: make(chan struct{}), done: make(chan struct{})}
}

// wait returns how the process ended, once it has.
func (p *process) wait(ctx context.Context) (engine.ExitStatus, error) {
	select {
	case <-p.done:
		return p.status, nil
	case <-ctx.Done():
		return engine.ExitStatus{}, ctx.Err()
	case <-p.t.s.ended:
		return engine.ExitStatus{}, fmt.Errorf("wait for container %s: the shim is ending: %w", p.t.rec.ID, errdefs.ErrUnavailable)
	}
}

func (p *process) finish(st engine.ExitStatus) {
	p.status = st
	close(p.done)
}

// exited tells the end, if there was one.
func (p *process) exited() (engine.ExitStatus, bool) {
	select {
	case <-p.done:
		return p.status, true
	default:
		return engine.ExitStatus{}, false
	}
}

// addExec notes a process that Start will start.
func (t *task) addExec(execID string, spec *specs.Process, want stdioSpec) error {
	p := newProcess(t, execID)
	p.spec, p.want = spec, want
	if _, err := t.live(); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.execs[execID] != nil {
		return fmt.Errorf("process %q of container %s: %w", execID, t.rec.ID, errdefs.ErrAlreadyExists)
	}
	t.execs[execID] = p
	return nil
}

// startExec starts a process that addExec noted.
func (p *process) startExec(ctx context.Context) error {
	p.t.mu.Lock()
	begun := p.p != nil
	p.t.mu.Unlock()
	if begun {
		return nil
	}
	c, err := p.t.live()
	if err != nil {
		return err
	}
	ends, err := p.openStdio(p.want, p.spec)
	if err != nil {
		return err
	}
	if err := p.settleInput(p.want.Stdin); err != nil {
		ends.close()
		p.closeStdio()
		return err
	}
	proc, err := c.Exec(ctx, engine.ExecOptions{ID: p.execID, Process: p.spec, Stdio: ends.files()})
	ends.close()
	if err != nil {
		p.closeStdio()
		return err
	}
	p.t.mu.Lock()
	p.p = proc
	p.t.mu.Unlock()
	if err := p.connect(p.want); err != nil {
		proc.Signal(syscall.SIGKILL)
		p.closeStdio()
		return err
	}
	p.t.s.events.execStarted(p)
	go p.watchExec()
	return nil
}

func (p *process) watchExec() {
	st, err := p.p.Wait(context.Background())
	if err != nil {
		st = engine.ExitStatus{Code: 255, Unknown: true, Reason: err.Error()}
	}
	p.drain()
	p.t.s.events.exit(p.t.rec.ID, p.execID, p.p.Pid(), st)
	p.finish(st)
	release(p.p)
	p.t.s.idle()
}

// deleteExec forgets a process that has ended, or was never started.
func (p *process) deleteExec() (engine.ExitStatus, error) {
	p.t.mu.Lock()
	begun := p.p != nil
	p.t.mu.Unlock()
	st, ended := p.exited()
	if begun && !ended {
		return st, fmt.Errorf("delete process %s: it is running: %w", p.execID, errdefs.ErrFailedPrecondition)
	}
	p.closeStdio()
	p.t.mu.Lock()
	defer p.t.mu.Unlock()
	delete(p.t.execs, p.execID)
	return st, nil
}

// release closes the descriptors of a process that has ended and that no container owns.
func release(p Process) {
	if f := p.PidFD(); f != nil {
		f.Close()
	}
	if f := p.Console(); f != nil {
		f.Close()
	}
}
