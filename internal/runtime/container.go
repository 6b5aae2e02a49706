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
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/11f9778f/berth/internal/engine"
)

// container is one container of a sandbox. Its actor runs what concerns it alone.
//
// CreateContainer prepares everything on disk (snapshot, bundle) and no process; the shim hears of the
// container at StartContainer. So a created container costs no memory, no death of a shim can lose
// one, and both calls are safe to repeat; a start pays for one more round trip over a unix socket,
// some 0.1 ms, which a creation would have to pay otherwise.
type container struct {
	r     *Runtime
	sb    *sandbox
	id    string
	actor actor
	// stopping runs stop, which must not wait for what the actor does.
	stopping actor
	// saving makes checkpoints, which take long.
	saving actor
	execs  gate
	create *operation
	gauge  gauge
	rootfs []engine.Mount
	loaded bool // by recovery: a task of it may have been undone

	life      context.Context // ends with the sandbox's, or when the container is told to stop
	interrupt context.CancelFunc

	mu     sync.Mutex
	status ContainerStatus
	exited chan struct{} // closed when State becomes ContainerExited
	killAt time.Time     // while stopping: when patience ends
	hurry  chan struct{} // tells stop that killAt has changed
	abort  func()        // interrupts the start that is in flight, if one is
	oom    bool          // the kernel has killed a process of it for memory
	// oomReason says which.
	oomReason string
	process   *specs.Process // of its bundle, once somebody has asked; not to be changed
}

// containerRecord is what is kept on disk.
type containerRecord struct {
	ContainerStatus
	Rootfs []engine.Mount `json:"rootfs"`
}

func (s ContainerSpec) key() string { return fmt.Sprintf("%s/%d", s.Name, s.Attempt) }

func (c *container) get() ContainerStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.status
}

// set changes the status in memory and tells waiters of an exit.
func (c *container) set(f func(*ContainerStatus)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	was := c.status.State
	f(&c.status)
	if c.status.State == ContainerExited && was != ContainerExited {
		close(c.exited)
	}
}

func (sb *sandbox) newContainer(status ContainerStatus) *container {
	c := &container{
		r: sb.r, sb: sb, id: status.ID, status: status,
		exited: make(chan struct{}), hurry: make(chan struct{}, 1),
	}
	if status.State == ContainerExited {
		close(c.exited)
	}
	c.life, c.interrupt = context.WithCancel(sb.life)
	return c
}

// CreateContainer prepares a container in a ready sandbox and returns its ID. A call with the name
// and attempt of a container that is being created, or was, returns that one's result.
func (r *Runtime) CreateContainer(ctx context.Context, sandboxID string, spec ContainerSpec) (string, error) {
	if err := checkContainer(spec); err != nil {
		return "", err
	}
	sb := r.sandbox(sandboxID)
	if sb == nil {
		return "", fmt.Errorf("create container %s: sandbox %q: %w", spec.Name, sandboxID, errdefs.ErrNotFound)
	}
	c, err := sb.reserveContainer(ctx, spec)
	if err == nil {
		err = c.create.wait(ctx)
	}
	if err != nil {
		return "", fmt.Errorf("create container %s in sandbox %s: %w", spec.Name, short(sandboxID), err)
	}
	return c.id, nil
}

func (sb *sandbox) reserveContainer(ctx context.Context, spec ContainerSpec) (*container, error) {
	sb.mu.Lock()
	if c := sb.names[spec.key()]; c != nil {
		sb.mu.Unlock()
		return c, nil
	}
	if sb.status.State != SandboxReady {
		defer sb.mu.Unlock()
		return nil, fmt.Errorf("the sandbox is %s: %w", sb.status.State, errdefs.ErrFailedPrecondition)
	}
	id := newID()
	c := sb.newContainer(ContainerStatus{
		ID: id, SandboxID: sb.id, Spec: spec, State: ContainerCreating, CreatedAt: time.Now(),
		CgroupPath: sb.status.containerCgroup(id),
	})
	if spec.LogPath != "" && sb.status.Spec.LogDir != "" {
		c.status.LogPath = filepath.Join(sb.status.Spec.LogDir, spec.LogPath)
	}
	sb.containers[id], sb.names[spec.key()] = c, c
	c.create = c.actor.do(func() error { return c.prepare(c.sb.traced(c.life, ctx)) })
	sb.mu.Unlock()

	sb.r.mu.Lock()
	sb.r.containers[id] = c
	sb.r.mu.Unlock()
	return c, nil
}

// prepare makes the container's snapshot and bundle, or takes all of it back.
func (c *container) prepare(ctx context.Context) error {
	leave, err := c.r.starts.enter(ctx, admitCreate)
	if err == nil {
		err = c.build(ctx)
		leave()
	}
	if err == nil {
		err = c.commit(func(s *ContainerStatus) { s.State = ContainerCreated })
	}
	if err == nil {
		c.sb.tell(ctx, PluginCreated, c.get())
		c.r.emit(ContainerCreatedEv, c.sb, c.id)
		return nil
	}
	c.forget()
	c.takeBack(ctx)
	return err
}

// takeBack undoes everything of a container that is in no list any more.
func (c *container) takeBack(ctx context.Context) {
	uctx, cancel := c.r.undoContext(ctx)
	defer cancel()
	if err := c.sb.ledger.undoObject(uctx, c.id); err != nil {
		c.r.log.Warn("container could not be taken back yet", "container", c.id, "error", err)
		c.r.debts.add(c.sb)
	}
}

// forget removes the container from all lists.
func (c *container) forget() {
	c.r.mu.Lock()
	delete(c.r.containers, c.id)
	c.r.mu.Unlock()
	c.sb.mu.Lock()
	delete(c.sb.containers, c.id)
	if key := c.status.Spec.key(); c.sb.names[key] == c {
		delete(c.sb.names, key)
	}
	c.sb.mu.Unlock()
	c.interrupt()
	c.gauge.close()
}

// commit changes the status, first on disk.
func (c *container) commit(f func(*ContainerStatus)) error {
	s := c.get()
	f(&s)
	err := c.sb.ledger.step(c.r.life, effect{kind: kindContainerRecord, object: c.id, do: func(context.Context) error {
		return c.r.store.save("containers", c.id, containerRecord{ContainerStatus: s, Rootfs: c.rootfs})
	}})
	if err != nil {
		return err
	}
	c.set(f)
	return nil
}

func (c *container) build(ctx context.Context) error {
	saved, err := c.unpackCheckpoint(ctx)
	if err != nil {
		return err
	}
	spec := c.get().Spec
	img, err := c.r.cfg.Images.Lookup(ctx, spec.Image)
	if err != nil {
		return fmt.Errorf("image %q: %w", spec.Image, err)
	}
	pod := c.sb.get().Spec
	err = c.sb.ledger.do(ctx, effect{kind: kindSnapshot, object: c.id, do: func(ctx context.Context) (err error) {
		c.rootfs, err = c.r.cfg.Images.Prepare(ctx, c.id, img, pod.User, pod.WritableLimit)
		if err == nil {
			err = saved.fill(ctx, c)
		}
		return err
	}})
	if err != nil {
		return err
	}
	volumes, err := c.mountVolumes(ctx)
	if err != nil {
		return err
	}
	oci, err := c.makeSpec(ctx, saved.defaults(img), volumes)
	if err == nil {
		err = saved.match(img, oci)
	}
	if err != nil {
		return err
	}
	if err := c.r.cfg.Plugins.Create(ctx, c.sb.get(), c.get(), oci); err != nil {
		return fmt.Errorf("a plugin refuses: %w", err)
	}
	c.set(func(s *ContainerStatus) {
		s.ImageID, s.ImageRef = img.ID, img.Ref
		s.StopSignal = firstOf(spec.StopSignal, img.Config.StopSignal, "SIGTERM")
		s.User = User{UID: oci.Process.User.UID, GID: oci.Process.User.GID, Groups: oci.Process.User.AdditionalGids}
	})
	c.mu.Lock()
	c.process = oci.Process
	c.mu.Unlock()
	return c.sb.ledger.do(ctx, effect{kind: kindBundle, object: c.id, do: func(context.Context) error {
		return c.writeBundle(oci)
	}})
}

// makeSpec writes the OCI spec of the container.
func (c *container) makeSpec(ctx context.Context, img Image, volumes map[int]string) (*specs.Spec, error) {
	st := c.get()
	who, err := resolveUser(st.Spec.Security, img.Config.User, func(path string) ([]byte, error) {
		return c.r.cfg.Images.ReadFile(ctx, img, path, maxPasswd)
	})
	if err != nil {
		return nil, err
	}
	b := specBuilder{
		sandbox: c.sb.get(), container: st, image: img, who: who,
		podDir: c.r.store.podDir(c.sb.id), oomAdj: c.r.oomAdj, volumes: volumes, lsm: c.r.cfg.LSM, cdiDirs: c.r.cfg.CDIDirs,
		writer: &c.r.specs, sources: &c.r.sources, classes: c.r.cfg.Classes, handler: c.r.handler(c.sb.get().Spec.Handler),
	}
	if st.Spec.PID == NamespaceTarget {
		if b.target, err = c.targetPid(); err != nil {
			return nil, err
		}
	}
	return b.build(ctx)
}

func (c *container) writeBundle(s *specs.Spec) error {
	dir := c.r.store.bundle(c.id)
	if err := os.MkdirAll(filepath.Join(dir, "rootfs"), 0o700); err != nil {
		return err
	}
	b, err := c.r.specs.Marshal(s)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "config.json"), b, 0o600)
}

func firstOf(s ...string) string {
	for _, v := range s {
		if v != "" {
			return v
		}
	}
	return ""
}

// shim returns the shim that keeps the container's sandbox.
func (c *container) shim() (Shim, error) {
	if s, ok := c.r.cfg.Shims.Lookup(c.sb.id); ok {
		return s, nil
	}
	return nil, fmt.Errorf("no shim keeps sandbox %s: %w", short(c.sb.id), errdefs.ErrUnavailable)
}

// StartContainer starts a created container: when it returns nil, the program has been executed. A
// container that runs is started.
func (r *Runtime) StartContainer(ctx context.Context, id string) error {
	c, err := r.listedContainer(id)
	if err != nil {
		return err
	}
	op := c.actor.join("start", func() error { return c.start(c.sb.traced(c.life, ctx)) })
	if err := op.wait(ctx); err != nil {
		return fmt.Errorf("start container %s: %w", short(id), err)
	}
	return nil
}

// start runs in the actor.
func (c *container) start(ctx context.Context) error {
	switch st := c.get().State; st {
	case ContainerRunning:
		return nil
	case ContainerCreated:
	default:
		return fmt.Errorf("it is %s: %w", st, errdefs.ErrFailedPrecondition)
	}
	if st := c.sb.get().State; st != SandboxReady {
		return fmt.Errorf("its sandbox is %s: %w", st, errdefs.ErrFailedPrecondition)
	}
	err := c.pidNamespaceLives()
	if err == nil {
		err = c.sb.ask(ctx, PluginStart, c.get())
	}
	if err != nil {
		return errors.Join(err, c.failed(ctx, err))
	}
	pid, err := c.admitted(c.abortable(ctx))
	c.notAbortable()
	if err != nil {
		return errors.Join(err, c.failed(ctx, err))
	}
	err = c.commit(func(s *ContainerStatus) {
		s.State, s.StartedAt, s.Pid = ContainerRunning, time.Now(), pid
	})
	if err != nil {
		return errors.Join(err, c.failed(ctx, err))
	}
	c.sb.tell(ctx, PluginStarted, c.get())
	c.r.emit(ContainerStarted, c.sb, c.id)
	return nil
}

// admitted is launch at its turn.
func (c *container) admitted(ctx context.Context) (pid int, err error) {
	leave, err := c.r.starts.enter(ctx, admitStart)
	if err != nil {
		return 0, err
	}
	defer leave()
	return c.launch(ctx)
}

func (c *container) launch(ctx context.Context) (pid int, err error) {
	shim, err := c.shim()
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, 6*c.r.cfg.ShimTimeout) // a loaded machine is no reason to give up
	defer cancel()
	st := c.get()
	if err := c.renew(ctx, st.ImageID); err != nil {
		return 0, err
	}
	args := map[string]string{"sandbox": c.sb.id, "cgroup": st.CgroupPath}
	err = c.sb.ledger.do(ctx, effect{kind: kindTask, object: c.id, args: args, do: func(ctx context.Context) (err error) {
		pid, err = shim.RunTask(ctx, Task{
			ID: c.id, Sandbox: c.sb.id, Bundle: c.r.store.bundle(c.id), Rootfs: c.rootfs,
			Terminal: st.Spec.TTY, Stdin: st.Spec.Stdin, StdinOnce: st.Spec.StdinOnce, LogPath: st.LogPath,
			Checkpoint: c.checkpointImages(), CRIU: c.r.cfg.CRIU,
		})
		return err
	}})
	if err == nil {
		c.dropCheckpoint(ctx)
	}
	return pid, err
}

// renew fits the root filesystem of a container that an earlier daemon made for another mount: if that one
// died in the middle of the start, what it had mounted was undone, and a volatile overlay wants to be asked
// before it is used again.
func (c *container) renew(ctx context.Context, imageID string) error {
	if !c.loaded {
		return nil
	}
	pod := c.sb.get().Spec
	rootfs, err := c.r.cfg.Images.Prepare(ctx, c.id, Image{ID: imageID}, pod.User, pod.WritableLimit)
	if err != nil {
		return err
	}
	c.rootfs, c.loaded = rootfs, false
	return nil
}

// failed ends a container that could not be started.
func (c *container) failed(ctx context.Context, cause error) error {
	uctx, cancel := c.r.undoContext(ctx)
	defer cancel()
	if err := c.sb.ledger.undoOne(uctx, kindTask, c.id); err != nil {
		c.r.log.Warn("container that did not start could not be taken back yet", "container", c.id, "error", err)
	}
	err := c.commit(func(s *ContainerStatus) {
		s.State, s.ExitCode, s.Reason, s.Message = ContainerExited, 128, "StartError", cause.Error()
		s.StartedAt, s.FinishedAt, s.Pid = time.Time{}, time.Now(), 0
	})
	c.r.emit(ContainerStopped, c.sb, c.id)
	return err
}

// abortable returns a context that stop can end.
func (c *container) abortable(ctx context.Context) context.Context {
	c.notAbortable()
	c.mu.Lock()
	defer c.mu.Unlock()
	ctx, c.abort = context.WithCancel(ctx)
	return ctx
}

// notAbortable ends what abortable began; what is still under it is interrupted.
func (c *container) notAbortable() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.abort != nil {
		c.abort()
		c.abort = nil
	}
}
