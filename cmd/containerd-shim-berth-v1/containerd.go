package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	taskv3 "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/11f9778f/berth/internal/engine"
	"github.com/11f9778f/berth/internal/shim/api"
	"github.com/11f9778f/berth/internal/shim/launch"
	"github.com/11f9778f/berth/internal/shim/server"
	"github.com/11f9778f/berth/internal/shim/state"
	"github.com/11f9778f/berth/internal/sys"
)

// bootstrapResult is containerd's BootstrapParams, version 3 of what `start` prints.
type bootstrapResult struct {
	Version  int    `json:"version"`
	Address  string `json:"address"`
	Protocol string `json:"protocol"`
}

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

// groupDir is the directory of the shim that keeps, or shall keep, what is in the bundle: containers of one sandbox share
// a shim.
func (f flags) groupDir() (dir string, err error) {
	if err := state.ValidID(f.id); err != nil {
		return "", err
	}
	bundle, err := f.bundleDir()
	if err != nil {
		return "", err
	}
	key := f.id
	if spec, err := engine.LoadSpec(bundle); err == nil && spec.Annotations[api.AnnotationSandboxID] != "" {
		key = spec.Annotations[api.AnnotationSandboxID]
	}
	sum := sha256.Sum256([]byte(f.address + "\x00" + f.namespace + "\x00" + key))
	return filepath.Join(stateDir(), hex.EncodeToString(sum[:8])), nil
}

// start finds or starts the shim of the group and prints where it is.
func start(ctx context.Context, f flags) error {
	dir, err := f.groupDir()
	if err != nil {
		return fmt.Errorf("start: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("start: %w", err)
	}
	unlock, err := lock(dir + ".lock")
	if err != nil {
		return fmt.Errorf("start: %w", err)
	}
	defer unlock()
	socket := filepath.Join(dir, server.SocketTTRPC)
	if !alive(socket) {
		binary, err := os.Executable()
		if err != nil {
			return fmt.Errorf("start: %w", err)
		}
		boot := launch.Boot{Dir: dir, Group: filepath.Base(dir), Generation: 1, Namespace: f.namespace, EventsAddress: os.Getenv("TTRPC_ADDRESS")}
		if _, err := launch.Start(ctx, binary, boot, nil); err != nil {
			return err
		}
	}
	return json.NewEncoder(os.Stdout).Encode(bootstrapResult{Version: 3, Address: "unix://" + socket, Protocol: "ttrpc"})
}

// lock serializes the starts of one group, each of which takes some milliseconds.
func lock(path string) (unlock func(), err error) {
	for range 1000 {
		f, err := sys.LockFile(path)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, sys.ErrLocked) {
			return nil, err
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil, fmt.Errorf("lock %s: %w", path, sys.ErrLocked)
}

func alive(socket string) bool {
	conn, err := net.DialTimeout("unix", socket, time.Second)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

// remove cleans up after a shim that died, for one container: containerd calls it then. What the shim left for the
// container is ended and removed.
func remove(ctx context.Context, f flags) error {
	dir, err := f.groupDir()
	if err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	if err := server.Discard(ctx, server.Linux{}, dir, f.id); err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	if !alive(filepath.Join(dir, server.SocketTTRPC)) {
		left, err := state.Names(filepath.Join(dir, "containers"))
		if err == nil && len(left) == 0 {
			err = errors.Join(server.DiscardSandboxes(server.Linux{}, dir), os.RemoveAll(dir), os.Remove(dir+".lock"))
		}
		if err != nil {
			return fmt.Errorf("delete: %w", err)
		}
	}
	b, err := proto.Marshal(&taskv3.DeleteResponse{ExitStatus: 128 + uint32(syscall.SIGKILL), ExitedAt: timestamppb.Now()})
	if err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	_, err = os.Stdout.Write(b)
	return err
}

// info tells containerd what this runtime is.
func info() error {
	b, err := proto.Marshal(&types.RuntimeInfo{Name: "io.containerd.berth.v1", Version: &types.RuntimeVersion{Version: version()}})
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(b)
	return err
}
