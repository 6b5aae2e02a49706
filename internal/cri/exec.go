package cri

import (
	"context"
	"fmt"
	"io"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	utilexec "k8s.io/utils/exec"

	"github.com/11f9778f/berth/internal/cri/streaming"
	"github.com/11f9778f/berth/internal/runtime"
)

// ExecSync runs a command and returns its output, at most 16 MiB of both streams together.
func (s *Server) ExecSync(ctx context.Context, req *runtimeapi.ExecSyncRequest) (*runtimeapi.ExecSyncResponse, error) {
	id, err := s.containerID(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	res, err := s.rt.ExecSync(ctx, id, req.GetCmd(), seconds(req.GetTimeout()))
	if err != nil {
		return nil, asStatus(err)
	}
	if res.TimedOut {
		return nil, status.Errorf(codes.DeadlineExceeded, "command %q timed out after %d s and was killed", req.GetCmd(), req.GetTimeout())
	}
	resp := &runtimeapi.ExecSyncResponse{ExitCode: int32(res.ExitCode)}
	resp.Stdout, resp.Stderr = fit(res.Stdout, res.Stderr)
	return resp, nil
}

// fit cuts output down to what clients take: a kubelet and crictl refuse a message of more than 16 MiB. If
// both are long, each gets a half.
func fit(stdout, stderr []byte) (_, _ []byte) {
	const most = 16<<20 - 1<<10
	if len(stdout)+len(stderr) <= most {
		return stdout, stderr
	}
	out, errs := min(len(stdout), most), min(len(stderr), most)
	out, errs = min(out, max(most/2, most-errs)), min(errs, max(most/2, most-out))
	return stdout[:out], stderr[:min(errs, most-out)]
}

// Exec answers where a command can be run with streams.
func (s *Server) Exec(_ context.Context, req *runtimeapi.ExecRequest) (*runtimeapi.ExecResponse, error) {
	id, err := s.runningID(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	if len(req.GetCmd()) == 0 {
		return nil, badRequest("cmd is missing")
	}
	return s.streams.Exec(&runtimeapi.ExecRequest{
		ContainerId: id, Cmd: req.GetCmd(), Tty: req.GetTty(),
		Stdin: req.GetStdin(), Stdout: req.GetStdout(), Stderr: req.GetStderr(),
	})
}

// Attach answers where a container's own streams are.
func (s *Server) Attach(_ context.Context, req *runtimeapi.AttachRequest) (*runtimeapi.AttachResponse, error) {
	id, err := s.runningID(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	return s.streams.Attach(&runtimeapi.AttachRequest{
		ContainerId: id, Tty: req.GetTty(), Stdin: req.GetStdin(), Stdout: req.GetStdout(), Stderr: req.GetStderr(),
	})
}

// PortForward answers where the sandbox's ports can be reached.
func (s *Server) PortForward(_ context.Context, req *runtimeapi.PortForwardRequest) (*runtimeapi.PortForwardResponse, error) {
	id, err := s.sandboxID(req.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	sb, err := s.rt.Sandbox(id)
	if err != nil {
		return nil, asStatus(err)
	}
	if sb.State != runtime.SandboxReady {
		return nil, status.Errorf(codes.FailedPrecondition, "pod sandbox %s is %s, not ready", id, sb.State)
	}
	return s.streams.PortForward(&runtimeapi.PortForwardRequest{PodSandboxId: id, Port: req.GetPort()})
}

func (s *Server) runningID(short string) (string, error) {
	id, err := s.containerID(short)
	if err != nil {
		return "", err
	}
	c, err := s.rt.Container(id)
	if err != nil {
		return "", asStatus(err)
	}
	if c.State != runtime.ContainerRunning {
		return "", status.Errorf(codes.FailedPrecondition, "container %s is %s, not running", id, c.State)
	}
	return id, nil
}

// streamRuntime is what the streaming server calls once a client has come with its token.
type streamRuntime struct{ s *Server }

// Exec runs a command. An exit code other than 0 is an error of the kind that clients understand.
func (r streamRuntime) Exec(ctx context.Context, id string, cmd []string, st streaming.Streams) error {
	streams, stop := streamsOf(st)
	defer stop()
	code, err := r.s.rt.Exec(ctx, id, cmd, streams)
	if err != nil {
		return err
	}
	if code != 0 {
		return utilexec.CodeExitError{Err: fmt.Errorf("command exited with code %d", code), Code: code}
	}
	return nil
}

// Attach connects with the container's own process.
func (r streamRuntime) Attach(ctx context.Context, id string, st streaming.Streams) error {
	streams, stop := streamsOf(st)
	defer stop()
	return r.s.rt.Attach(ctx, id, streams)
}

// PortForward connects with a port in the sandbox.
func (r streamRuntime) PortForward(ctx context.Context, sandbox string, port int32, stream io.ReadWriteCloser) error {
	return r.s.rt.PortForward(ctx, sandbox, port, stream)
}

// streamsOf translates, until stop is called.
func streamsOf(st streaming.Streams) (_ runtime.Streams, stop func()) {
	s := runtime.Streams{In: st.In, Out: st.Out, Err: st.Err, TTY: st.TTY}
	if st.Resize == nil {
		return s, func() {}
	}
	sizes, done := make(chan runtime.TerminalSize), make(chan struct{})
	s.Resize = sizes
	go func() {
		defer close(sizes)
		for {
			select {
			case z, ok := <-st.Resize:
				if !ok {
					return
				}
				select {
				case sizes <- runtime.TerminalSize{Width: z.Width, Height: z.Height}:
				case <-done:
					return
				}
			case <-done:
				return
			}
		}
	}()
	return s, func() { close(done) }
}
