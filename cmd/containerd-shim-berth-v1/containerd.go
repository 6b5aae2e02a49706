package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/11f9778f/berth/internal/engine"
	"github.com/11f9778f/berth/internal/engine/cgroup"
	"github.com/11f9778f/berth/internal/shim/api"
	"github.com/11f9778f/berth/internal/shim/api/containerd"
	"github.com/11f9778f/berth/internal/shim/launch"
	"github.com/11f9778f/berth/internal/shim/server"
	"github.com/11f9778f/berth/internal/shim/state"
	"github.com/11f9778f/berth/internal/shim/wire"
	"github.com/11f9778f/berth/internal/sys"
)

// bootstrapResult is containerd's BootstrapParams, version 3 of what `start` prints.
type bootstrapResult struct {
	Version  int    `json:"version"`
	Address  string `json:"address"`
	Protocol string `json:"protocol"`
}

// startTimeout bounds `start`, in which containerd waits for another shim's start or end, too.
const startTimeout = 10 * time.Second

// stateDir is where groups of a stock containerd live. Paths of sockets are short, so theirs must be.
func stateDir() string {
	if dir := os.Getenv("BERTH_SHIM_STATE"); dir != "" {
		return dir
	}
	return "/run/berth-shim"
}

func (f flags) bundleDir() (string, error) {
	if f.bundle != "" {
		return filepath.Abs(f.bundle)
	}
	return os.Getwd()
}

// groupKey is what containers have in common that share a shim: the group that a client asked for, the sandbox, or
// nothing.
func groupKey(id, bundle string) string {
	spec, err := engine.LoadSpec(bundle)
	if err != nil {
		return id
	}
	for _, annotation := range []string{"io.containerd.runc.v2.group", api.AnnotationSandboxID} {
		if key := spec.Annotations[annotation]; key != "" {
			return key
		}
	}
	return id
}

// groupDir is the directory of the shim that shall keep what is in the bundle.
func (f flags) groupDir() (dir string, err error) {
	if err := state.ValidID(f.id); err != nil {
		return "", err
	}
	bundle, err := f.bundleDir()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256([]byte(f.address + "\x00" + f.namespace + "\x00" + groupKey(f.id, bundle)))
	return filepath.Join(stateDir(), hex.EncodeToString(sum[:8])), nil
}

// start finds or starts the shim of the group and prints where it is.
func start(ctx context.Context, f flags) error {
	boot, err := readBootstrap(os.Stdin, f)
	if err != nil {
		return fmt.Errorf("start: %w", err)
	}
	dir, err := f.groupDir()
	if err != nil {
		return fmt.Errorf("start: %w", err)
	}
	socket := filepath.Join(dir, server.SocketTTRPC)
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for !alive(socket) {
		err := startShim(ctx, f, dir, boot)
		if err == nil {
			break
		}
		// Another start is at it, or the last shim of the group is just leaving.
		if !errors.Is(err, sys.ErrLocked) && !errors.Is(err, fs.ErrNotExist) || ctx.Err() != nil {
			return fmt.Errorf("start: %w", err)
		}
		time.Sleep(2 * time.Millisecond)
	}
	return json.NewEncoder(os.Stdout).Encode(bootstrapResult{Version: 3, Address: "unix://" + socket, Protocol: "ttrpc"})
}

func startShim(ctx context.Context, f flags, dir string, b bootstrap) error {
	binary, err := os.Executable()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	cmd, err := launch.Start(ctx, binary, launch.Boot{
		Dir: dir, Group: filepath.Base(dir), Generation: 1, Namespace: f.namespace, EventsAddress: b.events,
	}, nil)
	if err != nil || b.shimCgroup == "" {
		return err
	}
	group, err := cgroup.Load(b.shimCgroup)
	if err == nil {
		err = group.Create(ctx)
	}
	if err == nil {
		err = group.Join(cmd.Process.Pid)
	}
	if err != nil {
		cmd.Process.Kill()
		cmd.Wait()
		return fmt.Errorf("options: ShimCgroup: %w", err)
	}
	return nil
}

func alive(socket string) bool {
	conn, err := net.DialTimeout("unix", socket, time.Second)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

// remove cleans up after a shim that died, for one container: containerd calls it then, and also after it has deleted a
// container in peace. What a shim left for the container is ended and removed.
func remove(ctx context.Context, f flags) error {
	dir, err := f.keptIn()
	if err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	if err := server.Discard(ctx, server.NewLinux(), dir, f.id); err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	if !launch.Lives(dir) {
		if err := removeEmpty(dir); err != nil {
			return fmt.Errorf("delete: %w", err)
		}
	}
	_, err = os.Stdout.Write(wire.Marshal(&containerd.DeleteResponse{ExitStatus: 128 + uint32(syscall.SIGKILL), ExitedAt: time.Now()}))
	return err
}

// keptIn is the directory of the shim that has the container. Its bundle may be gone, and the group that it named with it.
func (f flags) keptIn() (string, error) {
	dir, err := f.groupDir()
	if err != nil {
		return "", err
	}
	bundle, err := f.bundleDir()
	if err != nil {
		return "", err
	}
	if kept, err := server.Keeps(dir, f.id, bundle); err != nil || kept {
		return dir, err
	}
	groups, err := filepath.Glob(filepath.Join(stateDir(), "*"))
	if err != nil {
		return "", err
	}
	for _, g := range groups {
		if kept, err := server.Keeps(g, f.id, bundle); err == nil && kept {
			return g, nil
		}
	}
	return dir, nil
}

// removeEmpty removes the directory of a dead shim that nothing is left of.
func removeEmpty(dir string) error {
	left, err := state.Names(filepath.Join(dir, "containers"))
	if err != nil || len(left) > 0 {
		return err
	}
	return errors.Join(server.DiscardSandboxes(server.NewLinux(), dir), os.RemoveAll(dir))
}

// info tells containerd what this runtime is, and what the engine can do.
func info() error {
	features, err := json.Marshal(engine.Features())
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(wire.Marshal(&containerd.RuntimeInfo{
		Name: "io.containerd.berth.v1", Version: &containerd.RuntimeVersion{Version: version()},
		Features: &wire.Any{TypeURL: "types.containerd.io/opencontainers/runtime-spec/1/features/Features", Value: features},
	}))
	return err
}
