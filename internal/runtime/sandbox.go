package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"

	"github.com/11f9778f/berth/internal/network/dnsconf"
	"github.com/11f9778f/berth/internal/trace"
)

// sandbox is one pod. Its actor runs what concerns the pod as a whole.
type sandbox struct {
	r      *Runtime
	id     string
	key    string // the identity, see SandboxSpec
	actor  actor
	saving actor // makes checkpoints, which take long
	ledger *ledger
	run    *operation // RunSandbox; never nil
	gauge  gauge

	// life ends when the sandbox is told to stop: whatever is being started in it is interrupted.
	life      context.Context
	interrupt context.CancelFunc

	mu         sync.Mutex
	status     SandboxStatus
	containers map[string]*container
	names      map[string]*container // by identity in the sandbox
	spans      *trace.Recorder       // where the time of the sandbox's operations went
}

func (s SandboxSpec) key() string {
	return fmt.Sprintf("%s/%s/%s/%d", s.UID, s.Namespace, s.Name, s.Attempt)
}

// tenant groups the sandboxes that may share a shim: those of one namespace and one level of trust.
func (s SandboxSpec) tenant() string {
	t := s.Namespace
	if s.Privileged || s.Namespaces.Network == NamespaceNode || s.Namespaces.PID == NamespaceNode {
		t += "/host"
	}
	return t
}

func (sb *sandbox) get() SandboxStatus {
	sb.mu.Lock()
	defer sb.mu.Unlock()
	return sb.status
}

func (sb *sandbox) set(f func(*SandboxStatus)) SandboxStatus {
	sb.mu.Lock()
	defer sb.mu.Unlock()
	f(&sb.status)
	return sb.status
}

func (sb *sandbox) children() []*container {
	sb.mu.Lock()
	defer sb.mu.Unlock()
	out := make([]*container, 0, len(sb.containers))
	for _, c := range sb.containers {
		out = append(out, c)
	}
	return out
}

func (r *Runtime) newSandbox(status SandboxStatus) (*sandbox, error) {
	l, err := openLedger(r.store.journal(status.ID), r.undo)
	if err != nil {
		return nil, err
	}
	sb := &sandbox{
		r: r, id: status.ID, key: status.Spec.key(), ledger: l, status: status,
		containers: map[string]*container{}, names: map[string]*container{}, spans: &trace.Recorder{},
	}
	sb.life, sb.interrupt = context.WithCancel(r.life)
	return sb, nil
}

// RunSandbox makes a pod sandbox and returns its ID. A call with the identity of a sandbox that is
// being made or is ready returns that one's result.
func (r *Runtime) RunSandbox(ctx context.Context, spec SandboxSpec) (string, error) {
	if err := r.checkSandbox(spec); err != nil {
		return "", err
	}
	if spec.Hostname == "" {
		spec.Hostname, _ = os.Hostname()
	}
	sb, err := r.reserveSandbox(ctx, spec)
	if err != nil {
		return "", err
	}
	if err := sb.run.wait(ctx); err != nil {
		return "", fmt.Errorf("run sandbox %s/%s: %w", spec.Namespace, spec.Name, err)
	}
	if s := sb.get(); s.State != SandboxReady {
		return "", fmt.Errorf("run sandbox %s/%s: sandbox %s with this uid and attempt is %s: remove it, or ask for the next attempt: %w",
			spec.Namespace, spec.Name, short(sb.id), s.State, errdefs.ErrFailedPrecondition)
	}
	return sb.id, nil
}

// reserveSandbox finds the sandbox of an identity or begins one.
func (r *Runtime) reserveSandbox(ctx context.Context, spec SandboxSpec) (*sandbox, error) {
	r.mu.RLock()
	sb := r.names[spec.key()]
	r.mu.RUnlock()
	if sb != nil {
		return sb, nil
	}
	h := r.handler(spec.Handler)
	pod, err := r.podCgroup(spec)
	if err != nil {
		return nil, err
	}
	fresh, err := r.newSandbox(SandboxStatus{
		ID: newID(), Spec: spec, State: SandboxCreating, CreatedAt: time.Now(), CgroupPath: pod,
		Foreign: h.Foreign, SystemdCgroup: h.SystemdCgroup,
	})
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if sb := r.names[spec.key()]; sb != nil { // somebody was faster
		fresh.interrupt()
		fresh.ledger.remove()
		return sb, nil
	}
	if r.life.Err() != nil {
		fresh.ledger.remove()
		return nil, fmt.Errorf("the runtime is closing: %w", errdefs.ErrUnavailable)
	}
	r.names[spec.key()], r.sandboxes[fresh.id] = fresh, fresh
	fresh.run = fresh.actor.do(func() error { return fresh.start(fresh.traced(fresh.life, ctx)) })
	return fresh, nil
}

// start makes the sandbox whole or takes all of it back.
func (sb *sandbox) start(ctx context.Context) error {
	leave, err := sb.r.starts.enter(ctx, admitSandbox)
	if err == nil {
		err = sb.build(ctx)
		leave()
	}
	if err == nil {
		err = sb.commit(SandboxReady)
	}
	if err == nil {
		sb.r.emit(SandboxStarted, sb, "")
		return nil
	}
	sb.set(func(s *SandboxStatus) { s.State = SandboxRemoving })
	if uerr := sb.r.settle(ctx, sb); uerr != nil {
		sb.r.log.Warn("sandbox could not be taken back yet", "sandbox", sb.id, "error", uerr)
	}
	return err
}

// commit sets the state, first on disk.
func (sb *sandbox) commit(state SandboxState) error {
	s := sb.get()
	s.State = state
	err := sb.ledger.step(sb.r.life, effect{kind: kindSandboxRecord, object: sb.id, do: func(context.Context) error {
		return sb.r.store.save("sandboxes", sb.id, s)
	}})
	if err != nil {
		return err
	}
	sb.set(func(s *SandboxStatus) { s.State = state })
	return nil
}

// build makes what a sandbox consists of. What does not depend on each other runs at the same time, what takes longest is begun
// last, for that is what Go runs first:
//
//	netns ──┬── network
//	        └── shim sandbox
//	shim ───┘
//	cgroup
//	pod folder ── shm
//
// Last comes the keeper of a shared PID namespace, or what stands for the sandbox in a shim that knows none.
func (sb *sandbox) build(life context.Context) error {
	r, spec := sb.r, sb.get().Spec
	if err := sb.label(); err != nil {
		return err
	}
	if err := sb.makeUserNS(life); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(life)
	g.Go(func() error { return sb.makePodDir(ctx) })
	g.Go(func() error {
		path := sb.get().CgroupPath
		args, limits := r.cgroupArgs(path), spec.Resources
		if args["foreign"] != "" {
			limits = nil // who made it has set its limits
		}
		return sb.ledger.do(ctx, effect{kind: kindCgroup, object: sb.id, args: args,
			do: func(ctx context.Context) error { return r.cfg.Kernel.CreateCgroup(ctx, path, limits) }})
	})
	netns := make(chan string, 1)
	container := false // the shim wants one that stands for the sandbox
	g.Go(func() error {
		shim, err := sb.acquireShim(ctx)
		if err != nil {
			return err
		}
		path, ok := <-netns
		if !ok && spec.Namespaces.Network != NamespaceNode {
			return nil // the other branch tells why
		}
		container, err = sb.shimSandbox(ctx, shim, path)
		return err
	})
	if spec.Namespaces.Network == NamespaceNode {
		close(netns)
	} else {
		g.Go(func() error {
			defer close(netns)
			path, err := sb.makeNetNS(ctx)
			if err != nil {
				return err
			}
			netns <- path
			return sb.attach(ctx, path)
		})
	}
	err := g.Wait()
	if err == nil {
		err = sb.nameItself()
	}
	if err == nil && (spec.Namespaces.PID == NamespacePod || container) {
		err = sb.startKeeper(life)
	}
	if err != nil {
		return err
	}
	return sb.ask(life, PluginRunSandbox, ContainerStatus{})
}

func (sb *sandbox) makeNetNS(ctx context.Context) (string, error) {
	var path string
	netSysctls, _ := splitSysctls(sb.get().Spec.Sysctls)
	err := sb.ledger.do(ctx, effect{kind: kindNetNS, object: sb.id, do: func(ctx context.Context) (err error) {
		if sb.get().Spec.User != nil {
			path, err = sb.r.cfg.Network.AdoptNetNS(ctx, sb.id, filepath.Join(sb.r.store.userNS(sb.id), "net"))
			return err
		}
		path, err = sb.r.cfg.Network.CreateNetNS(ctx, sb.id, netSysctls)
		return err
	}})
	sb.set(func(s *SandboxStatus) { s.NetNS = path })
	return path, err
}

func (sb *sandbox) attach(ctx context.Context, netns string) error {
	spec := sb.get().Spec
	return sb.ledger.do(ctx, effect{kind: kindNetwork, object: sb.id, do: func(ctx context.Context) error {
		ips, err := sb.r.cfg.Network.Attach(ctx, AttachRequest{
			SandboxID: sb.id, NetNS: netns, Ports: spec.Ports,
			PodNamespace: spec.Namespace, PodName: spec.Name, PodUID: spec.UID,
			Bandwidth: spec.Bandwidth, IPs: spec.IPs, DNS: spec.DNS,
		})
		sb.set(func(s *SandboxStatus) { s.IPs = ips })
		return err
	}})
}

func (sb *sandbox) acquireShim(ctx context.Context) (Shim, error) {
	var shim Shim
	spec, bundle := sb.get().Spec, ""
	if sb.get().Foreign { // its shim begins in the bundle and reads the annotations there
		bundle = sb.r.store.bundle(sb.id)
		if err := sb.makeKeeperBundle(ctx); err != nil {
			return nil, err
		}
	}
	err := sb.ledger.do(ctx, effect{kind: kindShim, object: sb.id, do: func(ctx context.Context) (err error) {
		ctx, cancel := sb.r.shimContext(ctx)
		defer cancel()
		shim, err = sb.r.cfg.Shims.Acquire(ctx, Placement{SandboxID: sb.id, Tenant: spec.tenant(), Handler: spec.Handler, Bundle: bundle})
		return err
	}})
	return shim, err
}

// shimSandbox tells whether the shim wants a container that stands for the sandbox.
func (sb *sandbox) shimSandbox(ctx context.Context, shim Shim, netns string) (container bool, err error) {
	st := sb.get()
	_, sysctls := splitSysctls(st.Spec.Sysctls)
	bundle := sb.r.store.podDir(sb.id)
	if st.Foreign {
		bundle = sb.r.store.bundle(sb.id)
	}
	err = sb.ledger.do(ctx, effect{kind: kindShimSandbox, object: sb.id, do: func(ctx context.Context) error {
		ctx, cancel := sb.r.shimContext(ctx)
		defer cancel()
		place, err := shim.CreateSandbox(ctx, ShimSandbox{
			ID: sb.id, NetNS: netns, Hostname: st.Spec.Hostname, Sysctls: sysctls, Cgroup: st.CgroupPath,
			// With a user namespace they are made together with it.
			IPC:    st.Spec.Namespaces.IPC == NamespacePod && st.Spec.User == nil,
			UTS:    st.Spec.Namespaces.Network == NamespacePod && st.Spec.User == nil,
			Bundle: bundle, Annotations: sb.annotations(),
		})
		if st.Spec.User == nil {
			sb.set(func(s *SandboxStatus) { s.IPC, s.UTS = place.IPC, place.UTS })
		}
		container = place.Container
		return err
	}})
	return container, err
}

// makePodDir writes the files that all containers of the pod see, and mounts their /dev/shm.
func (sb *sandbox) makePodDir(ctx context.Context) error {
	r, spec, dir := sb.r, sb.get().Spec, sb.r.store.podDir(sb.id)
	err := sb.ledger.do(ctx, effect{kind: kindPodDir, object: sb.id, do: func(context.Context) error {
		if err := writePodFiles(dir, spec, r.cfg.ResolvConf); err != nil {
			return err
		}
		return spec.User.give(dir, "hostname", "hosts", "resolv.conf")
	}})
	if err != nil || spec.Namespaces.IPC == NamespaceNode {
		return err
	}
	return sb.ledger.do(ctx, effect{kind: kindShm, object: sb.id, do: func(ctx context.Context) error {
		if err := r.cfg.Kernel.MountTmpfs(ctx, filepath.Join(dir, "shm"), r.cfg.ShmSize); err != nil {
			return err
		}
		return spec.User.give(dir, "shm")
	}})
}

// StopSandbox kills what runs in the sandbox and gives its network back. A sandbox that is not there
// is stopped.
func (r *Runtime) StopSandbox(ctx context.Context, id string) error {
	sb := r.sandbox(id)
	if sb == nil {
		return nil
	}
	sb.interrupt()
	op := sb.actor.join("stop", func() error { return sb.stop(sb.traced(r.life, ctx)) })
	if err := op.wait(ctx); err != nil {
		return fmt.Errorf("stop sandbox %s: %w", short(id), err)
	}
	return nil
}

// stop runs in the actor.
func (sb *sandbox) stop(ctx context.Context) error {
	sb.gauge.close()
	state := sb.get().State
	if state == SandboxRemoving {
		return nil
	}
	if state == SandboxReady {
		if err := sb.commit(SandboxStopped); err != nil {
			return err
		}
	}
	var g errgroup.Group
	for _, c := range sb.children() {
		g.Go(func() error { return c.stop(0).wait(ctx) })
	}
	err := g.Wait()
	uctx, cancel := sb.r.undoContext(ctx)
	defer cancel()
	err = errors.Join(err, sb.endKeeper(uctx), sb.ledger.undoOne(uctx, kindNetwork, sb.id), sb.ledger.undoOne(uctx, kindNetNS, sb.id),
		sb.ledger.undoOne(uctx, kindUserNS, sb.id))
	if err == nil && state == SandboxReady {
		sb.tell(ctx, PluginStopSandbox, ContainerStatus{})
		sb.r.emit(SandboxStoppedEv, sb, "")
	}
	return err
}

// RemoveSandbox stops the sandbox, removes its containers and everything that belongs to it. A
// sandbox that is not there is removed.
func (r *Runtime) RemoveSandbox(ctx context.Context, id string) error {
	sb := r.sandbox(id)
	if sb == nil {
		return nil
	}
	sb.interrupt()
	op := sb.actor.join("remove", func() error { return sb.remove(sb.traced(r.life, ctx)) })
	if err := op.wait(ctx); err != nil {
		return fmt.Errorf("remove sandbox %s: %w", short(id), err)
	}
	return nil
}

// remove runs in the actor.
func (sb *sandbox) remove(ctx context.Context) error {
	if sb.get().State == SandboxRemoving {
		return sb.r.settle(ctx, sb)
	}
	if err := sb.stop(ctx); err != nil {
		return err
	}
	var g errgroup.Group
	for _, c := range sb.children() {
		g.Go(func() error { return c.remove(ctx).wait(ctx) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if err := sb.commit(SandboxRemoving); err != nil {
		return err
	}
	err := sb.r.settle(ctx, sb)
	sb.tell(ctx, PluginRemoveSandbox, ContainerStatus{})
	sb.r.emit(SandboxRemoved, sb, "")
	return err
}

// writePodFiles fills the pod folder: hostname, hosts, resolv.conf, and an empty shm.
func writePodFiles(dir string, spec SandboxSpec, resolv string) error {
	if err := os.MkdirAll(filepath.Join(dir, "shm"), 0o700); err != nil {
		return err
	}
	conf, err := spec.DNS.resolvConf(resolv)
	if err != nil {
		return err
	}
	files := map[string][]byte{"resolv.conf": conf}
	if spec.Namespaces.Network == NamespacePod {
		files["hostname"] = []byte(spec.Hostname + "\n")
		hosts, err := dnsconf.Hosts(nil, "") // until it has addresses
		if err != nil {
			return err
		}
		files["hosts"] = []byte(hosts)
	}
	for name, b := range files {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o644); err != nil {
			return err
		}
		if err := os.Chmod(path, 0o644); err != nil { // whatever the umask is
			return err
		}
	}
	return nil
}
