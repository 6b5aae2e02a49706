package client

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/opencontainers/runtime-spec/specs-go"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/11f9778f/berth/internal/shim/api"
	"github.com/11f9778f/berth/internal/shim/api/pb"
)

// Size is a terminal's size in characters.
type Size struct{ Width, Height uint16 }

// Streams are the caller's ends of an Exec or Attach; nil means that the stream is not wanted.
type Streams struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Resize delivers sizes of the caller's terminal.
	Resize <-chan Size
}

// ExecSync runs a process in a container and returns its output and exit. timeout 0 means none, limit 0
// the most that is possible (16 MiB a stream).
func (s *Shim) ExecSync(ctx context.Context, id string, p *specs.Process, timeout time.Duration, limit int64) (*pb.ExecSyncResponse, error) {
	if s.g.rec.Foreign {
		return s.execSyncForeign(ctx, id, p, timeout, limit)
	}
	spec, err := json.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("exec in container %s: %w", id, err)
	}
	most := 24 * time.Hour // without a timeout the process decides; only no call is for ever
	if timeout > 0 {
		most = timeout + s.g.m.cfg.CallTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	r, err := s.Berth().ExecSync(ctx, &pb.ExecSyncRequest{Id: id, Process: spec, TimeoutNs: int64(timeout), Limit: limit})
	if err != nil {
		return nil, err
	}
	if r.StdoutFile == "" && r.StderrFile == "" {
		return r, nil
	}
	if r.Stdout, err = fetch(r.StdoutFile); err != nil {
		return nil, err
	}
	r.Stderr, err = fetch(r.StderrFile)
	return r, err
}

// fetch reads and removes a file that the shim has left.
func fetch(path string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("fetch output: %w", err)
	}
	if err := os.Remove(path); err != nil {
		return nil, fmt.Errorf("fetch output: %w", err)
	}
	return b, nil
}

// Exec runs a process in a container with the caller's streams, and returns when it has ended. When ctx
// ends first, the process is killed.
func (s *Shim) Exec(ctx context.Context, id, execID string, p *specs.Process, streams Streams) (*pb.Exit, error) {
	if s.g.rec.Foreign {
		return s.execForeign(ctx, id, execID, p, streams)
	}
	p = sized(ctx, p, streams.Resize)
	spec, err := json.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("exec in container %s: %w", id, err)
	}
	r, err := s.Berth().Exec(ctx, &pb.ExecRequest{
		Id: id, ExecId: execID, Process: spec, Stdin: streams.Stdin != nil, Stdout: streams.Stdout != nil, Stderr: streams.Stderr != nil,
	})
	if err != nil {
		return nil, err
	}
	exit, err := stream(ctx, r, streams)
	if err != nil {
		return nil, fmt.Errorf("exec in container %s: %w", id, err)
	}
	return exit, nil
}

// sizePatience is how long a process with a terminal waits for the terminal's size.
const sizePatience = 100 * time.Millisecond

// sized is p with the size that its terminal is to have, if that comes soon: clients send it beside their request, and a
// program that looks at its terminal first thing should see it.
func sized(ctx context.Context, p *specs.Process, sizes <-chan Size) *specs.Process {
	if !p.Terminal || sizes == nil {
		return p
	}
	late := time.NewTimer(sizePatience)
	defer late.Stop()
	select {
	case s, ok := <-sizes:
		if ok {
			q := *p
			q.ConsoleSize = &specs.Box{Width: uint(s.Width), Height: uint(s.Height)}
			return &q
		}
	case <-late.C:
	case <-ctx.Done():
	}
	return p
}

// Attach connects the caller's streams to the container's main process, until that ends (the exit is
// returned) or ctx does.
func (s *Shim) Attach(ctx context.Context, id string, streams Streams) (*pb.Exit, error) {
	if s.g.rec.Foreign {
		return nil, fmt.Errorf("attach to container %s: the shim is not Berth's own: %w", id, errdefs.ErrNotImplemented)
	}
	r, err := s.Berth().Attach(ctx, &pb.AttachRequest{
		Id: id, Stdin: streams.Stdin != nil, Stdout: streams.Stdout != nil, Stderr: streams.Stderr != nil,
	})
	if err != nil {
		return nil, err
	}
	exit, err := stream(ctx, r, streams)
	if err != nil {
		return nil, fmt.Errorf("attach to container %s: %w", id, err)
	}
	return exit, nil
}

// stream carries data between the caller and the shim's stream socket until the process has ended. A caller's Stdin
// that does not end keeps its own goroutine until its next Read returns.
func stream(ctx context.Context, r *pb.StreamResponse, streams Streams) (*pb.Exit, error) {
	conn, err := net.DialTimeout("unix", r.Address, 5*time.Second)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if _, err := conn.Write([]byte(r.Token + "\n")); err != nil {
		return nil, err
	}
	var mu sync.Mutex // of frames to the shim
	send := func(kind byte, p []byte) error {
		mu.Lock()
		defer mu.Unlock()
		return api.WriteFrame(conn, kind, p)
	}
	over := make(chan struct{})
	defer close(over)
	if streams.Stdin != nil {
		go sendInput(streams.Stdin, send)
	}
	if streams.Resize != nil {
		go sendSizes(streams.Resize, send, over)
	}
	exit, err := receive(conn, streams)
	if err != nil && ctx.Err() != nil {
		err = ctx.Err()
	}
	return exit, err
}

func sendInput(in io.Reader, send func(byte, []byte) error) {
	buf := make([]byte, 32<<10)
	for {
		n, err := in.Read(buf)
		if n > 0 && send(api.FrameStdin, buf[:n]) != nil {
			return
		}
		if err != nil {
			send(api.FrameStdinEnd, nil)
			return
		}
	}
}

func sendSizes(sizes <-chan Size, send func(byte, []byte) error, over <-chan struct{}) {
	for {
		select {
		case size, ok := <-sizes:
			if !ok {
				return
			}
			b := binary.BigEndian.AppendUint16(nil, size.Width)
			if send(api.FrameResize, binary.BigEndian.AppendUint16(b, size.Height)) != nil {
				return
			}
		case <-over:
			return
		}
	}
}

// receive hands out what comes from the shim until the end.
func receive(conn net.Conn, streams Streams) (*pb.Exit, error) {
	buf := make([]byte, api.MaxFrame)
	for {
		kind, p, err := api.ReadFrame(conn, buf)
		if err != nil {
			return nil, fmt.Errorf("the stream from the shim broke off: %w: %w", err, errdefs.ErrUnavailable)
		}
		switch kind {
		case api.FrameStdout, api.FrameStderr:
			w := streams.Stdout
			if kind == api.FrameStderr {
				w = streams.Stderr
			}
			if w == nil {
				continue
			}
			if _, err := w.Write(p); err != nil {
				return nil, err
			}
		case api.FrameExit:
			var exit pb.Exit
			if err := proto.Unmarshal(p, &exit); err != nil {
				return nil, err
			}
			return &exit, nil
		case api.FrameError:
			var st spb.Status
			if err := proto.Unmarshal(p, &st); err != nil {
				return nil, err
			}
			return nil, errgrpc.ToNative(status.ErrorProto(&st))
		default:
			return nil, api.ErrFrame
		}
	}
}
