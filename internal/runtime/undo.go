package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// effectKind names an effect: in the journal, in spans, and in failpoints
// ("runtime/<kind>/before", "runtime/<kind>/after", "runtime/undo-<kind>/…").
type effectKind string

// Effects that leave something outside, with what it is.
const (
	kindCgroup      effectKind = "cgroup"       // the pod's cgroup
	kindUserNS      effectKind = "userns"       // the pod's user namespace, and what belongs to it
	kindNetNS       effectKind = "netns"        // the pod's network namespace
	kindNetwork     effectKind = "network"      // links, addresses, host ports
	kindShim        effectKind = "shim"         // a place in a shim
	kindShimSandbox effectKind = "shim-sandbox" // the pod's namespaces in the shim
	kindPodDir      effectKind = "pod-dir"      // files that the pod's containers share
	kindShm         effectKind = "shm"          // the mount of the pod's /dev/shm

	kindSnapshot effectKind = "snapshot" // a container's writable layer
	kindVolumes  effectKind = "volumes"  // mounts of the images that are a container's volumes
	kindRestore  effectKind = "restore"  // an unpacked checkpoint that a container is to be made from
	kindBundle   effectKind = "bundle"   // a container's config.json and stdio
	kindTask     effectKind = "task"     // a container's processes and cgroup
)

// Effects that leave nothing that would have to be undone.
const (
	kindSandboxRecord   effectKind = "sandbox-record"
	kindContainerRecord effectKind = "container-record"
	kindSignal          effectKind = "signal"
	kindKill            effectKind = "kill"
	kindUpdate          effectKind = "update"
)

// shimKinds are what only the shim can undo. A shim that does not answer is asked again later, and
// nobody has to wait: by then the kernel has ended the processes.
var shimKinds = []effectKind{kindTask, kindShimSandbox, kindShim}

// undo takes an effect back that may have happened wholly, in part or not at all.
func (r *Runtime) undo(ctx context.Context, l *ledger, e entry) error {
	switch e.Kind {
	case kindCgroup:
		return r.undoCgroup(ctx, e)
	case kindUserNS:
		return r.undoUserNS(ctx, e.Object)
	case kindNetNS:
		return r.cfg.Network.RemoveNetNS(ctx, e.Object)
	case kindNetwork:
		return r.cfg.Network.Detach(ctx, e.Object)
	case kindShim:
		if l.has(kindTask, kindShimSandbox) {
			return errors.New("the shim has not yet answered that it has ended what it keeps")
		}
		return r.cfg.Shims.Release(ctx, e.Object)
	case kindShimSandbox:
		return r.undoShimSandbox(ctx, e.Object)
	case kindPodDir:
		return os.RemoveAll(r.store.podDir(e.Object))
	case kindShm:
		return r.cfg.Kernel.Unmount(ctx, filepath.Join(r.store.podDir(e.Object), "shm"))
	case kindSnapshot:
		return r.cfg.Images.Remove(ctx, e.Object)
	case kindVolumes:
		return r.undoVolumes(ctx, e.Object)
	case kindRestore:
		return r.undoRestore(ctx, e.Object)
	case kindBundle:
		return r.undoBundle(ctx, e.Object)
	case kindTask:
		return r.undoTask(ctx, e)
	}
	return fmt.Errorf("unknown effect %q in the journal: it was written by another version", e.Kind)
}

// cgroupArgs records whose cgroup it is: what was there before, outside our own parent, belongs to a
// kubelet that makes pod cgroups itself.
func (r *Runtime) cgroupArgs(path string) map[string]string {
	args := map[string]string{"path": path}
	if !within(r.cfg.CgroupParent, path) && r.cfg.Kernel.CgroupExists(path) {
		args["foreign"] = "true"
	}
	return args
}

func within(parent, path string) bool {
	return strings.HasPrefix(path, strings.TrimSuffix(parent, "/")+"/")
}

// undoCgroup removes the pod's cgroup, unless another attempt of the same pod lives in it.
func (r *Runtime) undoCgroup(ctx context.Context, e entry) error {
	if e.Args["foreign"] != "" || r.cgroupShared(e.Object, e.Args["path"]) {
		return nil
	}
	return r.cfg.Kernel.RemoveCgroup(ctx, e.Args["path"])
}

func (r *Runtime) cgroupShared(sandboxID, path string) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for id, sb := range r.sandboxes {
		if s := sb.get(); id != sandboxID && s.CgroupPath == path && s.State != SandboxRemoving {
			return true
		}
	}
	return false
}

func (r *Runtime) undoShimSandbox(ctx context.Context, id string) error {
	shim, ok := r.cfg.Shims.Lookup(id)
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, r.cfg.ShimTimeout/2)
	defer cancel()
	return shim.RemoveSandbox(ctx, id)
}

func (r *Runtime) undoBundle(ctx context.Context, id string) error {
	dir := r.store.bundle(id)
	if err := r.cfg.Kernel.Unmount(ctx, filepath.Join(dir, "rootfs")); err != nil { // a foreign shim's
		return err
	}
	return os.RemoveAll(dir)
}

// undoTask has the shim forget the container; if the shim does not, the kernel ends the processes
// all the same, and the error says that the shim is still to be told.
func (r *Runtime) undoTask(ctx context.Context, e entry) error {
	var err error
	if shim, ok := r.cfg.Shims.Lookup(e.Args["sandbox"]); ok {
		sctx, cancel := context.WithTimeout(ctx, r.cfg.ShimTimeout/2)
		err = shim.DeleteTask(sctx, e.Object)
		cancel()
	}
	if cgroup := e.Args["cgroup"]; err != nil || r.cfg.Kernel.CgroupExists(cgroup) {
		err = errors.Join(err, r.cfg.Kernel.RemoveCgroup(ctx, cgroup))
	}
	return err
}

// settle takes back what a sandbox owns for nobody: everything if it is being removed, else what
// containers left that are gone. What can't be taken back now becomes a debt. It returns an error
// only for what is left in the kernel or on disk; what a shim still has to be told is not the
// caller's business. It runs in the sandbox's actor or before anybody knows the sandbox.
func (r *Runtime) settle(ctx context.Context, sb *sandbox) error {
	ctx, cancel := r.undoContext(ctx)
	defer cancel()
	removing := sb.get().State == SandboxRemoving
	var errs []error
	for _, object := range sb.orphans() {
		errs = append(errs, sb.ledger.undoObject(ctx, object))
	}
	if removing {
		errs = append(errs, sb.ledger.undoObject(ctx, sb.id))
		r.forgetName(sb)
	}
	err := errors.Join(errs...)
	if err == nil && removing {
		err = r.forget(sb)
	}
	if err == nil {
		r.debts.paid(sb)
		return nil
	}
	r.debts.add(sb)
	if onlyShimKinds(sb.ledger.live("")) || !removing {
		r.log.Warn("a shim does not answer; it is asked again later", "sandbox", sb.id, "error", err)
		return nil
	}
	return err
}

func onlyShimKinds(live []entry) bool {
	for _, e := range live {
		found := false
		for _, k := range shimKinds {
			found = found || e.Kind == k
		}
		if !found {
			return false
		}
	}
	return true
}

// orphans are objects in the ledger that are not the sandbox and no container any more.
func (sb *sandbox) orphans() []string {
	var out []string
	seen := map[string]bool{sb.id: true}
	live := sb.ledger.live("")
	sb.mu.Lock()
	defer sb.mu.Unlock()
	for _, e := range live {
		if !seen[e.Object] && sb.containers[e.Object] == nil {
			out = append(out, e.Object)
		}
		seen[e.Object] = true
	}
	return out
}

func (r *Runtime) forgetName(sb *sandbox) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.names[sb.key] == sb {
		delete(r.names, sb.key)
	}
}

// forget ends a sandbox that owns nothing any more.
func (r *Runtime) forget(sb *sandbox) error {
	if err := r.store.drop("sandboxes", sb.id); err != nil {
		return err
	}
	if err := sb.ledger.remove(); err != nil {
		return err
	}
	sb.interrupt()
	r.cfg.LSM.Release(sb.get().SELinuxLabel)
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.sandboxes, sb.id)
	return nil
}

// debts are the sandboxes with something left to undo, tried again with growing pauses.
type debts struct {
	r    *Runtime
	mu   sync.Mutex
	owed map[*sandbox]bool
	poke chan struct{}
}

func newDebts(r *Runtime) *debts {
	return &debts{r: r, owed: map[*sandbox]bool{}, poke: make(chan struct{}, 1)}
}

func (d *debts) add(sb *sandbox) {
	d.mu.Lock()
	known := d.owed[sb]
	d.owed[sb] = true
	d.mu.Unlock()
	if !known {
		d.wake()
	}
}

// wake has the debts tried again soon, as when a shim has been replaced.
func (d *debts) wake() {
	select {
	case d.poke <- struct{}{}:
	default:
	}
}

func (d *debts) paid(sb *sandbox) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.owed, sb)
}

func (d *debts) list() []*sandbox {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make([]*sandbox, 0, len(d.owed))
	for sb := range d.owed {
		out = append(out, sb)
	}
	return out
}

func (d *debts) run() {
	const first, longest = time.Second, 30 * time.Second
	pause := first
	for {
		var tick <-chan time.Time
		if len(d.list()) > 0 {
			tick = time.After(pause)
		}
		select {
		case <-d.r.life.Done():
			return
		case <-d.poke:
			pause = first
			continue
		case <-tick:
		}
		var wg sync.WaitGroup
		for _, sb := range d.list() {
			wg.Add(1)
			go func() {
				defer wg.Done()
				sb.actor.join("settle", func() error { return d.r.settle(d.r.life, sb) }).wait(d.r.life)
			}()
		}
		wg.Wait()
		pause = min(2*pause, longest)
	}
}
