package client

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	sandboxv1 "github.com/containerd/containerd/api/runtime/sandbox/v1"
	taskv3 "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/status"

	"github.com/11f9778f/berth/internal/engine"
	"github.com/11f9778f/berth/internal/shim/api/pb"
	"github.com/11f9778f/berth/internal/shim/state"
)

func statusError(resp *ttrpc.Response) error { return status.ErrorProto(resp.Status) }

// hello tells the shim that we listen.
func (s *Shim) hello(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	s.starts.Store(false) // until it says so
	r, err := s.greet(ctx, s.Berth())
	if errors.Is(err, context.DeadlineExceeded) {
		return nil // it is stuck, and known to be; it will hear when it wakes
	}
	if err != nil {
		return fmt.Errorf("greet shim: %w", err)
	}
	if r.Group != s.g.id {
		return fmt.Errorf("greet shim: it keeps group %q, not %q", r.Group, s.g.id)
	}
	return nil
}

// greet says Hello, and learns what the shim can do.
func (s *Shim) greet(ctx context.Context, shim pb.ShimService) (*pb.HelloResponse, error) {
	r, err := shim.Hello(ctx, &pb.HelloRequest{EventsAddress: s.g.m.events.address})
	if err != nil {
		return nil, err
	}
	s.starts.Store(r.Starts)
	return r, nil
}

// reportEnded reports the containers that have ended: events that a dead shim had not sent are lost with it.
func (s *Shim) reportEnded(ctx context.Context) error {
	list, err := s.Berth().List(ctx, &pb.ListRequest{})
	if err != nil {
		return fmt.Errorf("list containers of shim %s: %w", s.g.id, err)
	}
	for _, c := range list.Containers {
		if c.Status == pb.Status_STATUS_STOPPED {
			s.g.m.out.put(Event{
				Kind: EventExit, Time: time.Now(), Group: s.g.id, ContainerID: c.Id, Pid: int(c.Pid), Exit: c.Exit,
			})
		}
	}
	return nil
}

// retire makes nobody wait for a successor.
func (s *Shim) retire() {
	s.g.mu.Lock()
	defer s.g.mu.Unlock()
	s.g.ending = true
}

// release removes the sandbox from the shim. A shim that is gone keeps nothing.
func (s *Shim) release(ctx context.Context, sandboxID string) error {
	_, err := s.Sandbox().ShutdownSandbox(ctx, &sandboxv1.ShutdownSandboxRequest{SandboxID: sandboxID})
	if err != nil && (s.isGone() || errors.Is(err, errdefs.ErrNotImplemented) || errors.Is(err, errdefs.ErrNotFound)) {
		return nil
	}
	if err != nil && s.g.rec.Foreign && errors.Is(err, errdefs.ErrUnavailable) {
		return nil // the call itself ended the shim
	}
	return err
}

// shutdown ends the shim. Nobody is assigned to it, so what it may still keep belongs to nobody.
func (s *Shim) shutdown(ctx context.Context) error {
	if !s.g.rec.Foreign {
		list, err := s.Berth().List(ctx, &pb.ListRequest{})
		if err != nil {
			return fmt.Errorf("shut down shim: %w", err)
		}
		for _, b := range list.Sandboxes {
			if _, err := s.Sandbox().ShutdownSandbox(ctx, &sandboxv1.ShutdownSandboxRequest{SandboxID: b.Id}); err != nil {
				return fmt.Errorf("shut down shim: %w", err)
			}
		}
		for _, c := range list.Containers {
			s.Task().Kill(ctx, &taskv3.KillRequest{ID: c.Id, Signal: uint32(syscall.SIGKILL), All: true})
			s.Task().Wait(ctx, &taskv3.WaitRequest{ID: c.Id})
			if _, err := s.Task().Delete(ctx, &taskv3.DeleteRequest{ID: c.Id}); err != nil && !errors.Is(err, errdefs.ErrNotFound) {
				return fmt.Errorf("shut down shim: %w", err)
			}
		}
	}
	_, err := s.Task().Shutdown(ctx, &taskv3.ShutdownRequest{ID: s.g.id, Now: s.g.rec.Foreign})
	if errors.Is(err, errdefs.ErrUnavailable) { // it was faster than its answer
		return nil
	}
	return err
}

// discard removes from the kernel what a dead shim may have left in its directory.
func (g *group) discard(context.Context) error {
	pods, err := os.ReadDir(filepath.Join(g.dir, "pods"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove namespaces of shim %s: %w", g.id, err)
	}
	var errs []error
	for _, p := range pods {
		errs = append(errs, engine.UnpinNamespaces(state.Namespaces(g.dir, p.Name())))
	}
	return errors.Join(errs...)
}
