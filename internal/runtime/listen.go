package runtime

import (
	"context"
	"time"
)

// listen turns what shims report into states.
func (r *Runtime) listen() {
	events := r.cfg.Shims.Events()
	for {
		select {
		case <-r.life.Done():
			go func() { // nobody who still reports may wait for us
				for range events {
				}
			}()
			return
		case e, ok := <-events:
			if !ok {
				return
			}
			r.hear(e)
		}
	}
}

func (r *Runtime) hear(e ShimEvent) {
	switch e.Kind {
	case ShimExit:
		if c := r.container(e.ContainerID); c != nil {
			c.actor.do(func() error { return c.ended(e.Exit) })
		} else if sb := r.sandbox(e.ContainerID); sb != nil {
			r.keeperEnded(sb, e.Exit.Reason)
		}
	case ShimOOM:
		if c := r.container(e.ContainerID); c != nil {
			c.mu.Lock()
			c.oom, c.oomReason = true, e.Exit.Reason
			c.mu.Unlock()
			r.emit(ContainerOOM, c.sb, c.id)
		}
	case ShimReplaced:
		for _, id := range e.Sandboxes {
			if sb := r.sandbox(id); sb != nil {
				r.reconcile(sb)
			}
		}
		r.debts.wake()
	case ShimLost:
		for _, id := range e.Sandboxes {
			if sb := r.sandbox(id); sb != nil {
				r.lost(sb)
			}
		}
		r.debts.wake()
	}
}

// reconcile compares the sandbox's containers with what its shim knows, until the shim answers. It
// returns at once.
func (r *Runtime) reconcile(sb *sandbox) {
	r.wg.Add(1)
	go func() {
		defer r.wg.Done()
		for pause := 100 * time.Millisecond; r.life.Err() == nil; pause = min(2*pause, 10*time.Second) {
			if sb.get().State == SandboxRemoving || r.reconcileOnce(r.life, sb) == nil {
				return
			}
			select {
			case <-time.After(pause):
			case <-r.life.Done():
			}
		}
	}()
}

// reconcileOnce is one try; its error means that the shim has not answered.
func (r *Runtime) reconcileOnce(ctx context.Context, sb *sandbox) error {
	children := sb.children()
	busy := children[:0]
	for _, c := range children {
		if sb.ledger.owns(kindTask, c.id) {
			busy = append(busy, c)
		}
	}
	shim, ok := r.cfg.Shims.Lookup(sb.id)
	if !ok {
		r.lost(sb)
		return nil
	}
	keeper := sb.ledger.owns(kindTask, sb.id)
	if len(busy) == 0 && !keeper {
		return nil
	}
	ctx, cancel := r.shimContext(ctx)
	defer cancel()
	tasks, err := shim.Tasks(ctx, sb.id)
	if err != nil {
		r.log.Warn("a shim does not say what it keeps", "sandbox", sb.id, "error", err)
		return err
	}
	known := map[string]TaskState{}
	for _, t := range tasks {
		known[t.ID] = t
	}
	if keeper && !known[sb.id].Running {
		r.keeperEnded(sb, "its shim no longer knows it")
	}
	for _, c := range busy {
		t, ok := known[c.id]
		c.actor.do(func() error { return c.reconcile(t, ok) }).wait(ctx)
	}
	return nil
}

// reconcile runs in the actor: memory says one thing, the shim another, and the shim is right.
func (c *container) reconcile(t TaskState, known bool) error {
	switch st := c.get(); {
	case st.State == ContainerRunning && known && t.Running:
		if t.Paused {
			c.unpause()
		}
		return nil
	case st.State == ContainerRunning && known && !t.Created:
		return c.ended(t.Exit)
	case st.State == ContainerRunning:
		return c.vanished("its shim no longer knows it")
	case st.State == ContainerCreated && known && t.Running:
		err := c.commit(func(s *ContainerStatus) {
			s.State, s.Pid, s.StartedAt = ContainerRunning, t.Pid, time.Now()
		})
		c.r.emit(ContainerStarted, c.sb, c.id)
		return err
	case st.State == ContainerCreated && known && !t.Created:
		c.set(func(s *ContainerStatus) { s.State, s.StartedAt = ContainerRunning, time.Now() })
		return c.ended(t.Exit)
	case st.State == ContainerCreated || st.State == ContainerExited:
		// A start that never was, or an end that was not cleared: the task goes.
		ctx, cancel := c.r.undoContext(c.r.life)
		defer cancel()
		return c.sb.ledger.undoOne(ctx, kindTask, c.id)
	}
	return nil
}

// vanished ends a container of which nobody can tell how it ended.
func (c *container) vanished(why string) error {
	ctx, cancel := c.r.undoContext(c.r.life)
	defer cancel()
	if err := c.r.cfg.Kernel.KillCgroup(ctx, c.get().CgroupPath); err != nil {
		c.r.log.Warn("processes of a lost container could not be killed", "container", c.id, "error", err)
	}
	return c.ended(Exit{Code: 255, At: time.Now(), Unknown: true, Reason: why})
}

// lost ends a sandbox whose shim is gone for good: without it nobody keeps its namespaces.
func (r *Runtime) lost(sb *sandbox) {
	for _, c := range sb.children() {
		c.actor.do(func() error {
			if c.get().State != ContainerRunning {
				return nil
			}
			return c.vanished("its shim is gone and could not be replaced")
		})
	}
	sb.actor.do(func() error {
		if sb.get().State != SandboxReady {
			return nil
		}
		if err := sb.commit(SandboxStopped); err != nil {
			return err
		}
		r.emit(SandboxStoppedEv, sb, "")
		return nil
	})
}
