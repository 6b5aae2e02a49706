package runtime

import (
	"context"
	"errors"
	"io/fs"
	"time"
)

// ContainerStats is what a container uses now.
type ContainerStats struct {
	Container ContainerStatus
	// Cgroup is zero but for At where the container does not run.
	Cgroup Stats
	// Disk is the writable layer.
	Disk DiskUsage
}

// SandboxStats is what a pod uses now.
type SandboxStats struct {
	Sandbox    SandboxStatus
	Cgroup     Stats
	Containers []ContainerStats
}

// ContainerStats reads one container's counters.
func (r *Runtime) ContainerStats(ctx context.Context, id string) (ContainerStats, error) {
	st, err := r.Container(id)
	if err != nil {
		return ContainerStats{}, err
	}
	return r.statsOf(ctx, st)
}

func (r *Runtime) statsOf(ctx context.Context, st ContainerStatus) (ContainerStats, error) {
	out := ContainerStats{Container: st, Cgroup: Stats{At: time.Now()}}
	if st.State == ContainerRunning {
		s, err := r.cfg.Kernel.Stats(ctx, st.CgroupPath)
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // it has ended this instant
			return out, err
		}
		if err == nil {
			out.Cgroup = s
		}
	}
	var err error
	out.Disk, err = r.cfg.Images.Usage(ctx, st.ID)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return out, err
}

// SandboxStats reads a pod's counters and those of its containers.
func (r *Runtime) SandboxStats(ctx context.Context, id string) (SandboxStats, error) {
	st, err := r.Sandbox(id)
	if err != nil {
		return SandboxStats{}, err
	}
	out := SandboxStats{Sandbox: st}
	if out.Cgroup, err = r.cfg.Kernel.Stats(ctx, st.CgroupPath); err != nil {
		return out, err
	}
	for _, c := range r.Containers(id) {
		s, err := r.statsOf(ctx, c)
		if err != nil {
			return out, err
		}
		out.Containers = append(out.Containers, s)
	}
	return out, nil
}
