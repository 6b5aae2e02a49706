package machine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"syscall"
	"time"

	sandboxv1 "github.com/containerd/containerd/api/runtime/sandbox/v1"
	taskv3 "github.com/containerd/containerd/api/runtime/task/v3"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/11f9778f/berth/internal/runtime"
	"github.com/11f9778f/berth/internal/shim/api/pb"
	"github.com/11f9778f/berth/internal/trace"
)

// foreign is runtime.Shim on another project's shim, which knows containerd's calls alone. Beside it a shim of Berth's own
// keeps what no daemon should: the pod's namespaces, the containers' FIFOs and logs, and how containers ended. So a
// daemon that dies holds up no container's output and loses none.
type foreign struct {
	shim        // the foreign one: calls that are the same for both
	own  shim   // Berth's own
	s    *shims // is told whose containers are whose
}

// endTimeout bounds how long the end of a container waits for its output.
const endTimeout = 15 * time.Second

// CreateSandbox pins the pod's namespaces, and boots the sandbox of a shim that has such a thing. For one that has none,
// a container stands for it.
func (f *foreign) CreateSandbox(ctx context.Context, r runtime.ShimSandbox) (runtime.SandboxPlace, error) {
	place, err := f.own.CreateSandbox(ctx, r)
	if err != nil {
		return place, err
	}
	_, err = f.c.Sandbox().CreateSandbox(ctx, &sandboxv1.CreateSandboxRequest{
		SandboxID: r.ID, BundlePath: r.Bundle, NetnsPath: r.NetNS, Annotations: r.Annotations,
	})
	if err = native(err); errdefs.IsNotImplemented(err) {
		place.Container = true
		return place, nil
	}
	if err != nil {
		return place, fmt.Errorf("create sandbox in shim: %w", err)
	}
	if _, err := f.c.Sandbox().StartSandbox(ctx, &sandboxv1.StartSandboxRequest{SandboxID: r.ID}); err != nil {
		return place, fmt.Errorf("start sandbox in shim: %w", native(err))
	}
	return place, nil
}

// RemoveSandbox ends it in both shims.
func (f *foreign) RemoveSandbox(ctx context.Context, id string) error {
	err := f.shim.RemoveSandbox(ctx, id)
	if errdefs.IsNotImplemented(err) || f.c.IsGone() {
		err = nil
	}
	return errors.Join(err, f.own.RemoveSandbox(ctx, id))
}

// RunTask makes the FIFOs, then the container with them, and lets its program begin.
func (f *foreign) RunTask(ctx context.Context, t runtime.Task) (int, error) {
	req, err := taskRequest(t, &pb.CreateOptions{SandboxId: t.Sandbox, StdinOnce: t.StdinOnce, Foreign: true})
	if err != nil {
		return 0, err
	}
	rootfs := req.Rootfs
	req.Rootfs, req.Terminal = nil, false // the terminal is the other's, and its master copied to the FIFO
	if _, err := f.own.c.Task().Create(ctx, req); err != nil {
		return 0, native(err)
	}
	f.s.foreigners.Store(t.ID, f)
	fifo := func(uri, name string) string {
		if uri == "" {
			return ""
		}
		return filepath.Join(t.Bundle, name)
	}
	_, err = f.c.Task().Create(ctx, &taskv3.CreateTaskRequest{
		ID: t.ID, Bundle: t.Bundle, Rootfs: rootfs, Terminal: t.Terminal, Options: f.c.Options(),
		Stdin: fifo(req.Stdin, "stdin"), Stdout: fifo(req.Stdout, "stdout"), Stderr: fifo(req.Stderr, "stderr"),
	})
	if err != nil {
		return 0, native(err)
	}
	return f.start(ctx, t.ID)
}

// DeleteTask kills what is left and has both shims forget the container. What a shim that is gone has left its binary
// clears away.
func (f *foreign) DeleteTask(ctx context.Context, id string) error {
	bundle := ""
	if list, err := f.kept(ctx, func(c *pb.Container) bool { return c.Id == id }); err == nil && len(list) > 0 {
		bundle = list[0].Bundle
	}
	err := f.deleteForeign(ctx, id)
	if err != nil && f.c.IsGone() {
		err = nil
		if bundle != "" {
			err = f.c.Discard(ctx, id, bundle)
		}
	}
	if err != nil {
		return err
	}
	if err := f.own.DeleteTask(ctx, id); err != nil {
		return err
	}
	f.s.foreigners.Delete(id)
	return nil
}

func (f *foreign) deleteForeign(ctx context.Context, id string) error {
	st, err := f.c.Task().State(ctx, &taskv3.StateRequest{ID: id})
	if err = native(err); err != nil {
		return ignoreNotFound(err)
	}
	if st.Status != tasktypes.Status_STOPPED {
		if err := f.KillTask(ctx, id, int(syscall.SIGKILL)); err != nil {
			return err
		}
		if _, err := f.c.Task().Wait(ctx, &taskv3.WaitRequest{ID: id}); err != nil && !errdefs.IsNotFound(native(err)) {
			return native(err)
		}
	}
	_, err = f.c.Task().Delete(ctx, &taskv3.DeleteRequest{ID: id})
	return ignoreNotFound(native(err))
}

// kept lists what our own shim keeps for the foreign one.
func (f *foreign) kept(ctx context.Context, wanted func(*pb.Container) bool) ([]*pb.Container, error) {
	resp, err := f.own.c.Berth().List(ctx, &pb.ListRequest{})
	if err != nil {
		return nil, native(err)
	}
	var out []*pb.Container
	for _, c := range resp.Containers {
		if wanted(c) {
			out = append(out, c)
		}
	}
	return out, nil
}

// Tasks lists the sandbox's containers: those that our own shim knows, as the foreign one sees them. One of which that
// knows nothing any more is left out, unless its end was told before.
func (f *foreign) Tasks(ctx context.Context, sandboxID string) ([]runtime.TaskState, error) {
	list, err := f.kept(ctx, func(c *pb.Container) bool { return c.SandboxId == sandboxID })
	if err != nil {
		return nil, err
	}
	var out []runtime.TaskState
	for _, c := range list {
		f.s.foreigners.Store(c.Id, f)
		if c.Exit != nil {
			out = append(out, runtime.TaskState{ID: c.Id, Exit: exitOf(c.Exit)})
			continue
		}
		st, err := f.c.Task().State(ctx, &taskv3.StateRequest{ID: c.Id})
		if err = native(err); errdefs.IsNotFound(err) || err != nil && f.c.IsGone() {
			continue
		}
		if err != nil {
			return nil, err
		}
		state := runtime.TaskState{
			ID: c.Id, Pid: int(st.Pid), Created: st.Status == tasktypes.Status_CREATED,
			Running: st.Status != tasktypes.Status_CREATED && st.Status != tasktypes.Status_STOPPED,
		}
		state.Paused = st.Status == tasktypes.Status_PAUSED
		if st.Status == tasktypes.Status_STOPPED {
			state.Exit = f.ended(ctx, c.Id, &pb.Exit{Code: st.ExitStatus, At: st.ExitedAt})
		}
		out = append(out, state)
	}
	return out, nil
}

// ended tells our own shim how a container did, which returns when its output is in the log.
func (f *foreign) ended(ctx context.Context, id string, x *pb.Exit) runtime.Exit {
	if x.At == nil {
		x.At = timestamppb.Now()
	}
	ctx, cancel := context.WithTimeout(ctx, endTimeout)
	defer cancel()
	if _, err := f.own.c.Berth().End(ctx, &pb.EndRequest{Id: id, Exit: x}); err != nil {
		return runtime.Exit{Code: int(x.Code), At: x.At.AsTime(), Reason: "the last of its output may be missing: " + err.Error()}
	}
	return exitOf(x)
}

// ReopenLog and Attach are our own shim's.
func (f *foreign) ReopenLog(ctx context.Context, id string) error { return f.own.ReopenLog(ctx, id) }

func (f *foreign) Attach(ctx context.Context, id string, st runtime.Streams) error {
	if st.In != nil && st.InOnce {
		st.In = &endingInput{in: st.In, end: func() { f.endInput(id) }}
	}
	sizes := st.Resize
	st.Resize = nil
	if sizes != nil {
		over := make(chan struct{})
		defer close(over)
		go f.resize(id, sizes, over)
	}
	return f.own.Attach(ctx, id, st)
}

// CheckpointTask would have to know how the shim's runtime calls CRIU.
func (f *foreign) CheckpointTask(context.Context, string, string, string) error {
	return fmt.Errorf("checkpoint: the container's shim is not Berth's own: %w", errdefs.ErrNotImplemented)
}

// TaskTrace has nothing to tell.
func (f *foreign) TaskTrace(context.Context, string) ([]trace.Span, error) { return nil, nil }

// endInput lets the process see the end of an input that was asked for once, which closing the FIFO does not: the foreign
// shim holds it open.
func (f *foreign) endInput(id string) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	f.c.Task().CloseIO(ctx, &taskv3.CloseIORequest{ID: id, Stdin: true})
}

func (f *foreign) resize(id string, sizes <-chan runtime.TerminalSize, over <-chan struct{}) {
	for {
		select {
		case z, ok := <-sizes:
			if !ok {
				return
			}
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			f.c.Task().ResizePty(ctx, &taskv3.ResizePtyRequest{ID: id, Width: uint32(z.Width), Height: uint32(z.Height)}) // a size too late is no matter
			cancel()
		case <-over:
			return
		}
	}
}

// endingInput calls end when in has ended.
type endingInput struct {
	in  io.Reader
	end func()
}

func (e *endingInput) Read(p []byte) (int, error) {
	n, err := e.in.Read(p)
	if err != nil {
		e.end()
	}
	return n, err
}
