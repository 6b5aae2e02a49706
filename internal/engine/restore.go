package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/11f9778f/berth/internal/engine/caps"
	"github.com/11f9778f/berth/internal/engine/criu"
	"github.com/11f9778f/berth/internal/sys"
)

// RestoreOptions say what a created container is to become instead of executing its program.
type RestoreOptions struct {
	Tool criu.Tool
	// Images is the folder with CRIU's images, which need not be trusted.
	Images string
	// WorkDir is an empty folder; what is in it afterwards, CRIU's log above all, is the caller's.
	WorkDir string
}

// BindTargets are where the spec binds something of the host's.
func BindTargets(s *specs.Spec) []string {
	var out []string
	for _, m := range s.Mounts {
		if m.Type == "bind" || slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind") {
			out = append(out, filepath.Clean(m.Destination))
		}
	}
	return out
}

// Shares tells whether the spec joins a namespace of a type that somebody else has made.
func Shares(s *specs.Spec, t specs.LinuxNamespaceType) bool {
	ns, ok := namespace(s, t)
	return !ok || ns.Path != ""
}

// Restore makes the processes of a checkpoint anew in the container, which was created and not started, and returns
// the container that they are; c is of no more use then. After an error c is to be deleted, with what there is of the
// processes. A checkpoint that does not fit what the container's spec says is refused (criu.ErrMismatch).
func (c *Container) Restore(ctx context.Context, o RestoreOptions) (*Container, error) {
	restored, err := c.restore(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("restore container %s: %w", c.state.ID, err)
	}
	return restored, nil
}

func (c *Container) restore(ctx context.Context, o RestoreOptions) (*Container, error) {
	if err := c.restorable(); err != nil {
		return nil, err
	}
	c.mu.Lock()
	s := c.stage
	c.stage = nil
	c.mu.Unlock()
	if s == nil {
		return nil, fmt.Errorf("it was started before: %w", os.ErrInvalid)
	}
	defer s.Close()
	r, err := c.restoreCall(o)
	if err != nil {
		return nil, err
	}
	defer closeAll(r.Groups)
	if r.Group != nil {
		defer r.Group.Close()
	}
	pid, err := o.Tool.Restore(ctx, r)
	if err != nil {
		return nil, err
	}
	return c.succeed(ctx, pid)
}

// restorable refuses what CRIU, or this engine, can't do.
func (c *Container) restorable() error {
	switch {
	case c.spec.Process.Terminal:
		return fmt.Errorf("a container with a terminal: %w", criu.ErrUnsupported)
	case inUserNamespace(c.spec):
		return fmt.Errorf("a container in a user namespace: %w", criu.ErrUnsupported)
	case c.shared:
		return fmt.Errorf("a container in its creator's mount namespace: %w", criu.ErrUnsupported)
	case c.filter != nil && c.filter.Notify:
		return fmt.Errorf("a container whose seccomp filter notifies: %w", criu.ErrUnsupported)
	case c.spec.Hooks != nil && len(c.spec.Hooks.StartContainer) > 0:
		return fmt.Errorf("a container with startContainer hooks: %w", criu.ErrUnsupported)
	}
	return nil
}

func (c *Container) restoreCall(o RestoreOptions) (criu.Restore, error) {
	sets, err := caps.FromSpec(c.spec.Process.Capabilities)
	if err != nil {
		return criu.Restore{}, fmt.Errorf("process.capabilities: %w", err)
	}
	_, net := namespace(c.spec, specs.NetworkNamespace)
	r := criu.Restore{
		Dir: o.Images, WorkDir: o.WorkDir, Holder: c.init.pid, Binds: BindTargets(c.spec),
		SharedIPC: Shares(c.spec, specs.IPCNamespace), SharedUTS: Shares(c.spec, specs.UTSNamespace),
		CgroupNamespace: c.newNamespace(specs.CgroupNamespace),
		Bounds: criu.Bounds{
			Capabilities: uint64(sets.Bounding | sets.Effective | sets.Permitted | sets.Inheritable | sets.Ambient), NoNewPrivileges: c.spec.Process.NoNewPrivileges, Seccomp: c.filter != nil,
			HostNetwork: !net, UID: c.spec.Process.User.UID, OOMScoreAdj: c.spec.Process.OOMScoreAdj,
		},
	}
	if r.Groups, err = c.group.Entries(); err != nil {
		return r, err
	}
	if v2, err := c.group.FD(); err == nil {
		r.Group = v2
	}
	return r, nil
}

// succeed ends the process that waited, and takes the restored one for the container's first.
func (c *Container) succeed(ctx context.Context, pid int) (*Container, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("the restored process %d has ended: %w", pid, err)
	}
	pidfd := os.NewFile(uintptr(fd), "pidfd")
	at, err := startTime(pid)
	if err == nil && hasEnded(c.init.pidfd) {
		err = errors.Join(errors.New("it was killed while it was being restored"), c.group.Kill(ctx))
	}
	if err != nil {
		pidfd.Close()
		return nil, err
	}
	if err := c.init.Signal(unix.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		pidfd.Close()
		return nil, err
	}
	if _, err := c.init.Wait(ctx); err != nil {
		pidfd.Close()
		return nil, err
	}
	st := c.State()
	st.Pid, st.StartTime, st.Started = pid, at, true
	return &Container{
		state: st, spec: c.spec, group: c.group, filter: c.filter, rdt: c.rdt, scopes: c.scopes, log: c.log, hooked: c.hooked,
		init: newProcess(pid, pidfd, true),
	}, nil
}

// hasEnded tells whether the process behind pidfd has ended.
func hasEnded(pidfd *os.File) bool {
	conn, err := pidfd.SyscallConn()
	if err != nil {
		return true
	}
	ended := false
	err = conn.Control(func(fd uintptr) {
		readable, broken := sys.Readable(fd)
		ended = readable || broken
	})
	return err != nil || ended
}
