package ttrpc

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	taskv3 "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	theirs "github.com/containerd/ttrpc"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/11f9778f/berth/internal/shim/api/containerd"
	"github.com/11f9778f/berth/internal/shim/wire"
)

const serviceName = containerd.TaskService

// serve is a server whose Wait takes as long as its call's context, and whose State answers what it is asked.
func serve(t *testing.T) (path string, s *Server) {
	t.Helper()
	s = NewServer(nil)
	s.Register(serviceName,
		Unary("State", func(_ context.Context, r *containerd.StateRequest) (*containerd.StateResponse, error) {
			switch r.ID {
			case "bad":
				return nil, fmt.Errorf("task %s: %w", r.ID, errdefs.ErrNotFound)
			case "large":
				return &containerd.StateResponse{Bundle: strings.Repeat("x", MaxMessage)}, nil
			}
			return &containerd.StateResponse{ID: r.ID, Bundle: r.ExecID}, nil
		}),
		Unary("Wait", func(ctx context.Context, r *containerd.WaitRequest) (*containerd.WaitResponse, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}))
	path = filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(t.Context(), l) }()
	t.Cleanup(func() {
		s.Close()
		if err := <-done; !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	})
	return path, s
}

func dial(t *testing.T, path string) net.Conn {
	t.Helper()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func TestCalls(t *testing.T) {
	path, _ := serve(t)
	c := NewClient(dial(t, path))
	state := func(id string) error {
		var resp containerd.StateResponse
		err := c.Call(t.Context(), serviceName, "State", &containerd.StateRequest{ID: id, ExecID: "e"}, &resp)
		if err == nil && (resp.ID != id || resp.Bundle != "e") {
			t.Errorf("%+v", resp)
		}
		return err
	}
	var calls sync.WaitGroup
	for i := range 100 {
		calls.Go(func() {
			if err := state(strings.Repeat("x", i*50)); err != nil {
				t.Error(err)
			}
		})
	}
	calls.Wait()
	if err := state("bad"); !errors.Is(err, errdefs.ErrNotFound) || err.Error() != "task bad: not found" {
		t.Error(err)
	}
	if err := state("large"); !errors.Is(err, errdefs.ErrResourceExhausted) {
		t.Error(err)
	}
	if err := state(strings.Repeat("x", MaxMessage)); !errors.Is(err, errTooLong) {
		t.Error(err)
	}
	for _, m := range [][2]string{{serviceName, "None"}, {"none", "State"}} {
		if err := c.Call(t.Context(), m[0], m[1], &wire.Empty{}, &wire.Empty{}); !errors.Is(err, errdefs.ErrNotImplemented) {
			t.Error(m, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := c.Call(ctx, serviceName, "Wait", &wire.Empty{}, &wire.Empty{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	waits := make(chan error)
	go func() { waits <- c.Call(t.Context(), serviceName, "Wait", &wire.Empty{}, &wire.Empty{}) }()
	c.Close()
	if err := <-waits; !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if err := state("late"); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}

// containerd's client understands the server, with its errors, and its server the client.
func TestTheirs(t *testing.T) {
	path, _ := serve(t)
	client := theirs.NewClient(dial(t, path))
	defer client.Close()
	task := taskv3.NewTTRPCTaskClient(client)
	if r, err := task.State(t.Context(), &taskv3.StateRequest{ID: "a", ExecID: "b"}); err != nil || r.ID != "a" || r.Bundle != "b" {
		t.Errorf("%v, %v", r, err)
	}
	if _, err := task.State(t.Context(), &taskv3.StateRequest{ID: "bad"}); !errors.Is(errgrpc.ToNative(err), errdefs.ErrNotFound) {
		t.Error(err)
	}
	if _, err := task.Kill(t.Context(), &taskv3.KillRequest{}); !errors.Is(errgrpc.ToNative(err), errdefs.ErrNotImplemented) {
		t.Error(err)
	}

	srv, err := theirs.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Close()
	srv.RegisterService(serviceName, &theirs.ServiceDesc{Methods: map[string]theirs.Method{
		"State": func(_ context.Context, unmarshal func(any) error) (any, error) {
			var r taskv3.StateRequest
			if err := unmarshal(&r); err != nil {
				return nil, err
			}
			return &taskv3.StateResponse{ID: r.ID}, nil
		},
		"Kill": func(context.Context, func(any) error) (any, error) {
			return &emptypb.Empty{}, errgrpc.ToGRPC(fmt.Errorf("kill: %w", errdefs.ErrFailedPrecondition))
		},
	}})
	path = filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	go srv.Serve(t.Context(), l) // ends with Close
	ours := NewClient(dial(t, path))
	defer ours.Close()
	var resp containerd.StateResponse
	if err := ours.Call(t.Context(), serviceName, "State", &containerd.StateRequest{ID: "a"}, &resp); err != nil || resp.ID != "a" {
		t.Errorf("%+v, %v", resp, err)
	}
	if err := ours.Call(t.Context(), serviceName, "Kill", &wire.Empty{}, &wire.Empty{}); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Error(err)
	}
}

// Every code becomes the same error here and with containerd's translation.
func TestStatus(t *testing.T) {
	for _, c := range codes {
		err := fmt.Errorf("what: %w", c.class)
		if st := StatusOf(err); st.Code != c.code {
			t.Errorf("%v: %d, want %d", err, st.Code, c.code)
		}
		got := (&Status{c.code, err.Error()}).Err()
		if !errors.Is(got, c.class) && c.class != errdefs.ErrConflict && c.class != errdefs.ErrNotModified {
			t.Errorf("%v became %v", err, got)
		}
	}
	if (&Status{}).Err() != nil || (*Status)(nil).Err() != nil || StatusOf(errors.New("x")).Code != unknown {
		t.Error("no error, or one without a class")
	}
}

// What a client may not do is answered, and the connection stays.
func TestRefusals(t *testing.T) {
	path, _ := serve(t)
	conn := dial(t, path)
	r := bufio.NewReader(conn)
	call, err := frame(3, typeRequest, 0, &request{service: serviceName, method: "State"})
	if err != nil {
		t.Fatal(err)
	}
	head := func(length, stream uint32, kind byte) []byte {
		return append(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, length), stream), kind, 0)
	}
	for _, c := range []struct {
		name   string
		send   []byte
		stream uint32
		code   int32
	}{
		{"a call", call, 3, 0},
		{"the same stream again", call, 3, 3},
		{"an even stream", head(0, 8, typeRequest), 8, 3},
		{"data of no stream", head(0, 9, typeData), 9, 3},
		{"no request", append(head(1, 11, typeRequest), 0xff), 11, 3},
		{"too long", append(head(MaxMessage+1, 13, typeRequest), make([]byte, MaxMessage+1)...), 13, 8},
		{"no service", append(head(0, 15, typeRequest), head(0, 99, 7)...), 15, 12}, // and a type of message that there is not
	} {
		if _, err := conn.Write(c.send); err != nil {
			t.Fatal(c.name, err)
		}
		h, payload, err := readFrame(r, nil)
		var resp response
		if err != nil || h.stream != c.stream || h.kind != typeResponse || wire.Unmarshal(payload, &resp) != nil {
			t.Fatalf("%s: %+v, %v", c.name, h, err)
		}
		if got := resp.status; (got == nil) != (c.code == 0) || got != nil && got.Code != c.code {
			t.Errorf("%s: %+v", c.name, got)
		}
	}
}

// A connection has a bound of calls; who leaves ends his.
func TestManyCalls(t *testing.T) {
	path, s := serve(t)
	conn := dial(t, path)
	var all []byte
	for i := range maxCalls + 1 {
		b, err := frame(uint32(2*i+1), typeRequest, 0, &request{service: serviceName, method: "Wait"})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b...)
	}
	if _, err := conn.Write(all); err != nil {
		t.Fatal(err)
	}
	h, payload, err := readFrame(bufio.NewReader(conn), nil)
	var resp response
	if err != nil || h.stream != 2*maxCalls+1 || wire.Unmarshal(payload, &resp) != nil || resp.status == nil || resp.status.Code != 8 {
		t.Errorf("%+v, %+v, %v", h, resp.status, err)
	}
	conn.Close()
	for {
		s.mu.Lock()
		n := len(s.conns)
		s.mu.Unlock()
		if n == 0 {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// A peer that reads nothing holds up its caller for as long as he wants.
func TestDeafPeer(t *testing.T) {
	ours, deaf := net.Pipe()
	defer deaf.Close()
	c := NewClient(ours)
	for range 2 { // the second waits for the first's turn, or finds the connection closed
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		err := c.Call(ctx, serviceName, "State", &wire.Empty{}, &wire.Empty{})
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
	}
	c.Close()
}

// An answer that is too long fails its own call alone.
func TestLongAnswer(t *testing.T) {
	ours, peer := net.Pipe()
	defer peer.Close()
	c := NewClient(ours)
	defer c.Close()
	go func() {
		r := bufio.NewReader(peer)
		for _, n := range []int{MaxMessage + 1, 0} {
			h, _, err := readFrame(r, nil)
			if err != nil {
				return
			}
			b := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, uint32(n)), h.stream)
			peer.Write(append(b, append([]byte{typeResponse, 0}, make([]byte, n)...)...))
		}
	}()
	if err := c.Call(t.Context(), serviceName, "State", &wire.Empty{}, &wire.Empty{}); !errors.Is(err, errdefs.ErrResourceExhausted) {
		t.Error(err)
	}
	if err := c.Call(t.Context(), serviceName, "State", &wire.Empty{}, &wire.Empty{}); err != nil {
		t.Error(err)
	}
}

func FuzzFrames(f *testing.F) {
	call, err := frame(1, typeRequest, 0, &request{service: serviceName, method: "State", timeoutNano: 5})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(call)
	f.Add([]byte{0, 0, 0, 1, 0, 0, 0, 1, 1, 0, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bufio.NewReader(bytes.NewReader(b))
		for {
			h, payload, err := readFrame(r, make([]byte, 64))
			if err != nil && !errors.Is(err, errTooLong) {
				return
			}
			_ = h.check(0)
			_ = wire.Unmarshal(payload, &request{})
			_ = wire.Unmarshal(payload, &response{})
		}
	})
}
