package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/11f9778f/berth/internal/engine"
	"github.com/11f9778f/berth/internal/failpoint"
	"github.com/11f9778f/berth/internal/shim/state"
	"github.com/11f9778f/berth/internal/trace"
)

// record is a container in containers/<id>.json. It is written before the engine is asked for anything (Engine.Pid
// is 0 then), after it has answered, and at each change that a successor must know.
type record struct {
	ID        string    `json:"id"`
	SandboxID string    `json:"sandboxID,omitempty"`
	Bundle    string    `json:"bundle"`
	Cgroup    string    `json:"cgroup,omitempty"`
	Stdio     stdioSpec `json:"stdio"`
	NoPivot   bool      `json:"noPivot,omitempty"`
	NoKeyring bool      `json:"noKeyring,omitempty"`
	// Scoped tells that the cgroup must be a scope of systemd's, which a spec's cgroupsPath may ask for by itself.
	Scoped bool `json:"scoped,omitempty"`
	// Checkpoint is the folder of the images that Start restores, by the CRIU at the path CRIU.
	Checkpoint string `json:"checkpoint,omitempty"`
	CRIU       string `json:"criu,omitempty"`
	// Foreign tells that another shim runs the container: see absent.
	Foreign   bool               `json:"foreign,omitempty"`
	Engine    engine.State       `json:"engine"`
	StartedAt time.Time          `json:"startedAt,omitzero"`
	Exit      *engine.ExitStatus `json:"exit,omitempty"`
	OOMKilled bool               `json:"oomKilled,omitempty"`
	// OOMVictims are the processes that the OOM killer has ended, as far as the kernel tells.
	OOMVictims []string `json:"oomVictims,omitempty"`
}

// task is a container.
type task struct {
	s       *Server
	created chan struct{}   // closed when Create has ended
	spans   *trace.Recorder // of Create and Start

	// op is held by an operation that changes what the container does (start, pause, delete), so that these come
	// one after the other, and so that an end is reported after the start that it follows. It is taken before mu.
	op sync.Mutex

	watched sync.Once // the end of the main process

	mu      sync.Mutex
	rec     record
	c       Container   // nil until created
	spec    *specs.Spec // once created, what a checkpoint and an exec need of it
	main    *process
	execs   map[string]*process
	adopted bool
	deleted bool
	err     error // of Create
}

// create makes the container, or joins the call that is making it.
func (s *Server) create(ctx context.Context, rec record, rootfs []engine.Mount) (*task, error) {
	t := &task{s: s, rec: rec, created: make(chan struct{}), spans: &trace.Recorder{}, execs: map[string]*process{}}
	t.main = newProcess(t, "")
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		return nil, fmt.Errorf("create container %s: the shim is ending: %w", rec.ID, errdefs.ErrUnavailable)
	}
	if old := s.containers[rec.ID]; old != nil {
		s.mu.Unlock()
		return old.join(ctx, rec)
	}
	s.containers[rec.ID] = t
	s.mu.Unlock()
	err := t.createSafely(trace.With(ctx, t.spans), rootfs)
	if err != nil {
		err = fmt.Errorf("create container %s: %w", rec.ID, err)
		s.mu.Lock()
		delete(s.containers, rec.ID)
		s.mu.Unlock()
	}
	t.err = err
	close(t.created)
	return t, err
}

// createSafely is create, and an error in place of a panic: the name must not stay taken.
func (t *task) createSafely(ctx context.Context, rootfs []engine.Mount) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fault("create", r)
		}
	}()
	return t.create(ctx, rootfs)
}

// join answers a repeated Create: the same question gets the same answer.
func (t *task) join(ctx context.Context, rec record) (*task, error) {
	select {
	case <-t.created:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if t.err != nil {
		return nil, t.err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.rec.Bundle != rec.Bundle || t.rec.Engine.Started || t.rec.Exit != nil {
		return nil, fmt.Errorf("create container %s: %w", rec.ID, errdefs.ErrAlreadyExists)
	}
	return t, nil
}

func (t *task) create(ctx context.Context, rootfs []engine.Mount) (err error) {
	defer trace.Start(ctx, "shim.create")()
	end := trace.Start(ctx, "shim.spec")
	t.spec, err = t.s.cfg.Engine.LoadSpec(t.rec.Bundle)
	end()
	if err != nil {
		return err
	}
	if t.spec.Process == nil {
		return fmt.Errorf("the bundle's spec has no process: %w", errdefs.ErrInvalidArgument)
	}
	if t.spec.Linux != nil {
		t.rec.Cgroup = t.spec.Linux.CgroupsPath
	}
	if t.rec.Scoped && !engine.NamesScope(t.rec.Cgroup) {
		return fmt.Errorf("options: SystemdCgroup: the spec's linux.cgroupsPath %q is not slice:prefix:name: %w", t.rec.Cgroup, errdefs.ErrInvalidArgument)
	}
	if t.rec.SandboxID == "" {
		t.rec.SandboxID = sandboxOf(t.spec)
	}
	end = trace.Start(ctx, "shim.save")
	err = t.save() // intent
	end()
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			t.main.closeStdio()
			os.Remove(t.file())
		}
	}()
	if err := failpoint.Here("shim/create/intent"); err != nil {
		return err
	}
	end = trace.Start(ctx, "shim.stdio")
	stdio, err := t.main.openStdio(t.rec.Stdio, t.spec.Process)
	end()
	if err != nil {
		return err
	}
	if t.rec.Foreign {
		return t.keep(ctx, newAbsent(stdio))
	}
	c, err := t.s.cfg.Engine.Create(ctx, engine.CreateOptions{
		ID: t.rec.ID, Bundle: t.rec.Bundle, Spec: t.spec, Rootfs: rootfs, Stdio: stdio.files(), NoPivot: t.rec.NoPivot, NoKeyring: t.rec.NoKeyring,
	})
	stdio.close()
	if err != nil {
		return err
	}
	t.spec = kept(t.spec)
	if err := failpoint.Here("shim/create/made"); err != nil {
		return errors.Join(err, c.Delete(context.WithoutCancel(ctx)))
	}
	defer trace.Start(ctx, "shim.keep")()
	return t.keep(ctx, c)
}

// keep takes a container that the engine has made or adopted: on disk, in the descriptor store, watched.
func (t *task) keep(ctx context.Context, c Container) error {
	t.mu.Lock()
	t.c = c
	t.rec.Engine = c.State()
	t.main.p = c.Init()
	t.mu.Unlock()
	if err := t.main.connect(t.rec.Stdio); err != nil {
		return errors.Join(err, c.Delete(context.WithoutCancel(ctx)))
	}
	if err := t.save(); err != nil {
		return errors.Join(err, c.Delete(context.WithoutCancel(ctx)))
	}
	if t.rec.Foreign {
		go t.watchAbsent()
		return nil
	}
	t.s.keeper.Put(t.rec.ID+"/pidfd", c.Init().PidFD())
	t.await()
	return nil
}

// start lets the process run. A container that runs already is no error.
func (t *task) start(ctx context.Context) error {
	t.op.Lock()
	defer t.op.Unlock()
	ctx = trace.With(ctx, t.spans)
	defer trace.Start(ctx, "shim.start")()
	t.mu.Lock()
	c, started, ended, deleted := t.c, t.rec.Engine.Started, t.rec.Exit != nil, t.deleted
	t.mu.Unlock()
	switch {
	case deleted:
		return fmt.Errorf("start container %s: it is being deleted: %w", t.rec.ID, errdefs.ErrNotFound)
	case c == nil:
		return fmt.Errorf("start container %s: it is still being created: %w", t.rec.ID, errdefs.ErrFailedPrecondition)
	case ended:
		return fmt.Errorf("start container %s: it has ended: %w", t.rec.ID, errdefs.ErrFailedPrecondition)
	case started:
		return nil
	}
	if err := t.main.settleInput(t.rec.Stdio.Stdin); err != nil {
		return err
	}
	if t.rec.Checkpoint != "" {
		var err error
		if c, err = t.restore(ctx, c); err != nil {
			return err
		}
		t.await()
	} else if err := c.Start(ctx); err != nil {
		return err
	}
	t.mu.Lock()
	t.rec.Engine = c.State()
	t.rec.Engine.Started = true
	t.rec.StartedAt = time.Now()
	t.mu.Unlock()
	if err := failpoint.Here("shim/start/started"); err != nil {
		return err
	}
	t.s.events.started(t)
	defer trace.Start(ctx, "shim.save")()
	return t.save()
}

// startOrDelete is start, after which nothing is left of a container that did not start.
func (t *task) startOrDelete(ctx context.Context) error {
	err := t.start(ctx)
	t.s.idle()
	t.mu.Lock()
	gone := t.deleted // by somebody else meanwhile
	t.mu.Unlock()
	if err == nil || gone {
		return err
	}
	if _, derr := t.delete(context.WithoutCancel(ctx)); derr != nil {
		t.s.log.Warn("a container that did not start is left to whoever deletes it", "container", t.rec.ID, "err", derr)
	}
	return err
}

// await lets watch be called when the main process has ended. Until then it costs no goroutine.
func (t *task) await() {
	if fd := t.first().PidFD(); fd != nil {
		if _, err := t.s.poller.Add(fd, func() bool { t.watch(); return false }); err == nil {
			return
		}
	}
	go t.watch()
}

// watch reports the main process's end, once, and waits for it if need be.
func (t *task) watch() { t.watched.Do(t.reportEnd) }

func (t *task) reportEnd() {
	p := t.first()
	st, err := p.Wait(context.Background())
	t.op.Lock() // a restore puts another process in the place of the one that waited
	replaced := t.first() != p
	t.op.Unlock()
	if replaced {
		t.reportEnd()
		return
	}
	if err != nil {
		st = engine.ExitStatus{Code: 255, Unknown: true, Reason: err.Error(), At: time.Now()}
	}
	t.s.gate.join() // an upgrade waits until the end is known on disk
	defer t.s.gate.leave()
	if st.Unknown && t.adopted {
		st = lateExit(t.main.p, st)
	}
	// What the process wrote was in its FIFOs before it ended.
	t.main.drain()
	t.op.Lock() // a start in flight is reported first
	defer t.op.Unlock()
	oom, victims := false, []string(nil)
	if kills, err := t.c.OOMKills(); err == nil && kills > 0 {
		oom = true
		victims = t.s.oomVictims(t.rec.Engine.CgroupPath)
	}
	t.mu.Lock()
	t.rec.Exit = &st
	t.rec.OOMKilled, t.rec.OOMVictims = oom, victims
	gone := t.deleted
	t.mu.Unlock()
	if !gone {
		if err := t.save(); err != nil {
			t.s.log.Warn("an end is not on disk", "container", t.rec.ID, "err", err)
		}
		if oom {
			t.s.events.oom(t)
		}
		t.s.events.exit(t.rec.ID, t.rec.ID, t.main.p.Pid(), st)
	}
	t.main.finish(st)
	t.s.idle()
}

// delete forgets a container that has ended, or was never started.
func (t *task) delete(ctx context.Context) (*engine.ExitStatus, error) {
	select {
	case <-t.created:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	t.op.Lock()
	t.mu.Lock()
	running := t.rec.Engine.Started && t.rec.Exit == nil
	c := t.c
	t.deleted = t.deleted || !running
	t.mu.Unlock()
	t.op.Unlock()
	if t.err != nil {
		return nil, fmt.Errorf("container %q: %w", t.rec.ID, errdefs.ErrNotFound)
	}
	if running {
		return nil, fmt.Errorf("delete container %s: it is running: %w", t.rec.ID, errdefs.ErrFailedPrecondition)
	}
	if err := failpoint.Here("shim/delete/before"); err != nil {
		return nil, err
	}
	t.s.keeper.Drop(t.rec.ID + "/pidfd")
	if err := c.Delete(ctx); err != nil {
		return nil, err
	}
	if !t.rec.Foreign {
		go t.watch() // the pidfd is closed: nothing else may tell any more
	}
	st, err := t.main.wait(ctx)
	if err != nil {
		return nil, err
	}
	t.main.closeStdio()
	for _, p := range t.running() {
		p.closeStdio()
	}
	if err := failpoint.Here("shim/delete/after"); err != nil {
		return nil, err
	}
	os.Remove(t.file())
	t.s.mu.Lock()
	if t.s.containers[t.rec.ID] == t {
		delete(t.s.containers, t.rec.ID)
	}
	t.s.mu.Unlock()
	return &st, nil
}

// running lists the processes that Exec made and nobody has deleted.
func (t *task) running() []*process {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := make([]*process, 0, len(t.execs))
	for _, p := range t.execs {
		list = append(list, p)
	}
	return list
}

// live returns the container if it runs.
func (t *task) live() (Container, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.c == nil || !t.rec.Engine.Started || t.rec.Exit != nil {
		return nil, fmt.Errorf("container %s is not running: %w", t.rec.ID, errdefs.ErrFailedPrecondition)
	}
	return t.c, nil
}

// made returns the container, running or not.
func (t *task) made() (Container, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.c == nil {
		return nil, fmt.Errorf("container %s is still being created: %w", t.rec.ID, errdefs.ErrFailedPrecondition)
	}
	return t.c, nil
}

func (t *task) setPaused(paused bool) error {
	t.mu.Lock()
	t.rec.Engine.Paused = paused
	t.mu.Unlock()
	return t.save()
}

// snapshot copies what is known about the container.
func (t *task) snapshot() record {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.rec
}

func (t *task) file() string { return t.s.path("containers", t.rec.ID+".json") }

func (t *task) save() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return state.Save(t.file(), t.rec)
}
