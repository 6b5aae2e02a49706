package client

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	taskv3 "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/fifo"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/11f9778f/berth/internal/shim/api/pb"
	"github.com/11f9778f/berth/internal/sys"
)

const (
	// lastOutput is how long the end of an exec waits for output that others than its process hold back.
	lastOutput = 2 * time.Second
	// patience is how long after that a caller may take for what it was already given.
	patience = 5 * time.Second
	// maxOutput is what ExecSync keeps of each stream at most.
	maxOutput = 16 << 20
	// processType is how containerd calls a process of the runtime specification.
	processType = "types.containerd.io/opencontainers/runtime-spec/1/Process"
)

// foreignExec is a process that a foreign shim runs by containerd's own calls, over FIFOs of ours.
type foreignExec struct {
	s       *Shim
	id, own string // the container's, and its own
	dir     string
	streams Streams
	readers []*os.File
	holds   []*os.File         // so that readers see no end before the shim has come
	stdin   io.ReadWriteCloser // writes wait until the shim reads
	copies  sync.WaitGroup
}

// execForeign runs a process and returns when it has ended; when ctx ends first it is killed, and the error is ctx's.
func (s *Shim) execForeign(ctx context.Context, id, execID string, p *specs.Process, streams Streams) (*pb.Exit, error) {
	spec, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(s.g.dir, "exec-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	e := &foreignExec{s: s, id: id, own: execID, dir: dir, streams: streams}
	defer e.close()
	req := &taskv3.ExecProcessRequest{ID: id, ExecID: execID, Terminal: p.Terminal, Spec: &anypb.Any{TypeUrl: processType, Value: spec}}
	if err := e.openStreams(req); err != nil {
		return nil, err
	}
	defer e.forget()
	if _, err := s.Task().Exec(ctx, req); err != nil {
		return nil, err
	}
	if _, err := s.Task().Start(ctx, &taskv3.StartRequest{ID: id, ExecID: execID}); err != nil {
		if ctx.Err() != nil { // the answer came too late, and the process may have begun
			e.kill()
		}
		return nil, err
	}
	over := make(chan struct{})
	defer close(over)
	e.feed(over)
	r, err := s.Task().Wait(ctx, &taskv3.WaitRequest{ID: id, ExecID: execID})
	if err != nil {
		e.kill()
		return nil, errors.Join(ctx.Err(), err)
	}
	return &pb.Exit{Code: r.ExitStatus, At: r.ExitedAt}, nil
}

// openStreams makes the FIFOs and begins to read.
func (e *foreignExec) openStreams(req *taskv3.ExecProcessRequest) error {
	outputs := []struct {
		path *string
		to   io.Writer
		name string
	}{{&req.Stdout, e.streams.Stdout, "stdout"}, {&req.Stderr, e.streams.Stderr, "stderr"}}
	for _, o := range outputs {
		if o.to == nil || o.name == "stderr" && req.Terminal {
			continue
		}
		*o.path = filepath.Join(e.dir, o.name)
		if err := sys.MakeFIFO(*o.path, 0o600, 0, 0); err != nil {
			return err
		}
		r, err := sys.OpenFIFO(*o.path, syscall.O_RDONLY|syscall.O_NONBLOCK)
		if err != nil {
			return err
		}
		e.readers = append(e.readers, r)
		w, err := sys.OpenFIFO(*o.path, syscall.O_RDWR)
		if err != nil {
			return err
		}
		e.holds = append(e.holds, w)
		e.copies.Go(func() {
			if _, err := io.Copy(o.to, onlyReader{r}); err != nil {
				io.Copy(io.Discard, onlyReader{r}) // a process must not hang on a client that is gone
			}
		})
	}
	if e.streams.Stdin == nil {
		return nil
	}
	req.Stdin = filepath.Join(e.dir, "stdin")
	if err := sys.MakeFIFO(req.Stdin, 0o600, 0, 0); err != nil {
		return err
	}
	// Not open for both: what is written, and the end of it, would be lost on a shim that opens its side a moment later.
	var err error
	e.stdin, err = fifo.OpenFifo(context.Background(), req.Stdin, syscall.O_WRONLY|syscall.O_NONBLOCK, 0)
	return err
}

// onlyReader hides what makes io.Copy use a system call that FIFOs need not know.
type onlyReader struct{ io.Reader }

// feed carries the caller's input and terminal sizes to the process, which has been started.
func (e *foreignExec) feed(over <-chan struct{}) {
	if e.stdin != nil {
		in := e.stdin
		go func() { // ends with the caller's input, or with the next of it once the process is gone
			io.Copy(in, onlyReader{e.streams.Stdin})
			in.Write(nil) // an input without a byte waits for its reader, too
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			e.s.Task().CloseIO(ctx, &taskv3.CloseIORequest{ID: e.id, ExecID: e.own, Stdin: true})
			in.Close()
		}()
	}
	if e.streams.Resize != nil {
		go func() {
			for {
				select {
				case z, ok := <-e.streams.Resize:
					if !ok {
						return
					}
					e.s.Task().ResizePty(context.Background(), &taskv3.ResizePtyRequest{
						ID: e.id, ExecID: e.own, Width: uint32(z.Width), Height: uint32(z.Height),
					})
				case <-over:
					return
				}
			}
		}()
	}
}

// kill ends a process that nobody waits for any more.
func (e *foreignExec) kill() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if _, err := e.s.Task().Kill(ctx, &taskv3.KillRequest{ID: e.id, ExecID: e.own, Signal: uint32(syscall.SIGKILL)}); err == nil {
		e.s.Task().Wait(ctx, &taskv3.WaitRequest{ID: e.id, ExecID: e.own})
	}
}

// forget takes what output is left, and has the shim forget the process.
func (e *foreignExec) forget() {
	if e.finish() {
		e.delete()
	} else {
		e.s.g.m.wg.Go(e.delete) // the shim waits for what we do not
	}
}

// finish waits until all output has come, and tells whether it has: what else holds it open is not waited for, and a caller
// who takes nothing only for a while. A write to the caller that is under way then ends when he leaves.
func (e *foreignExec) finish() bool {
	for _, w := range e.holds {
		w.Close()
	}
	e.holds = nil
	ended := make(chan struct{})
	go func() { e.copies.Wait(); close(ended) }()
	select {
	case <-ended:
		return true
	case <-time.After(lastOutput):
	}
	for _, r := range e.readers {
		r.SetReadDeadline(time.Now())
	}
	select {
	case <-ended:
	case <-time.After(patience):
	}
	return false
}

func (e *foreignExec) delete() {
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	e.s.Task().Delete(ctx, &taskv3.DeleteRequest{ID: e.id, ExecID: e.own}) // with the container, at the latest
}

func (e *foreignExec) close() {
	for _, f := range append(e.readers, e.holds...) {
		f.Close()
	}
	if e.stdin != nil {
		e.stdin.Close()
	}
}

// execSyncForeign is ExecSync over execForeign.
func (s *Shim) execSyncForeign(ctx context.Context, id string, p *specs.Process, timeout time.Duration, limit int64) (*pb.ExecSyncResponse, error) {
	if limit <= 0 || limit > maxOutput {
		limit = maxOutput
	}
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	out, errs := &kept{limit: limit}, &kept{limit: limit}
	exit, err := s.execForeign(ctx, id, "sync-"+newGroupID(), p, Streams{Stdout: out, Stderr: errs})
	r := &pb.ExecSyncResponse{Stdout: out.b, Stderr: errs.b, Truncated: out.cut || errs.cut, Exit: exit}
	if err != nil && timeout > 0 && errors.Is(err, context.DeadlineExceeded) {
		r.TimedOut, r.Exit = true, &pb.Exit{Code: 128 + uint32(syscall.SIGKILL), Signal: uint32(syscall.SIGKILL)}
		return r, nil
	}
	if err != nil {
		return nil, err
	}
	return r, nil
}

// kept is the beginning of an output.
type kept struct {
	b     []byte
	limit int64
	cut   bool
}

func (k *kept) Write(p []byte) (int, error) {
	room := k.limit - int64(len(k.b))
	k.cut = k.cut || int64(len(p)) > room
	k.b = append(k.b, p[:min(int64(len(p)), room)]...)
	return len(p), nil
}
