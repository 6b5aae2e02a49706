package engine

//lint:file-ignore SA1019 prestart hooks are deprecated, and still what many use

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/11f9778f/berth/internal/engine/stage"
)

// Hooks (runtime-spec config.md, POSIX-platform Hooks). Those of the runtime namespace are children of this process.
// Those of the container namespace are children of the container's first process, before pivot_root (createContainer) or
// after it (startContainer), with the privileges that it has then: all.

// createHooks tells whether any hook has to run before pivot_root.
func createHooks(s *specs.Spec) bool {
	h := s.Hooks
	return h != nil && len(h.Prestart)+len(h.CreateRuntime)+len(h.CreateContainer) > 0
}

func validateHooks(h *specs.Hooks) error {
	if h == nil {
		return nil
	}
	for name, list := range map[string][]specs.Hook{
		"prestart": h.Prestart, "createRuntime": h.CreateRuntime, "createContainer": h.CreateContainer,
		"startContainer": h.StartContainer, "poststart": h.Poststart, "poststop": h.Poststop,
	} {
		for n, hook := range list {
			switch {
			case !filepath.IsAbs(hook.Path):
				return fmt.Errorf("hooks.%s[%d].path %q is not absolute", name, n, hook.Path)
			case hook.Timeout != nil && *hook.Timeout <= 0:
				return fmt.Errorf("hooks.%s[%d].timeout %d is not above zero", name, n, *hook.Timeout)
			case strings.ContainsRune(strings.Join(append(append([]string{hook.Path}, hook.Args...), hook.Env...), ""), 0):
				return fmt.Errorf("hooks.%s[%d]: path, args or env holds a NUL byte", name, n)
			}
		}
	}
	return nil
}

// beforePivot runs the hooks of create.
func (c *Container) beforePivot(ctx context.Context) error {
	h := c.spec.Hooks
	c.hooked = true
	if err := c.runHooks(ctx, "prestart", h.Prestart, specs.StateCreating); err != nil {
		return err
	}
	if err := c.runHooks(ctx, "createRuntime", h.CreateRuntime, specs.StateCreating); err != nil {
		return err
	}
	return c.runHooksInside(ctx, c.stage, "createContainer", h.CreateContainer, specs.StateCreating)
}

// startHooks runs those before the program. If one fails the container ends.
func (c *Container) startHooks(ctx context.Context, s *stage.Stage) error {
	if c.spec.Hooks == nil {
		return nil
	}
	return c.endIf(ctx, c.runHooksInside(ctx, s, "startContainer", c.spec.Hooks.StartContainer, specs.StateCreated))
}

// poststart runs those after the program was executed. If one fails the container ends.
func (c *Container) poststart(ctx context.Context) error {
	if c.spec.Hooks == nil {
		return nil
	}
	return c.endIf(ctx, c.runHooks(ctx, "poststart", c.spec.Hooks.Poststart, specs.StateRunning))
}

func (c *Container) endIf(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	return errors.Join(err, c.Kill(context.WithoutCancel(ctx)))
}

// poststop runs those after the container's end. Their failures are told to the log alone, and the others run all the same.
func (c *Container) poststop(ctx context.Context) {
	if c.spec.Hooks == nil {
		return
	}
	for n := range c.spec.Hooks.Poststop {
		if err := c.runHooks(ctx, "poststop", c.spec.Hooks.Poststop[n:n+1], specs.StateStopped); err != nil && c.log != nil {
			c.log.Warn("a poststop hook failed", "container", c.state.ID, "number", n, "error", err)
		}
	}
}

// runHooks runs hooks in the runtime namespace, until one fails.
func (c *Container) runHooks(ctx context.Context, name string, hooks []specs.Hook, status specs.ContainerState) error {
	for n, h := range hooks {
		pid := c.state.Pid
		if status == specs.StateStopped {
			pid = 0
		}
		if err := c.runHook(ctx, h, status, pid, c.spawnHere); err != nil {
			return fmt.Errorf("hooks.%s[%d] %s: %w", name, n, h.Path, err)
		}
	}
	return nil
}

// runHooksInside runs hooks in the container's namespaces.
func (c *Container) runHooksInside(ctx context.Context, s *stage.Stage, name string, hooks []specs.Hook, status specs.ContainerState) error {
	if len(hooks) == 0 {
		return nil
	}
	pid, err := s.OwnPid(ctx)
	if err != nil {
		return childError(err)
	}
	spawn := func(ctx context.Context, cmd *stage.Command) (*os.File, func() (ExitStatus, error), error) {
		pidfd, err := s.Spawn(ctx, cmd)
		return pidfd, func() (ExitStatus, error) {
			ws, err := s.Reap(context.WithoutCancel(ctx), cmd)
			return exitOf(ws), err
		}, err
	}
	for n, h := range hooks {
		if err := c.runHook(ctx, h, status, pid, spawn); err != nil {
			return fmt.Errorf("hooks.%s[%d] %s: %w", name, n, h.Path, err)
		}
	}
	return nil
}

// spawner starts a command; its second result waits for the status of a command that has ended.
type spawner func(context.Context, *stage.Command) (*os.File, func() (ExitStatus, error), error)

func (c *Container) runHook(ctx context.Context, h specs.Hook, status specs.ContainerState, pid int, spawn spawner) error {
	if h.Timeout != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(*h.Timeout)*time.Second)
		defer cancel()
	}
	stdin, err := c.hookState(status, pid)
	if err != nil {
		return err
	}
	defer stdin.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	if err := unix.SetNonblock(int(w.Fd()), false); err != nil { // a hook expects to wait when it writes
		w.Close()
		return err
	}
	args := h.Args
	if len(args) == 0 {
		args = []string{h.Path}
	}
	pidfd, reap, err := spawn(ctx, &stage.Command{Path: h.Path, Args: args, Env: h.Env, Stdin: stdin, Stdout: w})
	w.Close()
	if err != nil {
		return err
	}
	said := listenTo(r)
	err = awaitHook(ctx, pidfd, reap)
	pidfd.Close()
	if text := said(); err != nil && text != "" {
		return fmt.Errorf("%w; it said: %s", err, text)
	}
	return err
}

// awaitHook waits for a hook's end, and makes it end when its time is over.
func awaitHook(ctx context.Context, pidfd *os.File, reap func() (ExitStatus, error)) error {
	p := newProcess(0, pidfd, false)
	_, werr := p.Wait(ctx)
	if werr != nil {
		if pid, err := stage.PidOf(pidfd); err == nil && pid > 0 {
			unix.Kill(-pid, unix.SIGKILL) // it leads its session
		}
		p.Signal(unix.SIGKILL)
		p.Wait(context.WithoutCancel(ctx))
	}
	st, err := reap()
	switch {
	case errors.Is(werr, context.DeadlineExceeded):
		return fmt.Errorf("it did not end in time: %w", werr)
	case werr != nil:
		return werr
	case err != nil:
		return err
	case st.Signal != 0:
		return fmt.Errorf("signal %d ended it", st.Signal)
	case st.Code == 127:
		return errors.New("exit code 127: it could not be executed, if it did not say so itself")
	case st.Code != 0:
		return fmt.Errorf("exit code %d", st.Code)
	}
	return nil
}

// hookState is what a hook reads: the state of the container, in a file.
func (c *Container) hookState(status specs.ContainerState, pid int) (*os.File, error) {
	b, err := json.Marshal(c.ociState(status, pid))
	if err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate("state", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "state")
	if _, err = f.Write(b); err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// ociState is the state of runtime-spec runtime.md.
func (c *Container) ociState(status specs.ContainerState, pid int) specs.State {
	return specs.State{
		Version: specs.Version, ID: c.state.ID, Status: status, Pid: pid, Bundle: c.state.Bundle, Annotations: c.spec.Annotations,
	}
}

// spawnHere starts a command as a child of this process, through the same small program as a container.
func (c *Container) spawnHere(ctx context.Context, cmd *stage.Command) (*os.File, func() (ExitStatus, error), error) {
	l, err := launcher()
	if err != nil {
		return nil, nil, err
	}
	s, err := l.Start(stage.Attr{Stdin: cmd.Stdin, Stdout: cmd.Stdout, Stderr: cmd.Stdout})
	if err != nil {
		return nil, nil, err
	}
	defer s.Close()
	child := newProcess(s.Pid, s.PidFD, true)
	p := &stage.Program{}
	p.Do("start a session", unix.SYS_SETSID)
	p.Do("enter bundle", unix.SYS_CHDIR, p.String(c.state.Bundle)).TolerateAny()
	p.Do(execWhat, unix.SYS_EXECVE, p.String(cmd.Path), p.Strings(cmd.Args), p.Strings(cmd.Env))
	pidfd, err := duplicate(s.PidFD)
	if err == nil {
		if err = s.Run(ctx, p); err == nil || errors.Is(err, stage.ErrExecuted) {
			return pidfd, func() (ExitStatus, error) {
				defer child.close()
				return child.Wait(context.WithoutCancel(ctx))
			}, nil
		}
		err = execError(cmd.Path, err)
		pidfd.Close()
	}
	child.Signal(syscall.SIGKILL)
	child.Wait(context.WithoutCancel(ctx))
	child.close()
	return nil, nil, err
}

func duplicate(f *os.File) (*os.File, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd := -1
	if cerr := raw.Control(func(n uintptr) { fd, err = unix.FcntlInt(n, unix.F_DUPFD_CLOEXEC, 0) }); cerr != nil {
		return nil, cerr
	}
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// maxSaid is how much of a hook's output an error tells.
const maxSaid = 4096

// listenTo reads what a hook writes, so that it never waits for a reader; the function that it returns ends that
// and gives the beginning of it.
func listenTo(r *os.File) func() string {
	var said bytes.Buffer
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 4096)
		for {
			n, err := r.Read(buf)
			said.Write(buf[:min(n, maxSaid-said.Len())])
			if err != nil {
				return
			}
		}
	}()
	return func() string {
		r.SetReadDeadline(time.Now().Add(10 * time.Millisecond)) // what it left running may hold the pipe
		<-done
		return strings.TrimSpace(said.String())
	}
}

func exitOf(ws syscall.WaitStatus) ExitStatus {
	if ws.Signaled() {
		return exitStatus(false, int(ws.Signal()))
	}
	return exitStatus(true, ws.ExitStatus())
}
