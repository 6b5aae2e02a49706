package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/11f9778f/berth/internal/engine"
	"github.com/11f9778f/berth/internal/failpoint"
	"github.com/11f9778f/berth/internal/shim/api"
	"github.com/11f9778f/berth/internal/shim/state"
)

// States of a sandbox.
const (
	sandboxCreated = "created"
	sandboxReady   = "ready"
	sandboxStopped = "stopped"
)

// sandboxRecord is a sandbox in sandboxes/<id>.json. It is written before namespaces are made.
type sandboxRecord struct {
	ID        string    `json:"id"`
	State     string    `json:"state"`
	NetNS     string    `json:"netns,omitempty"`
	Hostname  string    `json:"hostname,omitempty"`
	HostIPC   bool      `json:"hostIPC,omitempty"`
	HostUTS   bool      `json:"hostUTS,omitempty"`
	Cgroup    string    `json:"cgroup,omitempty"`
	CreatedAt time.Time `json:"createdAt"`
	ExitedAt  time.Time `json:"exitedAt,omitzero"`
}

// sandbox is a pod's place in the shim.
type sandbox struct {
	s       *Server
	op      sync.Mutex // one operation at a time; taken before mu
	stopped chan struct{}

	mu  sync.Mutex
	rec sandboxRecord
}

// sandboxOf is the sandbox that a container's spec names.
func sandboxOf(spec *specs.Spec) string { return spec.Annotations[api.AnnotationSandboxID] }

func (s *Server) sandbox(id string) (*sandbox, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.sandboxes[id]
	if b == nil {
		return nil, fmt.Errorf("sandbox %q: %w", id, errdefs.ErrNotFound)
	}
	return b, nil
}

// createSandbox makes a sandbox, or finishes one that an earlier call left half-made.
func (s *Server) createSandbox(ctx context.Context, rec sandboxRecord, sysctls map[string]string) error {
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		return fmt.Errorf("create sandbox %s: the shim is ending: %w", rec.ID, errdefs.ErrUnavailable)
	}
	b := s.sandboxes[rec.ID]
	if b == nil {
		b = &sandbox{s: s, rec: rec, stopped: make(chan struct{})}
		s.sandboxes[rec.ID] = b
	}
	s.mu.Unlock()
	b.op.Lock()
	defer b.op.Unlock()
	if err := b.save(); err != nil {
		return err
	}
	if rec.HostIPC && rec.HostUTS {
		return nil
	}
	dir := b.nsDir()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("create sandbox %s: %w", rec.ID, err)
	}
	err := s.cfg.Engine.PinNamespaces(ctx, engine.PinOptions{
		Dir: dir, IPC: !rec.HostIPC, UTS: !rec.HostUTS, Hostname: rec.Hostname, Sysctls: sysctls,
	})
	if err == nil {
		err = failpoint.Here("shim/sandbox/pinned")
	}
	if err != nil {
		return errors.Join(fmt.Errorf("create sandbox %s: %w", rec.ID, err), b.remove())
	}
	return nil
}

func (b *sandbox) nsDir() string { return state.Namespaces(b.s.cfg.Dir, b.rec.ID) }

// nsPath is where one of the pod's own namespaces is bound.
func (b *sandbox) nsPath(kind string, host bool) string {
	if host {
		return ""
	}
	return filepath.Join(b.nsDir(), kind)
}

func (b *sandbox) setState(st string) (sandboxRecord, error) {
	b.op.Lock()
	defer b.op.Unlock()
	b.mu.Lock()
	if b.rec.State != sandboxStopped { // which is for good
		b.rec.State = st
		if st == sandboxStopped {
			b.rec.ExitedAt = time.Now()
			close(b.stopped)
		}
	}
	rec := b.rec
	b.mu.Unlock()
	return rec, b.save()
}

// stop kills what is left of the sandbox's containers and, if its cgroup is known, everything in that.
func (b *sandbox) stop(ctx context.Context) error {
	var errs []error
	for _, t := range b.s.tasks() {
		if t.snapshot().SandboxID != b.rec.ID {
			continue
		}
		if c, err := t.made(); err == nil {
			errs = append(errs, c.Kill(ctx))
		}
	}
	_, err := b.setState(sandboxStopped)
	return errors.Join(append(errs, err)...)
}

// shutdown removes the sandbox. Containers that are left are killed and forgotten.
func (b *sandbox) shutdown(ctx context.Context) error {
	if err := b.stop(ctx); err != nil {
		return err
	}
	for _, t := range b.s.tasks() {
		if t.snapshot().SandboxID != b.rec.ID {
			continue
		}
		if _, err := t.main.wait(ctx); err != nil {
			return err
		}
		if _, err := t.delete(ctx); err != nil && !errors.Is(err, errdefs.ErrNotFound) {
			return err
		}
	}
	b.op.Lock()
	defer b.op.Unlock()
	return b.remove()
}

// remove releases the namespaces and forgets the sandbox.
func (b *sandbox) remove() error {
	if err := b.s.cfg.Engine.UnpinNamespaces(b.nsDir()); err != nil {
		return fmt.Errorf("remove sandbox %s: %w", b.rec.ID, err)
	}
	if err := errors.Join(os.RemoveAll(b.s.path("pods", b.rec.ID)), remove(b.file())); err != nil {
		return fmt.Errorf("remove sandbox %s: %w", b.rec.ID, err)
	}
	b.s.mu.Lock()
	defer b.s.mu.Unlock()
	if b.s.sandboxes[b.rec.ID] == b {
		delete(b.s.sandboxes, b.rec.ID)
	}
	return nil
}

func (b *sandbox) snapshot() sandboxRecord {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.rec
}

func (b *sandbox) file() string { return b.s.path("sandboxes", b.rec.ID+".json") }

func (b *sandbox) save() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return state.Save(b.file(), b.rec)
}

// remove removes a file that may be gone already.
func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
