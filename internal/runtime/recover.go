package runtime

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sync/errgroup"
)

// recover brings memory, disk and kernel together again.
//
//   - Another boot: the kernel forgot everything. What is left on disk is taken back.
//   - A record in state ready or stopped: the sandbox lives; its containers are compared with the
//     shim's list, and what containers left that have no record is undone.
//   - A record in state removing, or a journal without a record: it was being made or unmade when the
//     last daemon ended. All of it is undone.
//   - What no journal owns is an orphan: see Fsck, which runs with repair at the end.
func (r *Runtime) recover(ctx context.Context) error {
	sameBoot, err := r.sameBoot()
	if err != nil {
		return err
	}
	sandboxes, err := load[SandboxStatus](r.store, "sandboxes")
	if err != nil {
		return err
	}
	containers, err := load[containerRecord](r.store, "containers")
	if err != nil {
		return err
	}
	if err := r.loadJournals(sandboxes, sameBoot); err != nil {
		return err
	}
	for id, rec := range containers {
		r.loadContainer(id, rec)
	}
	r.settleAll(ctx)
	report, err := r.Fsck(ctx, true)
	if err != nil {
		return err
	}
	for _, o := range report.Orphans {
		r.log.Info("removed what nobody owned", "kind", o.Kind, "name", o.Name, "error", o.Error)
	}
	if sameBoot {
		return nil
	}
	return r.rememberBoot()
}

// sameBoot tells whether the state on disk is of the present boot.
func (r *Runtime) sameBoot() (bool, error) {
	now, err := r.cfg.Kernel.BootID()
	if err != nil {
		return false, fmt.Errorf("read boot id: %w", err)
	}
	was, err := os.ReadFile(r.store.path("boot"))
	if err != nil && !os.IsNotExist(err) {
		return false, err
	}
	return string(was) == now, nil
}

func (r *Runtime) rememberBoot() error {
	now, err := r.cfg.Kernel.BootID()
	if err != nil {
		return err
	}
	return os.WriteFile(r.store.path("boot"), []byte(now), 0o600)
}

// loadJournals makes a sandbox of every journal and every record.
func (r *Runtime) loadJournals(records map[string]SandboxStatus, sameBoot bool) error {
	ids := map[string]bool{}
	for id := range records {
		ids[id] = true
	}
	dir, err := os.ReadDir(r.store.path("journal"))
	if err != nil {
		return err
	}
	for _, d := range dir {
		if len(d.Name()) != 64 { // half of a compaction
			os.Remove(r.store.path("journal", d.Name()))
			continue
		}
		ids[d.Name()] = true
	}
	for id := range ids {
		status, ok := records[id]
		if !ok {
			status = SandboxStatus{ID: id, State: SandboxRemoving}
		}
		if !sameBoot {
			status.State = SandboxRemoving
		}
		sb, err := r.newSandbox(status)
		if err != nil {
			return err
		}
		sb.run = sb.actor.do(nothing)
		r.sandboxes[id] = sb
		r.cfg.LSM.Reserve(status.SELinuxLabel)
		if status.State != SandboxRemoving {
			r.names[sb.key] = sb
		}
	}
	return nil
}

// loadContainer puts a container back into its sandbox. One that was being removed, or whose sandbox
// is gone, is left out: settle then undoes what the journal says of it.
func (r *Runtime) loadContainer(id string, rec containerRecord) {
	sb := r.sandboxes[rec.SandboxID]
	if sb == nil || sb.status.State == SandboxRemoving || rec.State == ContainerRemoving {
		if err := r.store.drop("containers", id); err != nil {
			r.log.Warn("record of a removed container stays", "container", id, "error", err)
		}
		return
	}
	c := sb.newContainer(rec.ContainerStatus)
	c.rootfs, c.loaded = rec.Rootfs, true
	c.create = c.actor.do(nothing)
	r.containers[id] = c
	sb.containers[id], sb.names[rec.Spec.key()] = c, c
}

// settleAll undoes what is unfinished and asks the shims, all sandboxes at the same time: one that
// hangs holds up nobody but Open, and that not for long.
func (r *Runtime) settleAll(ctx context.Context) {
	var g errgroup.Group
	g.SetLimit(32)
	for _, sb := range r.everySandbox() {
		g.Go(func() error {
			if err := r.settle(ctx, sb); err != nil {
				r.log.Warn("a sandbox could not be taken back yet", "sandbox", sb.id, "error", err)
			}
			if sb.get().State == SandboxRemoving {
				return nil
			}
			if sb.get().State == SandboxStopped { // the stop may have been cut short
				sb.actor.join("stop", func() error { return sb.stop(r.life) })
			}
			if r.reconcileOnce(ctx, sb) != nil {
				r.reconcile(sb)
			}
			return nil
		})
	}
	g.Wait()
}

func (r *Runtime) everySandbox() []*sandbox {
	r.mu.RLock()
	defer r.mu.RUnlock()
	out := make([]*sandbox, 0, len(r.sandboxes))
	for _, sb := range r.sandboxes {
		out = append(out, sb)
	}
	return out
}
