package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"time"

	"github.com/containerd/errdefs"

	"github.com/11f9778f/berth/internal/shim/api"
	"github.com/11f9778f/berth/internal/shim/api/containerd"
	"github.com/11f9778f/berth/internal/shim/wire"
)

// sandboxService is containerd.runtime.sandbox.v1.Sandbox.
type sandboxService struct{ s *Server }

// CreateSandbox makes a pod's place: its IPC and UTS namespaces. A repeated call finishes or finds it.
func (v sandboxService) CreateSandbox(ctx context.Context, r *containerd.CreateSandboxRequest) (*containerd.CreateSandboxResponse, error) {
	if err := checkID("sandbox", r.SandboxID); err != nil {
		return nil, err
	}
	var o api.SandboxOptions
	if r.Options.Type() == "berth.shim.v1.SandboxOptions" {
		if err := wire.Unmarshal(r.Options.Value, &o); err != nil {
			return nil, fmt.Errorf("create sandbox %s: options: %w: %w", r.SandboxID, err, errdefs.ErrInvalidArgument)
		}
	}
	rec := sandboxRecord{
		ID: r.SandboxID, State: sandboxCreated, NetNS: r.NetnsPath, Hostname: o.Hostname, HostIPC: o.HostIpc, HostUTS: o.HostUts,
		Cgroup: o.CgroupParent, CreatedAt: time.Now(),
	}
	if err := v.s.createSandbox(ctx, rec, o.Sysctls); err != nil {
		return nil, err
	}
	return &containerd.CreateSandboxResponse{}, nil
}

// StartSandbox marks the sandbox as ready. There is no process to start; pid is the shim's.
func (v sandboxService) StartSandbox(ctx context.Context, r *containerd.StartSandboxRequest) (*containerd.StartSandboxResponse, error) {
	b, err := v.s.sandbox(r.SandboxID)
	if err != nil {
		return nil, err
	}
	rec, err := b.setState(sandboxReady)
	if err != nil {
		return nil, err
	}
	if rec.State != sandboxReady {
		return nil, fmt.Errorf("start sandbox %s: it is stopped: %w", r.SandboxID, errdefs.ErrFailedPrecondition)
	}
	return &containerd.StartSandboxResponse{Pid: uint32(os.Getpid()), CreatedAt: rec.CreatedAt}, nil
}

// Platform tells what containers run on.
func (v sandboxService) Platform(ctx context.Context, r *containerd.PlatformRequest) (*containerd.PlatformResponse, error) {
	return &containerd.PlatformResponse{Platform: &containerd.Platform{OS: "linux", Architecture: runtime.GOARCH}}, nil
}

// StopSandbox kills what is left in the sandbox. One that is unknown is stopped.
func (v sandboxService) StopSandbox(ctx context.Context, r *containerd.StopSandboxRequest) (*containerd.StopSandboxResponse, error) {
	b, err := v.s.sandbox(r.SandboxID)
	if errors.Is(err, errdefs.ErrNotFound) {
		return &containerd.StopSandboxResponse{}, nil
	}
	if r.TimeoutSecs > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(r.TimeoutSecs)*time.Second)
		defer cancel()
	}
	return &containerd.StopSandboxResponse{}, b.stop(ctx)
}

// WaitSandbox answers when the sandbox is stopped.
func (v sandboxService) WaitSandbox(ctx context.Context, r *containerd.WaitSandboxRequest) (*containerd.WaitSandboxResponse, error) {
	b, err := v.s.sandbox(r.SandboxID)
	if err != nil {
		return nil, err
	}
	select {
	case <-b.stopped:
		return &containerd.WaitSandboxResponse{ExitedAt: b.snapshot().ExitedAt}, nil
	case <-v.s.ended:
		return nil, fmt.Errorf("wait for sandbox %s: the shim is ending: %w", r.SandboxID, errdefs.ErrUnavailable)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// SandboxStatus tells where the sandbox's namespaces are (info: netns, ipc, uts; missing means the host's).
func (v sandboxService) SandboxStatus(ctx context.Context, r *containerd.SandboxStatusRequest) (*containerd.SandboxStatusResponse, error) {
	b, err := v.s.sandbox(r.SandboxID)
	if err != nil {
		return nil, err
	}
	rec := b.snapshot()
	info := map[string]string{"group": v.s.cfg.Group, "generation": strconv.Itoa(int(v.s.cfg.Generation))}
	for name, path := range map[string]string{"netns": rec.NetNS, "ipc": b.nsPath("ipc", rec.HostIPC), "uts": b.nsPath("uts", rec.HostUTS)} {
		if path != "" {
			info[name] = path
		}
	}
	return &containerd.SandboxStatusResponse{
		SandboxID: rec.ID, Pid: uint32(os.Getpid()), State: rec.State, Info: info, CreatedAt: rec.CreatedAt, ExitedAt: rec.ExitedAt,
	}, nil
}

// PingSandbox answers.
func (v sandboxService) PingSandbox(ctx context.Context, r *containerd.PingRequest) (*containerd.PingResponse, error) {
	return &containerd.PingResponse{}, nil
}

// ShutdownSandbox removes the sandbox, with what is left in it. An unknown one is removed. Under a stock containerd the
// last one ends the shim.
func (v sandboxService) ShutdownSandbox(ctx context.Context, r *containerd.ShutdownSandboxRequest) (*containerd.ShutdownSandboxResponse, error) {
	if b, err := v.s.sandbox(r.SandboxID); err == nil {
		if err := b.shutdown(ctx); err != nil {
			return nil, err
		}
	}
	v.s.mu.Lock()
	defer v.s.mu.Unlock()
	if !v.s.cfg.Managed && len(v.s.sandboxes)+len(v.s.containers) == 0 {
		v.s.closing = true
		v.s.end()
	}
	return &containerd.ShutdownSandboxResponse{}, nil
}

// SandboxMetrics is of the containers' business.
func (v sandboxService) SandboxMetrics(ctx context.Context, r *containerd.SandboxMetricsRequest) (*containerd.SandboxMetricsResponse, error) {
	return nil, fmt.Errorf("metrics of sandbox %s: ask for those of its containers: %w", r.SandboxID, errdefs.ErrNotImplemented)
}

// UpdateSandbox has nothing to update.
func (v sandboxService) UpdateSandbox(ctx context.Context, r *containerd.UpdateSandboxRequest) (*containerd.UpdateSandboxResponse, error) {
	return nil, fmt.Errorf("update sandbox %s: nothing of it can be changed: %w", r.SandboxID, errdefs.ErrNotImplemented)
}
