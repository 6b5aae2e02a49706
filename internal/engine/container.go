package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/11f9778f/berth/internal/engine/cgroup"
	"github.com/11f9778f/berth/internal/engine/stage"
)

// Init is the container's first process.
func (c *Container) Init() *Process { return c.init }

// Pid is the first process's number in the host's pid namespace.
func (c *Container) Pid() int { return c.init.pid }

// Cgroup is the container's own control group.
func (c *Container) Cgroup() *cgroup.Group { return c.group }

// Spec is what the container was made from, without what only its start needed once it has started (process, mounts,
// devices, paths, resources, sysctls); it must not be changed.
func (c *Container) Spec() *specs.Spec { return c.spec }

// State is what Adopt needs.
func (c *Container) State() State {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state
}

// Kill ends every process of the container by SIGKILL and returns when none is left.
func (c *Container) Kill(ctx context.Context) error {
	if err := c.init.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill container %s: %w", c.state.ID, err)
	}
	if err := c.group.Kill(ctx); err != nil {
		return fmt.Errorf("kill container %s: %w", c.state.ID, err)
	}
	return nil
}

// Pause stops every process of the container, until Resume.
func (c *Container) Pause(ctx context.Context) error {
	if err := c.group.Freeze(ctx); err != nil {
		return fmt.Errorf("pause container %s: %w", c.state.ID, err)
	}
	c.setPaused(true)
	return nil
}

// Resume lets a paused container run again.
func (c *Container) Resume(ctx context.Context) error {
	if err := c.group.Thaw(ctx); err != nil {
		return fmt.Errorf("resume container %s: %w", c.state.ID, err)
	}
	c.setPaused(false)
	return nil
}

func (c *Container) setPaused(paused bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state.Paused = paused
}

// Update changes the container's limits; fields that are not set stay as they are.
func (c *Container) Update(ctx context.Context, r *specs.LinuxResources) error {
	if c.scopes != nil && c.state.Scope != "" {
		if err := c.scopes.Update(ctx, c.state.Scope, r); err != nil {
			return fmt.Errorf("update container %s: %w", c.state.ID, err)
		}
	}
	if err := c.group.Apply(r); err != nil {
		return fmt.Errorf("update container %s: %w", c.state.ID, err)
	}
	return nil
}

// Stats reads the container's counters.
func (c *Container) Stats() (*cgroup.Stats, error) { return c.group.Stats() }

// Pids lists the container's processes, as the host numbers them.
func (c *Container) Pids() ([]int, error) { return c.group.Pids() }

// Delete kills what is left of the container and removes its cgroup; mounts and namespaces go with the
// last process. It may be called again after an error.
func (c *Container) Delete(ctx context.Context) error {
	c.mu.Lock()
	s := c.stage
	c.stage = nil
	c.mu.Unlock()
	if s != nil {
		s.Close()
	}
	if err := c.Kill(ctx); err != nil {
		return err
	}
	if _, err := c.init.Wait(ctx); err != nil && ctx.Err() != nil {
		return fmt.Errorf("delete container %s: %w", c.state.ID, err)
	}
	if err := c.unscope(ctx); err != nil {
		return fmt.Errorf("delete container %s: %w", c.state.ID, err)
	}
	if err := c.group.Delete(ctx); err != nil {
		return fmt.Errorf("delete container %s: %w", c.state.ID, err)
	}
	if err := c.rdt.remove(); err != nil {
		return fmt.Errorf("delete container %s: %w", c.state.ID, err)
	}
	c.closeFiles()
	c.mu.Lock()
	first := !c.deleted
	c.deleted = true
	c.mu.Unlock()
	if first {
		c.poststop(context.WithoutCancel(ctx))
	}
	return nil
}

// AdoptOptions carries descriptors of a container that outlived the process that created it. Adopt owns
// them from then on.
type AdoptOptions struct {
	PidFD   *os.File // nil: opened by number, and checked against the start time
	Console *os.File // the master of the first process's terminal, if it has one
	// Parked is where the container waits for Start: see Park. With it Adopt calls on the child, so
	// it is for whoever is about to start it.
	Parked string
	// Log, Scopes and Specs are as in CreateOptions.
	Log    *slog.Logger
	Scopes Scopes
	Specs  *SpecCache
}

// Adopt takes over a container whose creator died. Its first process may have ended meanwhile: Wait
// tells. A container that was created and never started can't be started any more, since its child left
// with its creator, unless it was parked; Start says so.
func Adopt(_ context.Context, st State, spec *specs.Spec, o AdoptOptions) (*Container, error) {
	group, err := cgroup.Load(st.CgroupPath)
	if err != nil {
		return nil, fmt.Errorf("adopt container %s: %w", st.ID, err)
	}
	c := &Container{state: st, spec: own(spec), group: group, log: o.Log, scopes: o.Scopes}
	if spec.Linux != nil {
		if c.rdt, err = newRDT(st.ID, spec.Linux.IntelRdt); err != nil {
			return nil, fmt.Errorf("adopt container %s: %w", st.ID, err)
		}
		if c.rdt != nil {
			c.rdt.mine = true
		}
		if c.filter, err = o.Specs.filter(spec.Linux.Seccomp); err != nil {
			return nil, fmt.Errorf("adopt container %s: %w", st.ID, err)
		}
	}
	if st.Started {
		c.slim()
	}
	pidfd := o.PidFD
	if pidfd == nil {
		if pidfd, err = reopen(st); err != nil {
			c.init = endedProcess(st.Pid, err.Error())
			return c, nil
		}
	}
	// It is a child of this very process if that has executed another program since. If it is not, the kernel says so.
	c.init = newProcess(st.Pid, pidfd, true)
	c.init.console = o.Console
	if o.Parked != "" {
		if c.stage, err = stage.Call(o.Parked, st.Pid, pidfd); err != nil {
			c.closeFiles()
			return nil, fmt.Errorf("adopt container %s: %w", st.ID, err)
		}
	}
	return c, nil
}

// reopen opens the process of st, if its number still means that process.
func reopen(st State) (*os.File, error) {
	fd, err := unix.PidfdOpen(st.Pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("the process ended while nobody held it: %w", err)
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	if at, err := startTime(st.Pid); err != nil || at != st.StartTime {
		f.Close()
		return nil, errors.New("the process ended while nobody held it, and its number belongs to another one now")
	}
	return f, nil
}

// endedProcess stands for a process of which nothing but its number is left.
func endedProcess(pid int, reason string) *Process {
	p := newProcess(pid, nil, false)
	p.once.Do(func() {})
	p.status = unknownExit(reason)
	close(p.done)
	return p
}
