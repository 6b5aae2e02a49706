package runtime

import (
	"context"
	"fmt"
	"time"
)

// StopContainer sends the stop signal, waits for grace, and then kills. It returns when the container
// has ended. A call during another one shortens that one's patience if it has less. A container that
// does not run, or is not there, is stopped.
func (r *Runtime) StopContainer(ctx context.Context, id string, grace time.Duration) error {
	c := r.container(id)
	if c == nil {
		return nil
	}
	if err := c.stop(grace).wait(ctx); err != nil {
		return fmt.Errorf("stop container %s: %w", short(id), err)
	}
	return nil
}

func (c *container) stop(grace time.Duration) *operation {
	c.patience(grace)
	return c.stopping.join("stop", func() error { return c.halt(c.r.life) })
}

// patience lowers the time that the container is given to end by itself.
func (c *container) patience(grace time.Duration) {
	at := time.Now().Add(max(grace, 0))
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.killAt.IsZero() || at.Before(c.killAt) {
		c.killAt = at
		select {
		case c.hurry <- struct{}{}:
		default:
		}
	}
}

func (c *container) deadline() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.killAt
}

// halt ends the container by signal, then by force. It runs beside the actor: what the actor waits
// for may be the very process or shim that does not move.
func (c *container) halt(ctx context.Context) error {
	defer func() {
		c.mu.Lock()
		c.killAt = time.Time{}
		c.mu.Unlock()
	}()
	c.notAbortable()
	// Whatever start was in flight is over when the actor answers.
	if err := c.actor.do(nothing).wait(ctx); err != nil {
		return err
	}
	st := c.get()
	if st.State != ContainerRunning {
		return nil
	}
	if time.Now().Before(c.deadline()) {
		heeded, err := c.signal(ctx, st)
		if err != nil {
			c.r.log.Warn("stop signal could not be sent", "container", c.id, "error", err)
		}
		if ended, err := c.await(ctx, st, heeded); ended || err != nil {
			return err
		}
	}
	return c.kill(ctx, st)
}

// signal sends the stop signal, and tells whether the process can have seen it.
func (c *container) signal(ctx context.Context, st ContainerStatus) (heeded bool, err error) {
	sig, err := parseSignal(st.StopSignal)
	if err != nil {
		return true, err
	}
	heeded = c.heeds(st)
	return heeded, c.sb.ledger.step(ctx, effect{kind: kindSignal, object: c.id, do: func(ctx context.Context) error {
		if c.sb.get().Foreign { // the process is not one of this kernel
			shim, err := c.shim()
			if err != nil {
				return err
			}
			ctx, cancel := c.r.shimContext(ctx)
			defer cancel()
			return shim.KillTask(ctx, c.id, int(sig))
		}
		return c.r.cfg.Kernel.Kill(ctx, st.Pid, st.CgroupPath, int(sig))
	}})
}

// heeds tells whether the stop signal would reach the process.
func (c *container) heeds(st ContainerStatus) bool {
	sig, err := parseSignal(st.StopSignal)
	return err != nil || st.Pid == 0 || c.sb.get().Foreign || c.r.cfg.Kernel.Heeds(st.Pid, int(sig))
}

// await waits until the container has ended (true), or patience has (false). It looks at the process
// itself, too: the shim that should report its end may be stopped. And a program that was told to stop
// before it had a handler for the signal, as one that has only just been started, is told again once it has.
func (c *container) await(ctx context.Context, st ContainerStatus, heeded bool) (bool, error) {
	const often, seldom = 10 * time.Millisecond, 250 * time.Millisecond
	pause := seldom
	if !heeded {
		pause = often
	}
	look := time.NewTimer(pause)
	defer look.Stop()
	for {
		timer := time.NewTimer(time.Until(c.deadline()))
		select {
		case <-c.exited:
			timer.Stop()
			return true, nil
		case <-c.hurry:
		case <-look.C:
			pause = min(pause+pause/4, seldom)
			look.Reset(pause)
			if !heeded && c.heeds(st) {
				heeded = true
				if _, err := c.signal(ctx, st); err != nil {
					c.r.log.Warn("stop signal could not be sent again", "container", c.id, "error", err)
				}
			}
			if st.Pid != 0 && !c.sb.get().Foreign && !c.r.cfg.Kernel.Alive(st.Pid, st.CgroupPath) {
				c.patience(0) // it has ended: all that is left is to hear of it
			}
		case <-timer.C:
			return false, nil
		case <-ctx.Done():
			timer.Stop()
			return false, ctx.Err()
		}
		timer.Stop()
	}
}

// kill ends every process of the container by the kernel's own means, and takes the kernel's word
// for it if the shim does not report the end in time.
func (c *container) kill(ctx context.Context, st ContainerStatus) error {
	err := c.sb.ledger.step(ctx, effect{kind: kindKill, object: c.id, do: func(ctx context.Context) error {
		if c.sb.get().Foreign {
			if err := c.foreignKill(ctx); err != nil { // the kernel's word counts
				c.r.log.Warn("a foreign shim does not kill its container", "container", c.id, "error", err)
			}
		}
		return c.r.cfg.Kernel.KillCgroup(ctx, st.CgroupPath)
	}})
	if err != nil {
		return err
	}
	patience := c.r.cfg.DeathTimeout
	if c.sb.get().Foreign {
		patience *= 5 // its end is known when its output is in the log
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-c.exited:
		return nil
	case <-timer.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	return c.actor.do(func() error {
		return c.ended(Exit{Code: 137, At: time.Now(), Unknown: true,
			Reason: "killed; its shim did not report the end in time"})
	}).wait(ctx)
}

func (c *container) foreignKill(ctx context.Context) error {
	shim, err := c.shim()
	if err != nil {
		return err
	}
	ctx, cancel := c.r.shimContext(ctx)
	defer cancel()
	return shim.KillTask(ctx, c.id, 9)
}

// RemoveContainer kills the container if it runs and removes what belongs to it. A container that is
// not there is removed.
func (r *Runtime) RemoveContainer(ctx context.Context, id string) error {
	c := r.container(id)
	if c == nil {
		return nil
	}
	if err := c.remove(ctx).wait(ctx); err != nil {
		return fmt.Errorf("remove container %s: %w", short(id), err)
	}
	return nil
}

// remove kills beside the actor, then queues the rest in it.
func (c *container) remove(ctx context.Context) *operation {
	c.interrupt()
	c.patience(0)
	return c.stopping.join("remove", func() error {
		ctx := c.sb.traced(c.r.life, ctx)
		if err := c.halt(ctx); err != nil {
			return err
		}
		return c.actor.do(func() error { return c.erase(ctx) }).wait(c.r.life)
	})
}

// erase runs in the actor.
func (c *container) erase(ctx context.Context) error {
	if c.r.container(c.id) != c { // a failed creation has erased it already
		return nil
	}
	if err := c.commit(func(s *ContainerStatus) { s.State = ContainerRemoving }); err != nil {
		return err
	}
	c.forget()
	c.takeBack(ctx)
	if err := c.r.store.drop("containers", c.id); err != nil {
		return err
	}
	c.sb.tell(ctx, PluginRemoved, c.get())
	c.r.emit(ContainerRemoved, c.sb, c.id)
	return nil
}

// ended records how a running container ended. It runs in the actor and may come twice.
func (c *container) ended(x Exit) error {
	if c.get().State != ContainerRunning {
		return nil
	}
	if x.At.IsZero() {
		x.At = time.Now()
	}
	c.mu.Lock()
	oom := c.oom || x.OOMKilled
	x.Reason = firstOf(x.Reason, c.oomReason)
	c.mu.Unlock()
	over := func(s *ContainerStatus) {
		s.State, s.FinishedAt, s.ExitCode, s.Pid = ContainerExited, x.At, x.Code, 0
		s.Reason, s.Message = exitReason(x, oom), x.Reason
	}
	st := c.get()
	over(&st)
	c.sb.tell(c.r.life, PluginStopped, st) // before anybody who waits for the end goes on
	if err := c.commit(over); err != nil {
		return err
	}
	c.r.emit(ContainerStopped, c.sb, c.id)
	c.gauge.close()
	c.actor.do(func() error { return c.reap() })
	return nil
}

func exitReason(x Exit, oom bool) string {
	switch {
	case oom:
		return "OOMKilled"
	case x.Unknown && x.Code != 137:
		return "ContainerStatusUnknown"
	case x.Code == 0:
		return "Completed"
	}
	return "Error"
}

// reap has the shim forget a container that has ended, so that no cgroup and no record of it stays
// while its status does.
func (c *container) reap() error {
	if c.get().State != ContainerExited {
		return nil
	}
	ctx, cancel := c.r.undoContext(c.r.life)
	defer cancel()
	err := c.sb.ledger.undoOne(ctx, kindTask, c.id)
	if err != nil {
		c.r.log.Warn("an ended container could not be cleared yet", "container", c.id, "error", err)
	}
	return err
}
