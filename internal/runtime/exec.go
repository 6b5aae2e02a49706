package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/11f9778f/berth/internal/engine"
)

// maxExecOutput is how much of each stream of ExecSync is kept, as the CRI asks.
const maxExecOutput = 16 << 20

// running returns a running container with its shim.
func (r *Runtime) running(id string) (*container, Shim, error) {
	c, err := r.listedContainer(id)
	if err != nil {
		return nil, nil, err
	}
	if st := c.get().State; st != ContainerRunning {
		return nil, nil, fmt.Errorf("container %s is %s, not running: %w", short(id), st, errdefs.ErrFailedPrecondition)
	}
	shim, err := c.shim()
	return c, shim, err
}

// ExecSync runs a command in a running container to its end. A timeout of 0 is none; when it passes
// the process is killed and the result says so.
func (r *Runtime) ExecSync(ctx context.Context, id string, args []string, timeout time.Duration) (ExecResult, error) {
	c, shim, err := r.running(id)
	if err != nil {
		return ExecResult{}, err
	}
	p, err := c.execProcess(args, false)
	if err != nil {
		return ExecResult{}, err
	}
	leave, err := c.execs.enter(ctx)
	if err != nil {
		return ExecResult{}, fmt.Errorf("exec in container %s: %w", short(id), err)
	}
	defer leave()
	res, err := shim.ExecSync(ctx, ExecSyncRequest{ContainerID: id, Process: p, Timeout: timeout, Limit: maxExecOutput})
	if err != nil {
		return ExecResult{}, fmt.Errorf("exec in container %s: %w", short(id), err)
	}
	return res, nil
}

// Exec runs a command in a running container with a client's streams and returns its exit code.
func (r *Runtime) Exec(ctx context.Context, id string, args []string, s Streams) (int, error) {
	c, shim, err := r.running(id)
	if err != nil {
		return 0, err
	}
	p, err := c.execProcess(args, s.TTY)
	if err != nil {
		return 0, err
	}
	leave, err := c.execs.enter(ctx)
	if err != nil {
		return 0, fmt.Errorf("exec in container %s: %w", short(id), err)
	}
	defer leave()
	code, err := shim.Exec(ctx, id, "exec-"+newID()[:16], p, s)
	if err != nil {
		return 0, fmt.Errorf("exec in container %s: %w", short(id), err)
	}
	return code, nil
}

// Attach connects a client with a running container's own process until one of them ends.
func (r *Runtime) Attach(ctx context.Context, id string, s Streams) error {
	c, shim, err := r.running(id)
	if err != nil {
		return err
	}
	spec := c.get().Spec
	if s.In != nil && !spec.Stdin {
		s.In = nil // it has no stdin to give to; its output is still wanted
	}
	s.TTY, s.InOnce = spec.TTY, spec.StdinOnce
	if err := shim.Attach(ctx, id, s); err != nil {
		return fmt.Errorf("attach to container %s: %w", short(id), err)
	}
	return nil
}

// ReopenLog has the container's log written to a new file of the same name, after a rotation.
func (r *Runtime) ReopenLog(ctx context.Context, id string) error {
	_, shim, err := r.running(id)
	if err != nil {
		return err
	}
	ctx, cancel := r.shimContext(ctx)
	defer cancel()
	if err := shim.ReopenLog(ctx, id); err != nil {
		return fmt.Errorf("reopen log of container %s: %w", short(id), err)
	}
	return nil
}

// execProcess is the container's own process with another command.
func (c *container) execProcess(args []string, tty bool) (*specs.Process, error) {
	if len(args) == 0 || args[0] == "" {
		return nil, invalid("exec needs a command")
	}
	own, err := c.ownProcess()
	if err != nil {
		return nil, fmt.Errorf("exec in container %s: %w", short(c.id), err)
	}
	p := *own
	p.Args, p.Terminal, p.ConsoleSize = args, tty, nil
	if tty {
		p.Env = append([]string{"TERM=xterm"}, p.Env...)
	}
	return &p, nil
}

// ownProcess is the process of the container's bundle, which no container can reach. It is read once after a restart
// of the daemon, for probes ask often and a spec is long.
func (c *container) ownProcess() (*specs.Process, error) {
	c.mu.Lock()
	p := c.process
	c.mu.Unlock()
	if p != nil {
		return p, nil
	}
	s, err := engine.LoadSpec(c.r.store.bundle(c.id))
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.process = s.Process
	return c.process, nil
}

// PortForward carries bytes between stream and a port on the loopback of the sandbox.
func (r *Runtime) PortForward(ctx context.Context, sandboxID string, port int32, stream io.ReadWriteCloser) error {
	st, err := r.Sandbox(sandboxID)
	if err != nil {
		return err
	}
	if st.State != SandboxReady {
		return fmt.Errorf("sandbox %s is %s: %w", short(sandboxID), st.State, errdefs.ErrFailedPrecondition)
	}
	if port <= 0 || port > 65535 {
		return invalid("port %d", port)
	}
	conn, err := dialIn(ctx, st.NetNS, port)
	if errors.Is(err, syscall.ECONNRESET) { // accepted, and reset before the handshake was seen here
		breakOff(stream)
		return nil
	}
	if err != nil {
		return fmt.Errorf("forward to port %d of sandbox %s: %w", port, short(sandboxID), err)
	}
	return relay(ctx, conn, stream)
}

// leastOOMScoreAdj is the score of this process: without CAP_SYS_RESOURCE no child can get less.
func leastOOMScoreAdj() int {
	b, err := os.ReadFile(filepath.Join("/proc", "self", "oom_score_adj"))
	if err != nil {
		return 0
	}
	var n int
	if _, err := fmt.Sscan(string(b), &n); err != nil {
		return 0
	}
	return n
}
