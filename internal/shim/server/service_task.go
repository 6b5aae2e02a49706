package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/11f9778f/berth/internal/engine"
	"github.com/11f9778f/berth/internal/shim/api/containerd"
	"github.com/11f9778f/berth/internal/shim/wire"
)

// taskService is containerd.task.v3.Task.
type taskService struct{ s *Server }

// Create makes a container from a bundle.
func (v taskService) Create(ctx context.Context, r *containerd.CreateTaskRequest) (*containerd.CreateTaskResponse, error) {
	if err := checkID("container", r.ID); err != nil {
		return nil, err
	}
	if !filepath.IsAbs(r.Bundle) {
		return nil, fmt.Errorf("create container %s: bundle %q is no absolute path: %w", r.ID, r.Bundle, errdefs.ErrInvalidArgument)
	}
	if r.Checkpoint != "" && !filepath.IsAbs(r.Checkpoint) {
		return nil, fmt.Errorf("create container %s: checkpoint %q is no absolute path: %w", r.ID, r.Checkpoint, errdefs.ErrInvalidArgument)
	}
	rec := record{ID: r.ID, Bundle: r.Bundle, Checkpoint: r.Checkpoint, Stdio: stdioSpec{Terminal: r.Terminal, Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr}}
	if err := rec.Stdio.check(true); err != nil {
		return nil, fmt.Errorf("create container %s: %w", r.ID, err)
	}
	start, err := parseOptions(r.Options, &rec)
	if err != nil {
		return nil, fmt.Errorf("create container %s: %w", r.ID, err)
	}
	var rootfs []engine.Mount
	for _, m := range r.Rootfs {
		rootfs = append(rootfs, engine.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options})
	}
	t, err := v.s.create(ctx, rec, rootfs)
	if err != nil {
		return nil, err
	}
	v.s.tell(&containerd.TaskCreate{
		ContainerID: r.ID, Bundle: r.Bundle, Rootfs: r.Rootfs, Pid: uint32(t.main.p.Pid()),
		IO: &containerd.TaskIO{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal},
	})
	if start {
		if err := t.startOrDelete(ctx); err != nil {
			return nil, err
		}
	}
	return &containerd.CreateTaskResponse{Pid: uint32(t.main.p.Pid())}, nil
}

// Start lets a created container, or a process that Exec prepared, run.
func (v taskService) Start(ctx context.Context, r *containerd.StartRequest) (*containerd.StartResponse, error) {
	t, p, err := v.s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	if r.ExecID == "" {
		err = t.start(ctx)
	} else {
		err = p.startExec(ctx)
	}
	v.s.idle()
	if err != nil {
		return nil, err
	}
	return &containerd.StartResponse{Pid: uint32(p.p.Pid())}, nil
}

// Delete forgets a container or process that has ended.
func (v taskService) Delete(ctx context.Context, r *containerd.DeleteRequest) (*containerd.DeleteResponse, error) {
	t, p, err := v.s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	var st engine.ExitStatus
	if r.ExecID != "" {
		st, err = p.deleteExec()
	} else {
		var ended *engine.ExitStatus
		if ended, err = t.delete(ctx); err == nil {
			st = *ended
		}
	}
	if err != nil {
		return nil, err
	}
	resp := &containerd.DeleteResponse{ExitStatus: uint32(st.Code), ExitedAt: st.At}
	if p.p != nil {
		resp.Pid = uint32(p.p.Pid())
	}
	if r.ExecID == "" {
		v.s.tell(&containerd.TaskDelete{ContainerID: r.ID, Pid: resp.Pid, ExitStatus: resp.ExitStatus, ExitedAt: resp.ExitedAt})
	}
	return resp, nil
}

// Exec prepares another process in a container.
func (v taskService) Exec(ctx context.Context, r *containerd.ExecProcessRequest) (*wire.Empty, error) {
	t, err := v.s.task(r.ID)
	if err != nil {
		return nil, err
	}
	if err := checkID("process", r.ExecID); err != nil {
		return nil, err
	}
	want := stdioSpec{Terminal: r.Terminal, Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr}
	if err := want.check(false); err != nil {
		return nil, fmt.Errorf("exec %s: %w", r.ExecID, err)
	}
	spec, err := t.parseProcess(r.Spec.Bytes())
	if err != nil {
		return nil, fmt.Errorf("exec %s: %w", r.ExecID, err)
	}
	spec.Terminal = r.Terminal
	if err := t.addExec(r.ExecID, spec, want); err != nil {
		return nil, err
	}
	v.s.tell(&containerd.TaskExecAdded{ContainerID: r.ID, ExecID: r.ExecID})
	return &wire.Empty{}, nil
}

// Kill sends a signal to a process, or to all of a container.
func (v taskService) Kill(ctx context.Context, r *containerd.KillRequest) (*wire.Empty, error) {
	t, p, err := v.s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	c, err := t.made()
	if err != nil {
		return nil, err
	}
	sig := syscall.Signal(r.Signal)
	switch {
	case r.ExecID == "" && sig == syscall.SIGKILL && t.paused():
		err = t.killPaused(ctx, c, p)
	case r.ExecID == "" && r.All && sig == syscall.SIGKILL:
		err = c.Kill(ctx)
	case r.ExecID == "" && r.All:
		err = signalAll(c, sig)
	case p.p == nil:
		err = fmt.Errorf("kill process %s: it was not started: %w", r.ExecID, errdefs.ErrFailedPrecondition)
	default:
		if err = p.p.Signal(sig); errors.Is(err, os.ErrProcessDone) {
			err = fmt.Errorf("kill %s%s: the process has ended: %w", r.ID, r.ExecID, errdefs.ErrNotFound)
		}
	}
	return &wire.Empty{}, err
}

// killPaused kills a frozen container: under cgroup v1 it dies when it is thawed.
func (t *task) killPaused(ctx context.Context, c Container, p *process) error {
	t.op.Lock()
	defer t.op.Unlock()
	if err := p.p.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	if err := c.Resume(ctx); err != nil {
		return err
	}
	return t.setPaused(false)
}

func (t *task) paused() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.rec.Engine.Paused && t.rec.Exit == nil
}

func signalAll(c Container, sig syscall.Signal) error {
	pids, err := c.Pids()
	if err != nil {
		return err
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("signal process %d: %w", pid, err)
		}
	}
	return nil
}

// Wait answers when the process has ended.
func (v taskService) Wait(ctx context.Context, r *containerd.WaitRequest) (*containerd.WaitResponse, error) {
	_, p, err := v.s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	st, err := p.wait(ctx)
	if err != nil {
		return nil, err
	}
	return &containerd.WaitResponse{ExitStatus: uint32(st.Code), ExitedAt: st.At}, nil
}

// State tells what a process does.
func (v taskService) State(ctx context.Context, r *containerd.StateRequest) (*containerd.StateResponse, error) {
	t, p, err := v.s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	rec := t.snapshot()
	want := rec.Stdio
	if r.ExecID != "" {
		want = p.want
	}
	resp := &containerd.StateResponse{
		ID: r.ID, ExecID: r.ExecID, Bundle: rec.Bundle, Terminal: want.Terminal,
		Stdin: want.Stdin, Stdout: want.Stdout, Stderr: want.Stderr, Status: t.status(p),
	}
	t.mu.Lock()
	if p.p != nil {
		resp.Pid = uint32(p.p.Pid())
	}
	t.mu.Unlock()
	if st, ok := p.exited(); ok {
		resp.ExitStatus, resp.ExitedAt = uint32(st.Code), st.At
	}
	return resp, nil
}

// status is what a process does.
func (t *task) status(p *process) containerd.Status {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, ended := p.exited()
	switch {
	case ended:
		return containerd.StatusStopped
	case p.p == nil, p.execID == "" && !t.rec.Engine.Started:
		return containerd.StatusCreated
	case t.rec.Engine.Paused:
		return containerd.StatusPaused
	}
	return containerd.StatusRunning
}

// Pids lists a container's processes. Of one that has ended and is not deleted it names the main process: a containerd
// that starts takes a task without processes for one that was never made, and removes it before anybody could ask how it
// ended.
func (v taskService) Pids(ctx context.Context, r *containerd.PidsRequest) (*containerd.PidsResponse, error) {
	t, err := v.s.task(r.ID)
	if err != nil {
		return nil, err
	}
	c, err := t.made()
	if err != nil {
		return nil, err
	}
	pids, err := c.Pids()
	if err != nil {
		return nil, err
	}
	if len(pids) == 0 {
		pids = append(pids, c.Init().Pid())
	}
	resp := &containerd.PidsResponse{}
	for _, pid := range pids {
		resp.Processes = append(resp.Processes, &containerd.ProcessInfo{Pid: uint32(pid)})
	}
	return resp, nil
}

func (v taskService) container(id string) (Container, error) {
	t, err := v.s.task(id)
	if err != nil {
		return nil, err
	}
	return t.made()
}

// Pause stops a container's processes.
func (v taskService) Pause(ctx context.Context, r *containerd.PauseRequest) (*wire.Empty, error) {
	return v.freeze(ctx, r.ID, true)
}

// Resume lets them run again.
func (v taskService) Resume(ctx context.Context, r *containerd.ResumeRequest) (*wire.Empty, error) {
	return v.freeze(ctx, r.ID, false)
}

func (v taskService) freeze(ctx context.Context, id string, pause bool) (*wire.Empty, error) {
	t, err := v.s.task(id)
	if err != nil {
		return nil, err
	}
	t.op.Lock()
	defer t.op.Unlock()
	c, err := t.live()
	if err != nil {
		return nil, err
	}
	if pause {
		err = c.Pause(ctx)
	} else if err = untraced(ctx, c.Init().Pid()); err == nil {
		err = c.Resume(ctx)
	}
	if err != nil {
		return nil, err
	}
	if pause {
		v.s.events.publish(&containerd.TaskPaused{ContainerID: id})
	} else {
		v.s.events.publish(&containerd.TaskResumed{ContainerID: id})
	}
	return &wire.Empty{}, t.setPaused(pause)
}

// ResizePty sets the size of a process's terminal.
func (v taskService) ResizePty(ctx context.Context, r *containerd.ResizePtyRequest) (*wire.Empty, error) {
	_, p, err := v.s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	return &wire.Empty{}, p.resize(uint16(min(r.Width, 1<<16-1)), uint16(min(r.Height, 1<<16-1)))
}

// CloseIO ends a process's input.
func (v taskService) CloseIO(ctx context.Context, r *containerd.CloseIORequest) (*wire.Empty, error) {
	_, p, err := v.s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	if r.Stdin {
		p.closeInput()
	}
	return &wire.Empty{}, nil
}

// Update changes a container's limits.
func (v taskService) Update(ctx context.Context, r *containerd.UpdateTaskRequest) (*wire.Empty, error) {
	c, err := v.container(r.ID)
	if err != nil {
		return nil, err
	}
	var res specs.LinuxResources
	if err := json.Unmarshal(r.Resources.Bytes(), &res); err != nil {
		return nil, fmt.Errorf("update container %s: resources: %w: %w", r.ID, err, errdefs.ErrInvalidArgument)
	}
	return &wire.Empty{}, c.Update(ctx, &res)
}

// Stats answers containerd's metrics of cgroup v1 or v2.
func (v taskService) Stats(ctx context.Context, r *containerd.StatsRequest) (*containerd.StatsResponse, error) {
	c, err := v.container(r.ID)
	if err != nil {
		return nil, err
	}
	st, err := c.Stats()
	if err != nil {
		return nil, err
	}
	return &containerd.StatsResponse{Stats: metrics(st)}, nil
}

// Connect tells the pids of the shim and of a container.
func (v taskService) Connect(ctx context.Context, r *containerd.ConnectRequest) (*containerd.ConnectResponse, error) {
	resp := &containerd.ConnectResponse{ShimPid: uint32(os.Getpid()), Version: "berth.shim.v1"}
	if t, err := v.s.task(r.ID); err == nil {
		if c, err := t.made(); err == nil {
			resp.TaskPid = uint32(c.Init().Pid())
		}
	}
	return resp, nil
}

// Shutdown ends the shim if it keeps nothing any more (with now, in any case; containers run on). That it keeps
// something is no error for containerd, which asks after each container; Berth's daemon is told.
func (v taskService) Shutdown(ctx context.Context, r *containerd.ShutdownRequest) (*wire.Empty, error) {
	v.s.mu.Lock()
	defer v.s.mu.Unlock()
	if n := len(v.s.containers) + len(v.s.sandboxes); n > 0 && !r.Now {
		if v.s.cfg.Managed {
			return nil, fmt.Errorf("shut down shim %s: it keeps %d sandboxes and containers: %w", v.s.cfg.Group, n, errdefs.ErrFailedPrecondition)
		}
		return &wire.Empty{}, nil
	}
	v.s.closing = true
	v.s.end()
	return &wire.Empty{}, nil
}
