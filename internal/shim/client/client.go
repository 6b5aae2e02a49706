package client

import (
	"context"
	"errors"

	sandboxv1 "github.com/containerd/containerd/api/runtime/sandbox/v1"
	taskv3 "github.com/containerd/containerd/api/runtime/task/v3"

	"github.com/11f9778f/berth/internal/shim/api"
)

// Manager keeps all shims below one run directory.
type Manager struct{}

// Open finds the shims that live below cfg.RunDir, starts successors for those that died, and returns
// when each has answered or has been given up.
func Open(ctx context.Context, cfg Config) (*Manager, error) { return nil, errors.ErrUnsupported }

// Acquire gives the sandbox a shim: the one that it already has, one with room, or a new one.
func (m *Manager) Acquire(ctx context.Context, p Placement) (*Shim, error) {
	return nil, errors.ErrUnsupported
}

// Lookup returns the shim that the sandbox was given.
func (m *Manager) Lookup(sandboxID string) (*Shim, bool) { return nil, false }

// Release takes the sandbox out of its group; the last one out ends the shim. An unknown sandbox is none.
func (m *Manager) Release(ctx context.Context, sandboxID string) error { return nil }

// Events is where events arrive, in order, for one reader. It is closed by Close.
func (m *Manager) Events() <-chan Event { return nil }

// Inventory lists what there is.
func (m *Manager) Inventory() Inventory { return Inventory{} }

// Close ends the connections, and the blank spare shim if there is one. All other shims live on.
func (m *Manager) Close() error { return nil }

// Shim is the shim of one group. It stays valid when the process behind it is replaced.
type Shim struct{}

// Group is the id of the group that the shim keeps.
func (s *Shim) Group() string { return "" }

// Pid is the shim's process, 0 while there is none.
func (s *Shim) Pid() int { return 0 }

// Task is the standard service for containers.
func (s *Shim) Task() taskv3.TTRPCTaskService { return nil }

// Sandbox is the standard service for sandboxes.
func (s *Shim) Sandbox() sandboxv1.TTRPCSandboxService { return nil }

// Berth is our own service, nil for a foreign shim.
func (s *Shim) Berth() api.ShimService { return nil }
