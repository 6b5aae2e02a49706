package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/11f9778f/berth/internal/engine/stage"
	"github.com/11f9778f/berth/internal/trace"
)

// Exec starts another process in the running container. It has executed the program when Exec returns.
func (c *Container) Exec(ctx context.Context, o ExecOptions) (*Process, error) {
	p, err := c.exec(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("exec in container %s: %w", c.state.ID, err)
	}
	return p, nil
}

func (c *Container) exec(ctx context.Context, o ExecOptions) (_ *Process, err error) {
	if err := validateProcess(o.Process); err != nil {
		return nil, err
	}
	if c.init.pidfd == nil {
		return nil, fmt.Errorf("the container is not running: %w", os.ErrProcessDone)
	}
	l, err := launcher()
	if err != nil {
		return nil, err
	}
	a := stage.Attr{Stdin: o.Stdio.In, Stdout: o.Stdio.Out, Stderr: o.Stdio.Err, Extra: o.Files}
	if v2, err := c.group.FD(); err == nil && !initialCPUs(o.Process) {
		defer v2.Close()
		a.Cgroup = v2
	}
	end := trace.Start(ctx, "engine.exec.clone")
	s, err := startIn(c.init.pidfd, func() (*stage.Stage, error) { return l.Start(a) })
	end()
	if err != nil {
		return nil, err
	}
	defer s.Close()
	p := newProcess(s.Pid, s.PidFD, true)
	if !o.Leave {
		// It is always reaped, whether anybody waits or not: the kernel does not let the first process of
		// a pid namespace end before every other one of it is reaped.
		p.startWatch()
	}
	defer func() {
		if err != nil {
			s.Close()
			p.Signal(unix.SIGKILL)
			p.Wait(context.Background())
			p.close()
		}
	}()
	end = trace.Start(ctx, "engine.exec.join")
	if initialCPUs(o.Process) { // before it is in the container's cgroup
		if err := setCPUs(s.Pid, "initial", o.Process.ExecCPUAffinity.Initial); err != nil {
			return nil, err
		}
		if err := c.group.Join(s.Pid); err != nil {
			return nil, err
		}
	}
	if err := setLimits(s.Pid, o.Process.Rlimits); err != nil {
		return nil, err
	}
	if err := setOOMScore(s.Pid, o.Process.OOMScoreAdj); err != nil {
		return nil, err
	}
	if err := c.enter(ctx, s, o.Process); err != nil {
		return nil, err
	}
	end()
	for controller, sub := range o.Cgroups {
		if err := c.group.JoinSub(s.Pid, controller, sub); err != nil {
			return nil, err
		}
	}
	if af := o.Process.ExecCPUAffinity; af != nil {
		final := af.Final
		if final == "" && af.Initial != "" { // what the cgroup permits
			final = fmt.Sprintf("0-%d", maxCPU)
		}
		if err := setCPUs(s.Pid, "final", final); err != nil {
			return nil, err
		}
	}
	if o.Process.Terminal {
		if p.console, err = stealConsole(s); err != nil {
			return nil, err
		}
	}
	return p, c.execute(ctx, s, o.Process, len(o.Files))
}

// enter takes the child into the container's namespaces, all at once through the init's pidfd.
func (c *Container) enter(ctx context.Context, s *stage.Stage, process *specs.Process) error {
	p := &stage.Program{}
	entries, err := c.group.Entries()
	if err != nil {
		return err
	}
	defer closeAll(entries)
	joinGroup(p, entries)
	p.Do("start a session", unix.SYS_SETSID).Tolerate(unix.EPERM)
	flags := uintptr(unix.CLONE_NEWNS)
	for _, ns := range c.spec.Linux.Namespaces {
		if ns.Type != specs.PIDNamespace {
			flags |= cloneFlags[ns.Type]
		}
	}
	p.Do("join the container's namespaces", unix.SYS_SETNS, p.File(c.init.pidfd), stage.Int(flags))
	if c.state.Chroot {
		root, err := c.openRoot()
		if err != nil {
			return err
		}
		defer root.Close()
		changeRoot(p, root)
	}
	if inUserNamespace(c.spec) {
		namespaceRoot(p)
	}
	if !c.state.NoKeyring {
		joinKeyring(p, c.state.ID)
	}
	if process.Terminal {
		master, err := s.NewCell()
		if err != nil {
			return err
		}
		slave, err := s.NewCell()
		if err != nil {
			return err
		}
		how := p.Words(stage.Int(unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC), stage.Int(0), stage.Int(unix.RESOLVE_NO_MAGICLINKS))
		p.Do("open /dev/pts/ptmx", unix.SYS_OPENAT2, stage.Int(unix.AT_FDCWD), p.String("/dev/pts/ptmx"), how, stage.Int(24)).Into(master)
		attachTerminal(p, process, master, slave)
	}
	err = s.Run(ctx, p)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, stage.ErrExecuted) {
		return fmt.Errorf("the container is not running: %w", os.ErrProcessDone)
	}
	return err
}

// startIn starts a child in the pid namespace that target names, a namespace file or a pidfd (nil: this
// process's own). Only children of a thread that has joined are born in it, so the join happens on a
// locked thread and is taken back.
func startIn(target *os.File, start func() (*stage.Stage, error)) (*stage.Stage, error) {
	if target == nil {
		return start()
	}
	own, err := os.Open("/proc/self/ns/pid")
	if err != nil {
		return nil, err
	}
	defer own.Close()
	runtime.LockOSThread()
	if err := unix.Setns(int(target.Fd()), unix.CLONE_NEWPID); err != nil {
		runtime.UnlockOSThread()
		if errors.Is(err, unix.ESRCH) {
			return nil, fmt.Errorf("the container is not running: %w", os.ErrProcessDone)
		}
		return nil, fmt.Errorf("join pid namespace: %w", err)
	}
	s, err := start()
	if back := unix.Setns(int(own.Fd()), unix.CLONE_NEWPID); back != nil {
		// The thread stays locked, and dies with its goroutine: nothing else is ever born from it.
		return s, errors.Join(err, fmt.Errorf("leave pid namespace: %w", back))
	}
	runtime.UnlockOSThread()
	return s, err
}

func initialCPUs(p *specs.Process) bool {
	return p.ExecCPUAffinity != nil && p.ExecCPUAffinity.Initial != ""
}
