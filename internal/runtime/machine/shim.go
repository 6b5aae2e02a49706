package machine

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	sandboxv1 "github.com/containerd/containerd/api/runtime/sandbox/v1"
	taskv3 "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/11f9778f/berth/internal/runtime"
	"github.com/11f9778f/berth/internal/shim/api"
	"github.com/11f9778f/berth/internal/shim/api/pb"
	"github.com/11f9778f/berth/internal/shim/client"
	"github.com/11f9778f/berth/internal/trace"
)

// shim is runtime.Shim on one of Berth's own shims.
type shim struct{ c *client.Shim }

// native turns a ttrpc status into an errdefs error, and leaves alone what is none.
func native(err error) error {
	if _, ok := status.FromError(err); err == nil || !ok {
		return err
	}
	return errgrpc.ToNative(err)
}

func anyOf(m proto.Message) (*anypb.Any, error) {
	a, err := anypb.New(m)
	if err != nil {
		return nil, fmt.Errorf("encode options: %w", err)
	}
	return a, nil
}

// CreateSandbox has the shim pin the pod's namespaces and returns their paths.
func (s *shim) CreateSandbox(ctx context.Context, r runtime.ShimSandbox) (place runtime.SandboxPlace, err error) {
	opts, err := anyOf(&pb.SandboxOptions{
		Hostname: r.Hostname, Sysctls: r.Sysctls, HostIpc: !r.IPC, HostUts: !r.UTS, CgroupParent: r.Cgroup,
	})
	if err != nil {
		return place, err
	}
	_, err = s.c.Sandbox().CreateSandbox(ctx, &sandboxv1.CreateSandboxRequest{
		SandboxID: r.ID, BundlePath: r.Bundle, NetnsPath: r.NetNS, Options: opts, Annotations: r.Annotations,
	})
	if err != nil {
		return place, fmt.Errorf("create sandbox in shim: %w", native(err))
	}
	if r.IPC {
		place.IPC = s.c.Namespace(r.ID, "ipc")
	}
	if r.UTS {
		place.UTS = s.c.Namespace(r.ID, "uts")
	}
	return place, nil
}

// RemoveSandbox has the shim end what is left in the sandbox and forget it.
func (s *shim) RemoveSandbox(ctx context.Context, id string) error {
	_, err := s.c.Sandbox().ShutdownSandbox(ctx, &sandboxv1.ShutdownSandboxRequest{SandboxID: id})
	if err = native(err); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("remove sandbox in shim: %w", err)
	}
	return nil
}

// RunTask makes a container and lets its program begin.
func (s *shim) RunTask(ctx context.Context, t runtime.Task) (int, error) {
	atOnce := s.c.StartsAtOnce()
	req, err := taskRequest(t, &pb.CreateOptions{SandboxId: t.Sandbox, StdinOnce: t.StdinOnce, Criu: t.CRIU, Start: atOnce})
	if err != nil {
		return 0, err
	}
	resp, err := s.c.Task().Create(ctx, req)
	if err != nil {
		return 0, native(err)
	}
	if atOnce {
		return int(resp.Pid), nil
	}
	return s.start(ctx, t.ID)
}

// taskRequest is the request for a container of Berth's own shim.
func taskRequest(t runtime.Task, o *pb.CreateOptions) (*taskv3.CreateTaskRequest, error) {
	opts, err := anyOf(o)
	if err != nil {
		return nil, err
	}
	req := &taskv3.CreateTaskRequest{ID: t.ID, Bundle: t.Bundle, Terminal: t.Terminal, Checkpoint: t.Checkpoint, Options: opts}
	for _, m := range t.Rootfs {
		req.Rootfs = append(req.Rootfs, &types.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options})
	}
	log := t.LogPath
	if log == "" {
		log = os.DevNull // nobody keeps the output, and a client may still attach to it
	}
	req.Stdout = api.SchemeCRILog + log
	if !t.Terminal {
		req.Stderr = req.Stdout
	}
	if t.Stdin {
		req.Stdin = api.SchemeAttach
	}
	return req, nil
}

// start lets a container's program begin.
func (s *shim) start(ctx context.Context, id string) (int, error) {
	resp, err := s.c.Task().Start(ctx, &taskv3.StartRequest{ID: id})
	if err != nil {
		return 0, native(err)
	}
	return int(resp.Pid), nil
}

// KillTask signals the container's init.
func (s *shim) KillTask(ctx context.Context, id string, signal int) error {
	_, err := s.c.Task().Kill(ctx, &taskv3.KillRequest{ID: id, Signal: uint32(signal)})
	if err = native(err); errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// DeleteTask kills what is left and has the shim forget the container.
func (s *shim) DeleteTask(ctx context.Context, id string) error {
	_, err := s.c.Task().Delete(ctx, &taskv3.DeleteRequest{ID: id})
	if err = native(err); errdefs.IsFailedPrecondition(err) { // it runs
		if err := s.KillTask(ctx, id, 9); err != nil {
			return err
		}
		if _, err := s.c.Task().Wait(ctx, &taskv3.WaitRequest{ID: id}); err != nil && !errdefs.IsNotFound(native(err)) {
			return native(err)
		}
		_, err = s.c.Task().Delete(ctx, &taskv3.DeleteRequest{ID: id})
		err = native(err)
		return ignoreNotFound(err)
	}
	return ignoreNotFound(err)
}

func ignoreNotFound(err error) error {
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// UpdateTask changes limits.
func (s *shim) UpdateTask(ctx context.Context, id string, r *specs.LinuxResources) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	_, err = s.c.Task().Update(ctx, &taskv3.UpdateTaskRequest{ID: id, Resources: &anypb.Any{
		TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources", Value: b,
	}})
	return native(err)
}

// PauseTask freezes a container.
func (s *shim) PauseTask(ctx context.Context, id string) error {
	_, err := s.c.Task().Pause(ctx, &taskv3.PauseRequest{ID: id})
	return native(err)
}

// ResumeTask lets it run again.
func (s *shim) ResumeTask(ctx context.Context, id string) error {
	_, err := s.c.Task().Resume(ctx, &taskv3.ResumeRequest{ID: id})
	return native(err)
}

// CheckpointTask has the shim run CRIU.
func (s *shim) CheckpointTask(ctx context.Context, id, dir, criu string) error {
	opts, err := anyOf(&pb.CheckpointOptions{Criu: criu})
	if err != nil {
		return err
	}
	_, err = s.c.Task().Checkpoint(ctx, &taskv3.CheckpointTaskRequest{ID: id, Path: dir, Options: opts})
	return native(err)
}

// Restores tells whether it is Berth's own.
func (s *shim) Restores() bool { return s.c.Berth() != nil }

// Tasks lists the sandbox's containers.
func (s *shim) Tasks(ctx context.Context, sandboxID string) ([]runtime.TaskState, error) {
	resp, err := s.c.Berth().List(ctx, &pb.ListRequest{SandboxIds: []string{sandboxID}})
	if err != nil {
		return nil, native(err)
	}
	var out []runtime.TaskState
	for _, c := range resp.Containers {
		if c.SandboxId != sandboxID {
			continue
		}
		out = append(out, runtime.TaskState{
			ID: c.Id, Pid: int(c.Pid), Exit: exitOf(c.Exit), Paused: c.Status == pb.Status_STATUS_PAUSED,
			Created: c.Status == pb.Status_STATUS_CREATED,
			Running: c.Status == pb.Status_STATUS_RUNNING || c.Status == pb.Status_STATUS_PAUSED,
		})
	}
	return out, nil
}

// TaskTrace returns the shim's spans of a start.
func (s *shim) TaskTrace(ctx context.Context, id string) ([]trace.Span, error) {
	resp, err := s.c.Berth().Trace(ctx, &pb.TraceRequest{Id: id})
	if err != nil {
		return nil, native(err)
	}
	var out []trace.Span
	for _, sp := range resp.Spans {
		out = append(out, trace.Span{Name: sp.Name, Start: time.Unix(0, sp.StartNs), Duration: time.Duration(sp.DurationNs)})
	}
	return out, nil
}

// ReopenLog has the log written to a new file.
func (s *shim) ReopenLog(ctx context.Context, id string) error {
	_, err := s.c.Berth().ReopenLog(ctx, &pb.ReopenLogRequest{Id: id})
	return native(err)
}

// ExecSync runs a process and collects its output.
func (s *shim) ExecSync(ctx context.Context, r runtime.ExecSyncRequest) (runtime.ExecResult, error) {
	resp, err := s.c.ExecSync(ctx, r.ContainerID, r.Process, r.Timeout, r.Limit)
	if err != nil {
		return runtime.ExecResult{}, native(err)
	}
	return runtime.ExecResult{
		Stdout: resp.Stdout, Stderr: resp.Stderr, ExitCode: int(resp.GetExit().GetCode()), TimedOut: resp.TimedOut,
	}, nil
}

// Exec runs a process with a client's streams.
func (s *shim) Exec(ctx context.Context, id, execID string, p *specs.Process, st runtime.Streams) (int, error) {
	streams, stop := streamsOf(st)
	defer stop()
	x, err := s.c.Exec(ctx, id, execID, p, streams)
	if err != nil {
		return 0, native(err)
	}
	return int(x.GetCode()), nil
}

// Attach connects a client with the container's init.
func (s *shim) Attach(ctx context.Context, id string, st runtime.Streams) error {
	streams, stop := streamsOf(st)
	defer stop()
	_, err := s.c.Attach(ctx, id, streams)
	return native(err)
}

// streamsOf carries terminal sizes over until stop is called.
func streamsOf(s runtime.Streams) (_ client.Streams, stop func()) {
	out := client.Streams{Stdin: s.In, Stdout: s.Out, Stderr: s.Err}
	if s.Resize == nil {
		return out, func() {}
	}
	sizes, done := make(chan client.Size), make(chan struct{})
	out.Resize = sizes
	go func() {
		defer close(sizes)
		for {
			select {
			case z, ok := <-s.Resize:
				if !ok {
					return
				}
				select {
				case sizes <- client.Size{Width: z.Width, Height: z.Height}:
				case <-done:
					return
				}
			case <-done:
				return
			}
		}
	}()
	return out, func() { close(done) }
}

func exitOf(x *pb.Exit) runtime.Exit {
	if x == nil {
		return runtime.Exit{}
	}
	return runtime.Exit{
		Code: int(x.Code), At: timeOf(x.At), Unknown: x.Unknown, Reason: cmp.Or(x.Reason, oomReason(x.OomVictims)), OOMKilled: x.OomKilled,
	}
}

// oomReason says whom the OOM killer has ended.
func oomReason(victims []string) string {
	if len(victims) == 0 {
		return ""
	}
	return "the kernel's OOM killer ended " + strings.Join(victims, ", ")
}

func timeOf(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}
