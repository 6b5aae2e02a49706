package client

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	taskv3 "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/ttrpc"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/emptypb"
)

// lateShim is a foreign shim whose processes copy their input to their output, and which opens the input some time after it
// has answered that the process runs, as those of containerd may.
type lateShim struct {
	taskv3.TTRPCTaskService
	exec    *taskv3.ExecProcessRequest
	ended   chan error
	deleted chan struct{} // closed by Delete, if there is one
}

func (l *lateShim) Exec(_ context.Context, r *taskv3.ExecProcessRequest) (*emptypb.Empty, error) {
	l.exec = r
	return &emptypb.Empty{}, nil
}

func (l *lateShim) Start(context.Context, *taskv3.StartRequest) (*taskv3.StartResponse, error) {
	out, err := os.OpenFile(l.exec.Stdout, os.O_WRONLY, 0)
	if err != nil {
		return nil, err
	}
	go func() {
		defer out.Close()
		time.Sleep(200 * time.Millisecond)
		in, err := os.Open(l.exec.Stdin)
		if err == nil {
			_, err = io.Copy(out, in)
			in.Close()
		}
		l.ended <- err
	}()
	return &taskv3.StartResponse{Pid: 1}, nil
}

func (l *lateShim) CloseIO(context.Context, *taskv3.CloseIORequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, nil
}

func (l *lateShim) Wait(ctx context.Context, _ *taskv3.WaitRequest) (*taskv3.WaitResponse, error) {
	select {
	case err := <-l.ended:
		return &taskv3.WaitResponse{}, err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *lateShim) Kill(context.Context, *taskv3.KillRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, nil
}

func (l *lateShim) Delete(context.Context, *taskv3.DeleteRequest) (*taskv3.DeleteResponse, error) {
	if l.deleted != nil {
		close(l.deleted)
	}
	return &taskv3.DeleteResponse{}, nil
}

func (l *lateShim) Connect(context.Context, *taskv3.ConnectRequest) (*taskv3.ConnectResponse, error) {
	return &taskv3.ConnectResponse{}, nil
}

// foreignAt connects to a foreign shim that a test plays.
func foreignAt(t *testing.T, service taskv3.TTRPCTaskService) *Shim {
	t.Helper()
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	server, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	taskv3.RegisterTTRPCTaskService(server, service)
	served := make(chan error, 1)
	go func() { served <- server.Serve(context.Background(), l) }()
	t.Cleanup(func() { server.Close(); <-served })
	g := &group{id: "late", dir: dir, m: &Manager{cfg: Config{CallTimeout: 10 * time.Second}}}
	g.rec.Foreign, g.rec.Address = true, "unix://"+l.Addr().String()
	c, _, err := g.dial(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	s := newShim(g)
	s.connected(c)
	t.Cleanup(s.close)
	return s
}

// What a caller gives at once, and the end of it, reaches a process whose shim opens the input late.
func TestForeignShimOpensInputLate(t *testing.T) {
	for _, in := range []string{"hello", "", strings.Repeat("more than a FIFO holds ", 10000)} {
		s := foreignAt(t, &lateShim{ended: make(chan error, 1)})
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		var out bytes.Buffer
		_, err := s.Exec(ctx, "c", "e", &specs.Process{}, Streams{Stdin: strings.NewReader(in), Stdout: &out})
		cancel()
		if err != nil || out.String() != in {
			t.Errorf("%.10q: %.10q, %v", in, out.String(), err)
		}
	}
}

// stuckClient neither takes what it is given nor leaves, until it is closed.
type stuckClient chan struct{}

func (c stuckClient) Write([]byte) (int, error) {
	<-c
	return 0, io.ErrClosedPipe
}

// A client that does not read is not waited for for ever: the end of the process is told, and the process is deleted.
func TestForeignExecOfAClientThatDoesNotRead(t *testing.T) {
	t.Parallel() // it waits for some seconds
	late := &lateShim{ended: make(chan error, 1), deleted: make(chan struct{})}
	s := foreignAt(t, late)
	client := make(stuckClient)
	defer close(client)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if _, err := s.Exec(ctx, "c", "e", &specs.Process{}, Streams{Stdin: strings.NewReader("hello"), Stdout: client}); err != nil {
		t.Error(err)
	}
	select {
	case <-late.deleted:
	case <-ctx.Done():
		t.Error("the process is not deleted")
	}
}
