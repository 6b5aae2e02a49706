package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/11f9778f/berth/internal/engine/caps"
	"github.com/11f9778f/berth/internal/engine/cgroup"
	"github.com/11f9778f/berth/internal/engine/seccomp"
	"github.com/11f9778f/berth/internal/engine/stage"
	"github.com/11f9778f/berth/internal/trace"
)

// Container is a container that this process created or adopted. Its methods may be called from several
// goroutines.
type Container struct {
	mu     sync.Mutex
	state  State
	spec   *specs.Spec
	group  *cgroup.Group
	init   *Process
	stage  *stage.Stage // until Start
	filter *seccomp.Filter
	// twoSteps: the child was born twice, so it is in its cgroup and namespaces already (see secondStep).
	twoSteps bool
	// blank is the mount namespace that its own begins as a copy of, nil for its creator's.
	blank *os.File
	// shared: it lives in its creator's mount namespace.
	shared  bool
	hooked  bool // a hook was run, so poststop hooks are owed
	deleted bool
	rdt     *rdt // nil: none
	scopes  Scopes
	log     *slog.Logger
}

// launcher is the sealed first program, one for the whole process: it is a constant of the binary.
var launcher = sync.OnceValues(stage.NewLauncher)

// held is what this process may give to others.
var held = sync.OnceValues(caps.Current)

func (o CreateOptions) rootPath() string {
	if filepath.IsAbs(o.Spec.Root.Path) {
		return o.Spec.Root.Path
	}
	return filepath.Join(o.Bundle, o.Spec.Root.Path)
}

func (o CreateOptions) cgroupPath() (string, error) {
	switch p := o.Spec.Linux.CgroupsPath; {
	case o.Scopes != nil:
		_, _, path, err := parseScope(p)
		return path, err
	case p != "":
		return p, nil
	}
	return "/berth/" + o.ID, nil
}

// Create makes a container: namespaces, cgroup, root filesystem and mounts are ready and its process
// waits for Start. On an error nothing is left.
func Create(ctx context.Context, o CreateOptions) (*Container, error) {
	if err := validate(o); err != nil {
		return nil, fmt.Errorf("create container %s: %w", o.ID, err)
	}
	c, err := create(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("create container %s: %w", o.ID, err)
	}
	return c, nil
}

func create(ctx context.Context, o CreateOptions) (_ *Container, err error) {
	path, err := o.cgroupPath()
	if err != nil {
		return nil, err
	}
	group, err := cgroup.Load(path)
	if err != nil {
		return nil, err
	}
	c := &Container{spec: own(o.Spec), group: group, log: o.Log, scopes: o.Scopes, state: State{
		ID: o.ID, Bundle: o.Bundle, Created: time.Now(), CgroupPath: group.Path(), Files: len(o.Files), NoKeyring: o.NoKeyring,
	}}
	defer func() {
		if err != nil {
			c.undo()
		}
	}()
	if c.shared, err = inCallerMounts(o.Spec); err != nil {
		return nil, err
	}
	c.twoSteps = twoSteps(o.Spec)
	c.blank = blankFor(o)
	c.state.Chroot = c.shared || o.NoPivot
	if c.filter, err = o.Specs.filter(o.Spec.Linux.Seccomp); err != nil {
		return nil, err
	}
	if c.rdt, err = newRDT(o.ID, o.Spec.Linux.IntelRdt); err != nil {
		return nil, err
	}
	root := beside(func() (*os.File, error) {
		defer trace.Start(ctx, "engine.rootfs")()
		return openRootfs(o)
	})
	// This waits, too: whoever takes a failed create back unmounts nothing that is still being made.
	defer func() {
		if tree, _ := root.wait(); tree != nil {
			tree.Close()
		}
	}()
	if err := c.begin(ctx, o); err != nil {
		return nil, err
	}
	if err := c.rdt.assign(c.state.Pid); err != nil {
		return nil, err
	}
	if err := moveDevices(c.state.Pid, o.Spec); err != nil {
		return nil, err
	}
	if err := c.confine(ctx, o); err != nil {
		return nil, err
	}
	tree, err := root.wait()
	if err != nil {
		return nil, err
	}
	return c, c.furnish(ctx, o, tree)
}

// begin makes the cgroup and starts the child: at the same time as far as it is not born in it, for clone waits until the child
// has executed.
func (c *Container) begin(ctx context.Context, o CreateOptions) error {
	if c.scopes == nil { // else there is no group without a process
		if err := c.group.CreateV2(ctx); err != nil {
			return err
		}
	}
	child := beside(func() (*stage.Stage, error) {
		defer trace.Start(ctx, "engine.clone")()
		return c.clone(o)
	})
	var made error
	if c.scopes == nil {
		end := trace.Start(ctx, "engine.cgroup")
		made = c.group.CreateV1(ctx)
		end()
	}
	s, err := child.wait()
	if s != nil {
		err = errors.Join(err, c.follow(s))
	}
	if err := errors.Join(made, err); err != nil {
		return err
	}
	if err := c.scoped(ctx); err != nil || !c.twoSteps {
		return err
	}
	return c.secondStep(ctx, o)
}

// confine applies limits: to the cgroup, which the child joins later by itself, and to the child.
func (c *Container) confine(ctx context.Context, o CreateOptions) error {
	defer trace.Start(ctx, "engine.confine")()
	if r := o.Spec.Linux.Resources; r != nil {
		if err := c.group.Apply(withDefaultDevices(r)); err != nil {
			return err
		}
	}
	if err := setOOMScore(c.state.Pid, o.Spec.Process.OOMScoreAdj); err != nil {
		return err
	}
	return setLimits(c.state.Pid, o.Spec.Process.Rlimits)
}

// furnish builds the container's inside, by one program.
func (c *Container) furnish(ctx context.Context, o CreateOptions, root *os.File) (err error) {
	defer trace.Start(ctx, "engine.mounts")()
	u, err := newSetup(o, c.stage, root)
	if err != nil {
		return err
	}
	defer func() {
		closeAll(u.files)
		if err != nil {
			u.sources.close()
			return
		}
		go u.sources.close() // nobody has to wait for the kernel's readers
	}()
	u.flush = func() error {
		err := c.stage.Run(ctx, u.p)
		u.p, u.fresh = &stage.Program{}, false
		return childError(err)
	}
	if err := c.join(u); err != nil {
		return err
	}
	u.do("start a session", unix.SYS_SETSID).Tolerate(unix.EPERM)
	if !o.NoKeyring {
		u.newKeyring()
	}
	u.do("set umask", unix.SYS_UMASK, stage.Int(0)) // modes are as they are asked for
	u.attachRoot()
	if err := u.mounts(); err != nil {
		return err
	}
	if err := u.devices(); err != nil {
		return err
	}
	if o.Spec.Process.Terminal {
		u.terminal(o.Spec.Process, true)
	}
	u.mask()
	u.readonly()
	u.identity()
	if err := u.sysctls(); err != nil {
		return err
	}
	if err := u.destination(o.Spec.Process.Cwd, true, o.Spec.Mounts); err != nil {
		return fmt.Errorf("process.cwd: %w", err)
	}
	if createHooks(o.Spec) {
		if err := c.stage.Run(ctx, u.p); err != nil {
			return childError(err)
		}
		if err := c.beforePivot(ctx); err != nil {
			return err
		}
		u.p = &stage.Program{}
	}
	if c.shared {
		if err := u.returnToCaller(); err != nil {
			return err
		}
	}
	u.pivot(c.state.Chroot)
	if o.FindProgram {
		u.findProgram()
	}
	if err := c.stage.Run(ctx, u.p); err != nil {
		return execError(o.Spec.Process.Args[0], childError(err))
	}
	if o.Spec.Process.Terminal {
		c.init.console, err = stealConsole(c.stage)
	}
	return err
}

// join takes the child into its cgroup and the namespaces that it was not born in.
func (c *Container) join(u *setup) error {
	if c.twoSteps {
		return nil
	}
	entries, err := c.group.Entries()
	if err != nil {
		return err
	}
	u.files = append(u.files, entries...)
	joinGroup(u.p, entries)
	if c.blank != nil {
		beginBlank(u.p, c.blank)
	}
	joined, err := c.joinNamespaces(u.p)
	u.files = append(u.files, joined...)
	if err != nil {
		return err
	}
	if c.newNamespace(specs.CgroupNamespace) {
		u.do("new cgroup namespace", unix.SYS_UNSHARE, stage.Int(unix.CLONE_NEWCGROUP))
	}
	return nil
}

// joinGroup lets the child join a cgroup v1 itself: see cgroup.Group.Entries.
func joinGroup(p *stage.Program, entries []*os.File) {
	for _, f := range entries {
		p.Do("join cgroup "+f.Name(), unix.SYS_WRITE, p.File(f), p.String("0"), stage.Int(1))
	}
}

// childError names a child that died by itself in the middle: the OOM killer, mostly.
func childError(err error) error {
	if errors.Is(err, stage.ErrExecuted) {
		return errors.New("the container's first process was killed while it was being set up (is the memory limit too small?)")
	}
	return err
}

// undo removes what a failed create has made. It does not use the caller's context, which may be why
// the create failed.
func (c *Container) undo() {
	if c.stage != nil {
		c.stage.Close()
	}
	if c.init != nil {
		c.init.Signal(syscall.SIGKILL)
		c.init.Wait(context.Background())
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c.group.Kill(ctx) // what hooks left
	c.unscope(ctx)
	c.group.Delete(ctx)
	c.rdt.remove()
	c.closeFiles()
	if c.hooked {
		c.poststop(ctx)
	}
}

func (c *Container) closeFiles() {
	if c.init != nil {
		c.init.close()
	}
}

// own copies what slim changes.
func own(s *specs.Spec) *specs.Spec {
	spec := *s
	if s.Linux != nil {
		linux := *s.Linux
		spec.Linux = &linux
	}
	return &spec
}

// slim forgets what only a start needs, most of a spec: a container runs for long, and there are many. What Exec may be
// reading just now stays.
func (c *Container) slim() {
	c.spec.Process, c.spec.Mounts = nil, nil
	if l := c.spec.Linux; l != nil {
		l.Devices, l.MaskedPaths, l.ReadonlyPaths, l.Resources, l.Sysctl = nil, nil, nil, nil, nil
	}
}

// Start lets the process execute the user's program. It returns when that has happened, or an error
// that says why not: `exec: "foo": executable file not found in $PATH`.
func (c *Container) Start(ctx context.Context) error {
	c.mu.Lock()
	s := c.stage
	c.stage = nil
	c.mu.Unlock()
	if s == nil {
		return fmt.Errorf("start container %s: it was started before: %w", c.state.ID, os.ErrInvalid)
	}
	defer s.Close()
	if err := c.startHooks(ctx, s); err != nil {
		return fmt.Errorf("start container %s: %w", c.state.ID, err)
	}
	if err := c.execute(ctx, s, c.spec.Process, c.state.Files); err != nil {
		return err
	}
	c.mu.Lock()
	c.state.Started = true
	c.mu.Unlock()
	c.slim()
	if err := c.poststart(ctx); err != nil {
		return fmt.Errorf("start container %s: %w", c.state.ID, err)
	}
	return nil
}

// execute makes the child of s the process p, with so many descriptors above its first three.
func (c *Container) execute(ctx context.Context, s *stage.Stage, p *specs.Process, files int) error {
	defer trace.Start(ctx, "engine.execute")()
	h, err := held()
	if err != nil {
		return err
	}
	if inUserNamespace(c.spec) { // where a process has all that there are
		h = caps.Held{Last: h.Last, Bounding: 1<<(h.Last+1) - 1, Permitted: 1<<(h.Last+1) - 1}
	}
	sets, err := caps.FromSpec(p.Capabilities)
	if err != nil {
		return fmt.Errorf("process.capabilities: %w", err)
	}
	sets, _ = sets.Clamp(h)
	e := execution{p: &stage.Program{}, process: p, caps: sets, held: h, filter: c.filter, keep: files, linux: c.spec.Linux}
	if c.filter != nil && c.filter.Notify {
		if e.gate, err = newGate(); err != nil {
			return err
		}
		defer e.gate.close()
	}
	if err := schedule(s.Pid, p); err != nil {
		return err
	}
	if err := e.labels(s.Pid); err != nil {
		return err
	}
	e.build()
	if e.gate == nil {
		err = s.Run(ctx, e.p)
	} else {
		err = s.RunInTwo(ctx, e.p, func() error {
			status := specs.StateRunning
			if s.Pid == c.state.Pid {
				status = specs.StateCreated
			}
			return errors.Join(c.handOver(ctx, s, status), e.gate.open())
		})
	}
	if errors.Is(err, stage.ErrExecuted) {
		return nil
	}
	if err == nil {
		return errors.New("the last program ended without execve")
	}
	return execError(p.Args[0], err)
}

// execError says what a shell would say.
func execError(name string, err error) error {
	var e *stage.Error
	if !errors.As(err, &e) || e.What != execWhat {
		return err
	}
	switch e.Errno {
	case unix.ENOENT:
		if filepath.Base(name) == name {
			return fmt.Errorf("exec: %q: executable file not found in $PATH: %w", name, e.Errno)
		}
		return fmt.Errorf("exec: %q: no such file, or its interpreter is missing: %w", name, e.Errno)
	case unix.ENOEXEC:
		return fmt.Errorf("exec: %q: not an executable for this machine (another architecture, or a script without #!): %w", name, e.Errno)
	}
	return fmt.Errorf("exec: %q: %w", name, e.Errno)
}

func compileSeccomp(s *specs.LinuxSeccomp) (*seccomp.Filter, error) {
	if s == nil {
		return nil, nil
	}
	f, err := seccomp.Compile(s)
	if err != nil {
		return nil, fmt.Errorf("linux.seccomp: %w", err)
	}
	return f, nil
}
