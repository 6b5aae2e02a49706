package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	bootstrapv1 "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	taskv3 "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/proto"

	"github.com/11f9778f/berth/internal/sys"
)

const (
	// maxBootstrap bounds what is read of a foreign shim's answer to `start`.
	maxBootstrap = 64 << 10
	// maxSocketPath is the kernel's limit for the path of a unix socket.
	maxSocketPath = 107
	// hashedName is the length of the name that shims give their sockets.
	hashedName = 64
)

// startForeign starts a shim that is not ours by containerd's protocol: its `start` command answers where the shim is.
func (g *group) startForeign(ctx context.Context, p Placement) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	params, err := g.bootstrap(p.SandboxID)
	if err != nil {
		return fmt.Errorf("start shim: %w", err)
	}
	if err := g.catchLog(p.Bundle); err != nil {
		return fmt.Errorf("start shim: %w", err)
	}
	out, err := g.command(ctx, p.SandboxID, p.Bundle, params, "start")
	if err != nil {
		return fmt.Errorf("start shim %s: %w", g.rec.Binary, err)
	}
	at, err := parseBootstrap(out)
	if err != nil {
		return fmt.Errorf("start shim %s: %w", g.rec.Binary, err)
	}
	g.mu.Lock()
	g.rec.Address, g.rec.TaskV2 = at.Address, at.Version == 2
	g.rec.Generation = 1
	g.mu.Unlock()
	if err := g.save(); err != nil {
		return err
	}
	return g.adopt(ctx, 0, nil)
}

// bootstrap is what a shim of containerd 2.3 and later reads from standard input; older ones do not look.
func (g *group) bootstrap(id string) ([]byte, error) {
	params := &bootstrapv1.BootstrapParams{
		InstanceID: id, Namespace: g.m.cfg.Namespace, ContainerdVersion: "2.4.0",
		ContainerdTtrpcAddress: g.m.events.address, ContainerdGrpcAddress: g.m.events.address,
	}
	if len(g.dir)+1+hashedName <= maxSocketPath {
		params.SocketDir = &g.dir
	}
	if o := g.rec.Options.any(); o != nil {
		params.Extensions = []*bootstrapv1.Extension{{Value: o}}
	}
	return proto.Marshal(params)
}

// catchLog has what the shim itself says go to the group's log: it opens "log" in the bundle, at containerd a FIFO.
func (g *group) catchLog(bundle string) error {
	own := filepath.Join(g.dir, "shim.log")
	f, err := os.OpenFile(own, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	f.Close()
	if bundle == "" {
		return nil
	}
	if err := os.Symlink(own, filepath.Join(bundle, "log")); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return nil
}

// command runs one of the shim's commands in a bundle and returns what it prints.
func (g *group) command(ctx context.Context, id, bundle string, stdin []byte, args ...string) ([]byte, error) {
	args = append([]string{"-namespace", g.m.cfg.Namespace, "-id", id, "-address", g.m.events.address}, args...)
	cmd := exec.CommandContext(ctx, g.rec.Binary, args...)
	cmd.Dir = bundle
	cmd.Env = append(os.Environ(), "TTRPC_ADDRESS="+g.m.events.address, "GRPC_ADDRESS="+g.m.events.address, "NAMESPACE="+g.m.cfg.Namespace,
		"MAX_SHIM_VERSION=3", "GOMAXPROCS=2")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Stdin = bytes.NewReader(stdin)
	// The shim itself may inherit standard error: with a file, nobody waits for its end.
	stderr, err := os.CreateTemp(g.dir, "command-")
	if err != nil {
		return nil, err
	}
	defer os.Remove(stderr.Name())
	defer stderr.Close()
	cmd.Stderr = stderr
	var out limited
	cmd.Stdout = &out
	cmd.WaitDelay = time.Second
	if err := sys.RunPunctual(cmd); err != nil {
		said := make([]byte, 1024)
		n, _ := stderr.ReadAt(said, 0)
		return nil, fmt.Errorf("%w: %s", err, bytes.TrimSpace(said[:n]))
	}
	return out.b, nil
}

// limited keeps the beginning of what is written to it.
type limited struct{ b []byte }

func (l *limited) Write(p []byte) (int, error) {
	l.b = append(l.b, p[:min(len(p), maxBootstrap-len(l.b))]...)
	return len(p), nil
}

// bootstrapped is where a shim is, and the version of the Task service that it serves.
type bootstrapped struct {
	Version           int
	Address, Protocol string
}

// parseBootstrap reads a shim's answer to `start`: since containerd 2.3 a message, before that JSON, and the bare address
// from old ones.
func parseBootstrap(b []byte) (at bootstrapped, err error) {
	b = bytes.TrimRight(b, "\n")
	var result bootstrapv1.BootstrapResult
	switch {
	case bytes.HasPrefix(b, []byte("{")):
		err = json.Unmarshal(b, &at)
	case bytes.HasPrefix(b, []byte("unix://")), bytes.HasPrefix(b, []byte("/")):
		at = bootstrapped{Version: 2, Address: string(b), Protocol: "ttrpc"}
	default:
		if err = proto.Unmarshal(b, &result); err == nil {
			at = bootstrapped{Version: int(result.Version), Address: result.Address, Protocol: result.Protocol}
		}
	}
	switch {
	case err != nil:
		return at, fmt.Errorf("its answer is none of containerd's protocol: %.100q", b)
	case at.Protocol != "" && at.Protocol != "ttrpc":
		return at, fmt.Errorf("it speaks %q, which Berth does not", at.Protocol)
	case !strings.HasPrefix(at.Address, "unix://") && !strings.HasPrefix(at.Address, "/"):
		return at, fmt.Errorf("it names no address: %.100q", b)
	case at.Version > 3:
		return at, fmt.Errorf("it wants version %d of the shim protocol, and Berth speaks 2 and 3", at.Version)
	}
	return at, nil
}

// foreignPid asks the shim for its process. The socket can't tell: it was made by the `start` command, which is gone.
func (g *group) foreignPid(ctx context.Context, c *ttrpc.Client) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	g.mu.Lock()
	id := g.rec.ID
	if len(g.rec.Sandboxes) > 0 {
		id = g.rec.Sandboxes[0]
	}
	service := taskService
	if g.rec.TaskV2 {
		service = taskServiceV2
	}
	g.mu.Unlock()
	var r taskv3.ConnectResponse
	if err := c.Call(ctx, service, "Connect", &taskv3.ConnectRequest{ID: id}, &r); err != nil {
		return 0, fmt.Errorf("ask the shim for its process: %w", err)
	}
	return int(r.ShimPid), nil
}

// Names of the Task service. The messages of the two versions are the same on the wire.
const (
	taskService   = "containerd.task.v3.Task"
	taskServiceV2 = "containerd.task.v2.Task"
)

// IsForeign tells a shim that is not Berth's own.
func (s *Shim) IsForeign() bool { return s.g.rec.Foreign }

// IsGone tells that the shim has ended, and no successor will come.
func (s *Shim) IsGone() bool { return s.isGone() }

// Discard has the binary of a foreign shim that is gone clear away what is left of one of its containers, by its `delete`
// command.
func (s *Shim) Discard(ctx context.Context, id, bundle string) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	if _, err := os.Stat(bundle); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if _, err := s.g.command(ctx, id, bundle, nil, "-bundle", bundle, "delete"); err != nil {
		return fmt.Errorf("delete what shim %s left of container %s: %w", s.g.id, id, err)
	}
	return nil
}

// removeSocket removes what a foreign shim that was killed leaves of its socket.
func (g *group) removeSocket() {
	if path := strings.TrimPrefix(g.rec.Address, "unix://"); g.rec.Foreign && filepath.IsAbs(path) {
		os.Remove(path)
	}
}
