package runtime

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/11f9778f/berth/internal/engine"
)

// UpdateResources changes the limits of a container. Fields that are zero stay as they are.
func (r *Runtime) UpdateResources(ctx context.Context, id string, res Resources) error {
	c, err := r.listedContainer(id)
	if err != nil {
		return err
	}
	// Not joined by name: two updates may differ.
	err = c.actor.do(func() error { return c.askAndUpdate(c.sb.traced(r.life, ctx), res) }).wait(ctx)
	if err != nil {
		return fmt.Errorf("update resources of container %s: %w", short(id), err)
	}
	return nil
}

// askAndUpdate lets plugins have their say.
func (c *container) askAndUpdate(ctx context.Context, res Resources) error {
	res, err := c.r.cfg.Plugins.Update(ctx, c.sb.get(), c.get(), res)
	if err != nil {
		return fmt.Errorf("a plugin refuses: %w", err)
	}
	if err := c.update(ctx, res); err != nil {
		return err
	}
	c.sb.tell(ctx, PluginUpdated, c.get())
	return nil
}

// update runs in the actor. An update that fails in the middle is taken back; one that is done is in the
// status with the values that the kernel has made of it.
func (c *container) update(ctx context.Context, res Resources) error {
	st := c.get()
	if st.State == ContainerRunning {
		res.OOMScoreAdj = 0 // it belongs to processes, and those that run have theirs
	}
	merged := st.Spec.Resources.merge(res)
	switch st.State {
	case ContainerCreated:
		if err := c.rewriteBundle(merged); err != nil {
			return err
		}
	case ContainerRunning:
		err := c.sb.ledger.step(ctx, effect{kind: kindUpdate, object: c.id, do: func(ctx context.Context) error {
			return c.applyLimits(ctx, st.Spec.Resources, res)
		}})
		if err != nil {
			return err
		}
		if merged, err = c.r.readBack(ctx, st.CgroupPath, merged, res); err != nil {
			return err
		}
	default:
		return fmt.Errorf("it is %s: %w", st.State, errdefs.ErrFailedPrecondition)
	}
	return c.commit(func(s *ContainerStatus) { s.Spec.Resources = merged })
}

// applyLimits sets what is new, or what was before if the kernel refuses a part of it.
func (c *container) applyLimits(ctx context.Context, old, res Resources) error {
	shim, err := c.shim()
	if err != nil {
		return err
	}
	uctx, cancel := c.r.shimContext(ctx)
	defer cancel()
	err = shim.UpdateTask(uctx, c.id, res.OCI())
	if err == nil {
		return nil
	}
	uctx, cancel = c.r.undoContext(ctx)
	defer cancel()
	if uerr := shim.UpdateTask(uctx, c.id, old.atLeastNone(res).OCI()); uerr != nil {
		return errors.Join(err, fmt.Errorf("take the update back: %w", uerr))
	}
	return err
}

// atLeastNone is r with "no limit" for what n limits and r does not: applied, it undoes n.
func (r Resources) atLeastNone(n Resources) Resources {
	for _, f := range []struct{ to, from *int64 }{{&r.CPUQuota, &n.CPUQuota}, {&r.MemoryLimit, &n.MemoryLimit}, {&r.MemorySwap, &n.MemorySwap}} {
		if *f.to == 0 && *f.from != 0 {
			*f.to = -1
		}
	}
	return r
}

// readBack replaces what was asked by what the cgroup says. Memory that was only rounded to whole pages
// stays as it was asked.
func (r *Runtime) readBack(ctx context.Context, path string, merged, asked Resources) (Resources, error) {
	have, err := r.cfg.Kernel.Limits(ctx, path)
	if err != nil {
		return merged, fmt.Errorf("read back: %w", err)
	}
	const page = 64 << 10 // the largest that Linux has
	if asked.MemoryLimit > 0 && have.MemoryLimit != 0 && (have.MemoryLimit > asked.MemoryLimit || have.MemoryLimit <= asked.MemoryLimit-page) {
		merged.MemoryLimit = have.MemoryLimit
	}
	if asked.CPUQuota > 0 && have.CPUQuota != 0 {
		merged.CPUQuota = have.CPUQuota
	}
	if asked.CPUPeriod > 0 && have.CPUPeriod != 0 {
		merged.CPUPeriod = have.CPUPeriod
	}
	return merged, nil
}

// UpdateSandboxResources changes the limits of a pod's cgroup to the sum of what its containers may use and
// the sandbox's own overhead. A cgroup that was there before the pod belongs to the kubelet, which has set it
// before it calls: there the numbers are only kept.
func (r *Runtime) UpdateSandboxResources(ctx context.Context, id string, overhead, res Resources) error {
	if _, err := r.Sandbox(id); err != nil {
		return err
	}
	sb := r.sandbox(id)
	err := sb.actor.do(func() error { return sb.update(sb.traced(r.life, ctx), res.Plus(overhead)) }).wait(ctx)
	if err != nil {
		return fmt.Errorf("update resources of sandbox %s: %w", short(id), err)
	}
	return nil
}

// update runs in the actor.
func (sb *sandbox) update(ctx context.Context, res Resources) error {
	st := sb.get()
	if st.State != SandboxReady {
		return fmt.Errorf("it is %s: %w", st.State, errdefs.ErrFailedPrecondition)
	}
	var old Resources
	if st.Spec.Resources != nil {
		old = *st.Spec.Resources
	}
	merged := old.merge(res)
	if sb.ledger.mine(sb.id) {
		err := sb.ledger.step(ctx, effect{kind: kindUpdate, object: sb.id, do: func(ctx context.Context) error {
			err := sb.r.cfg.Kernel.SetLimits(ctx, st.CgroupPath, res)
			if err == nil {
				return nil
			}
			return errors.Join(err, sb.r.cfg.Kernel.SetLimits(ctx, st.CgroupPath, old.atLeastNone(res)))
		}})
		if err != nil {
			return err
		}
		if merged, err = sb.r.readBack(ctx, st.CgroupPath, merged, res); err != nil {
			return err
		}
	}
	st.Spec.Resources = &merged
	err := sb.ledger.step(ctx, effect{kind: kindSandboxRecord, object: sb.id, do: func(context.Context) error {
		return sb.r.store.save("sandboxes", sb.id, st)
	}})
	if err != nil {
		return err
	}
	sb.set(func(s *SandboxStatus) { s.Spec.Resources = &merged })
	return nil
}

// mine tells whether the sandbox's cgroup was made by this runtime.
func (l *ledger) mine(sandbox string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.find(kindCgroup, sandbox)
	return e != nil && e.Args["foreign"] == ""
}

// Plus adds what an overhead takes to what is limited. What is not limited stays so.
func (r Resources) Plus(o Resources) Resources {
	for _, f := range []struct{ to, from *int64 }{{&r.CPUShares, &o.CPUShares}, {&r.MemoryLimit, &o.MemoryLimit}, {&r.MemorySwap, &o.MemorySwap}} {
		if *f.to > 0 && *f.from > 0 {
			*f.to += *f.from
		}
	}
	if r.CPUQuota > 0 && o.CPUQuota > 0 {
		period := func(p int64) int64 {
			if p == 0 {
				return 100_000
			}
			return p
		}
		r.CPUQuota += o.CPUQuota * period(r.CPUPeriod) / period(o.CPUPeriod)
	}
	return r
}

func (c *container) rewriteBundle(res Resources) error {
	s, err := engine.LoadSpec(c.r.store.bundle(c.id))
	if err != nil {
		return err
	}
	devices := s.Linux.Resources.Devices
	s.Linux.Resources = res.OCI()
	s.Linux.Resources.Devices = devices
	return c.writeBundle(s)
}

// merge overlays the fields of n that are set.
func (r Resources) merge(n Resources) Resources {
	for _, f := range []struct{ to, from *int64 }{
		{&r.CPUPeriod, &n.CPUPeriod}, {&r.CPUQuota, &n.CPUQuota}, {&r.CPUShares, &n.CPUShares},
		{&r.MemoryLimit, &n.MemoryLimit}, {&r.MemorySwap, &n.MemorySwap}, {&r.OOMScoreAdj, &n.OOMScoreAdj},
	} {
		if *f.from != 0 {
			*f.to = *f.from
		}
	}
	r.CpusetCpus, r.CpusetMems = firstOf(n.CpusetCpus, r.CpusetCpus), firstOf(n.CpusetMems, r.CpusetMems)
	if n.Hugepages != nil {
		r.Hugepages = n.Hugepages
	}
	if n.Unified != nil {
		r.Unified = n.Unified
	}
	return r
}
