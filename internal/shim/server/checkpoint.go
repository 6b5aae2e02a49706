package server

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/11f9778f/berth/internal/engine"
	"github.com/11f9778f/berth/internal/engine/criu"
	"github.com/11f9778f/berth/internal/shim/api"
	"github.com/11f9778f/berth/internal/shim/api/containerd"
	"github.com/11f9778f/berth/internal/shim/crilog"
	"github.com/11f9778f/berth/internal/shim/wire"
)

// Checkpoint writes the images of a container that runs, or is paused, into a folder. It does so itself and not the
// daemon, for it outlives one. The container is afterwards as it was, also after an error.
func (v taskService) Checkpoint(ctx context.Context, r *containerd.CheckpointTaskRequest) (*wire.Empty, error) {
	t, err := v.s.task(r.ID)
	if err != nil {
		return nil, err
	}
	path, err := checkpointOptions(r.Options)
	if err != nil {
		return nil, fmt.Errorf("checkpoint container %s: %w", r.ID, err)
	}
	if !filepath.IsAbs(r.Path) {
		return nil, fmt.Errorf("checkpoint container %s: folder %q is no absolute path: %w", r.ID, r.Path, errdefs.ErrInvalidArgument)
	}
	tool, err := criu.Find(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("checkpoint container %s: %w: %w", r.ID, err, errdefs.ErrFailedPrecondition)
	}
	if err := t.checkpoint(ctx, tool, r.Path); err != nil {
		return nil, fmt.Errorf("checkpoint container %s: %w", r.ID, err)
	}
	v.s.events.publish(&containerd.TaskCheckpointed{ContainerID: r.ID, Checkpoint: r.Path})
	return &wire.Empty{}, nil
}

func (t *task) checkpoint(ctx context.Context, tool criu.Tool, dir string) error {
	t.op.Lock()
	defer t.op.Unlock()
	c, err := t.live()
	if err != nil {
		return err
	}
	pids, err := c.Pids()
	if err != nil {
		return err
	}
	err = tool.Dump(ctx, criu.Dump{
		Pid: c.Init().Pid(), Pids: pids, Dir: dir, Binds: engine.BindTargets(t.spec), Frozen: t.paused(), Terminal: t.snapshot().Stdio.Terminal,
		Stdio:     [3]string{t.main.fifo("stdin"), t.main.fifo(crilog.Stdout), t.main.fifo(crilog.Stderr)},
		SharedIPC: engine.Shares(t.spec, specs.IPCNamespace), SharedUTS: engine.Shares(t.spec, specs.UTSNamespace),
	})
	if err != nil && t.paused() {
		// CRIU thaws what it writes, and a killed one does not freeze it again.
		if perr := c.Pause(context.WithoutCancel(ctx)); perr != nil {
			t.s.log.Warn("a paused container may run after a checkpoint that failed", "container", t.rec.ID, "err", perr)
		}
	}
	return err
}

// checkpointOptions returns the path of CRIU, "" for the one in PATH. containerd's options for runc are taken where
// they ask for what is done anyway.
func checkpointOptions(a *wire.Any) (string, error) {
	if a == nil || a.TypeURL == "" && len(a.Value) == 0 {
		return "", nil
	}
	switch name := a.Type(); name {
	case "berth.shim.v1.CheckpointOptions":
		var o api.CheckpointOptions
		if err := wire.Unmarshal(a.Value, &o); err != nil {
			return "", fmt.Errorf("options: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		if o.Criu != "" && !filepath.IsAbs(o.Criu) {
			return "", fmt.Errorf("options: criu %q is no absolute path: %w", o.Criu, errdefs.ErrInvalidArgument)
		}
		return o.Criu, nil
	case "containerd.runc.v1.CheckpointOptions":
		var o containerd.RuncCheckpointOptions
		if err := wire.Unmarshal(a.Value, &o); err != nil {
			return "", fmt.Errorf("options: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		if o.Exit {
			return "", fmt.Errorf("options: exit: this shim leaves the container running: %w", errdefs.ErrNotImplemented)
		}
		return "", nil
	default:
		return "", fmt.Errorf("options: this shim knows no %q: %w", name, errdefs.ErrInvalidArgument)
	}
}

// untraced waits until nobody traces a process any more: a CRIU that a dead shim has started freezes the container
// again at its end, and a resume before that would not last.
func untraced(ctx context.Context, pid int) error {
	for {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil || !tracedByCRIU(status) {
			return nil // it is gone, or free
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("a checkpoint of it is still being made: %w", ctx.Err())
		}
	}
}

func tracedByCRIU(status []byte) bool {
	for line := range bytes.Lines(status) {
		if v, ok := bytes.CutPrefix(line, []byte("TracerPid:")); ok {
			pid := string(bytes.TrimSpace(v))
			if pid == "0" {
				return false
			}
			cmdline, err := os.ReadFile("/proc/" + pid + "/cmdline")
			return err == nil && bytes.Contains(cmdline, []byte("criu")) && bytes.Contains(cmdline, []byte("--freeze-cgroup"))
		}
	}
	return false
}

// kept is what a checkpoint and an exec need of the spec of a container that runs.
func kept(spec *specs.Spec) *specs.Spec {
	kept := &specs.Spec{Mounts: spec.Mounts, Process: &specs.Process{Env: engine.RawEnv(spec.Process)}}
	if spec.Linux != nil {
		kept.Linux = &specs.Linux{Namespaces: spec.Linux.Namespaces}
	}
	return kept
}
