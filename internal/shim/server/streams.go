package server

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/11f9778f/berth/internal/engine"
	"github.com/11f9778f/berth/internal/shim/api"
	"github.com/11f9778f/berth/internal/sys"
)

// tokenLife is how long a token of the stream socket waits for its client.
const tokenLife = 30 * time.Second

// streamHub connects clients of the stream socket with what their tokens stand for.
type streamHub struct {
	address string

	mu      sync.Mutex
	waiting map[string]func(net.Conn)
	coming  int
}

func newStreamHub(address string) *streamHub {
	return &streamHub{address: address, waiting: map[string]func(net.Conn){}}
}

// offer returns a token for serve, which owns the connection that it is called with.
func (h *streamHub) offer(serve func(net.Conn)) *api.StreamResponse {
	token := rand.Text()
	h.mu.Lock()
	h.waiting[token] = serve
	h.mu.Unlock()
	time.AfterFunc(tokenLife, func() {
		if h.take(token) != nil {
			h.arrived() // nobody came
		}
	})
	return &api.StreamResponse{Address: h.address, Token: token}
}

// expected counts the clients whose tokens wait, and those that have come and are not yet what they came for.
func (h *streamHub) expected() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.waiting) + h.coming
}

// arrived tells that a client is what it came for.
func (h *streamHub) arrived() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.coming--
}

func (h *streamHub) take(token string) func(net.Conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	serve := h.waiting[token]
	delete(h.waiting, token)
	if serve != nil {
		h.coming++
	}
	return serve
}

func (h *streamHub) serve(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go h.handle(conn)
	}
}

func (h *streamHub) handle(conn net.Conn) {
	conn.SetReadDeadline(time.Now().Add(tokenLife))
	var token []byte
	one := make([]byte, 1) // the first frame may be right behind the newline
	for len(token) < 64 {
		if _, err := io.ReadFull(conn, one); err != nil {
			conn.Close()
			return
		}
		if one[0] == '\n' {
			break
		}
		token = append(token, one[0])
	}
	serve := h.take(string(token))
	if serve == nil {
		conn.Close()
		return
	}
	conn.SetReadDeadline(time.Time{})
	serve(conn)
}

// attach serves one client of a main process.
func (t *task) attach(conn net.Conn, req *api.AttachRequest) {
	c := newClient(conn, req)
	added := t.main.stdio.hub.add(c)
	t.s.streams.arrived()
	if !added {
		defer conn.Close()
		c.fail(fmt.Errorf("attach to container %s: it is being deleted: %w", t.rec.ID, errdefs.ErrFailedPrecondition))
		return
	}
	t.serveClient(c)
}

// serveClient serves a client that is in the hub, until it leaves or the process ends.
func (t *task) serveClient(c *client) {
	p, conn := t.main, c.conn
	defer conn.Close()
	defer p.stdio.hub.remove(c)
	input, err := p.attachInput(c.stdin)
	if err != nil {
		c.fail(err)
		return
	}
	left := make(chan struct{})
	go func() {
		defer close(left)
		var w io.Writer
		if input != nil {
			w = input
		}
		endInput := func() {
			if input == nil {
				return
			}
			input.Close()
			if t.rec.Stdio.StdinOnce {
				p.closeInput()
			}
		}
		c.receive(w, endInput, p.resize)
		endInput()
	}()
	select {
	case <-p.done:
		c.exit(p.status)
	case <-left:
	}
	conn.Close()
	if input != nil {
		input.Close() // ends a write that the process does not read
	}
	<-left
}

// attachInput opens the input of a main process for one client.
func (p *process) attachInput(want bool) (*os.File, error) {
	if !want {
		return nil, nil
	}
	p.stdio.mu.Lock()
	defer p.stdio.mu.Unlock()
	if p.stdio.console != nil {
		return sys.Dup(p.stdio.console)
	}
	if p.stdio.input == nil || p.t.rec.Stdio.Stdin != api.SchemeAttach {
		return nil, fmt.Errorf("container %s has no input to attach to (its stdin is closed or was not asked for): %w",
			p.t.rec.ID, errdefs.ErrFailedPrecondition)
	}
	return sys.OpenFIFO(p.fifo("stdin"), syscall.O_WRONLY|syscall.O_NONBLOCK)
}

// execStream serves one client by a process of its own.
func (t *task) execStream(conn net.Conn, req *api.ExecRequest, spec *specs.Process) {
	defer conn.Close()
	t.s.gate.join()
	defer t.s.gate.leave()
	t.s.streams.arrived()
	c := newClient(conn, &api.AttachRequest{Stdin: req.Stdin, Stdout: req.Stdout, Stderr: req.Stderr})
	st, err := t.runStream(c, req, spec)
	if err != nil {
		c.fail(fmt.Errorf("exec %s: %w", req.ExecId, err))
		return
	}
	c.exit(st)
}

func (t *task) runStream(c *client, req *api.ExecRequest, spec *specs.Process) (engine.ExitStatus, error) {
	ctr, err := t.live()
	if err != nil {
		return engine.ExitStatus{}, err
	}
	pipes, err := newPipes(spec, req.Stdin, req.Stdout, req.Stderr)
	if err != nil {
		return engine.ExitStatus{}, err
	}
	defer pipes.close()
	proc, err := ctr.Exec(context.Background(), engine.ExecOptions{ID: req.ExecId, Process: spec, Stdio: pipes.stdio()})
	pipes.closeTheirs()
	if err != nil {
		return engine.ExitStatus{}, err
	}
	defer release(proc)
	if err := pipes.useTerminal(proc.Console(), req.Stdin); err != nil {
		proc.Signal(syscall.SIGKILL)
		return engine.ExitStatus{}, err
	}
	return pipes.pump(c, proc)
}

// pump carries data between the client and the process, until that ends; a client that leaves ends it.
func (q *pipes) pump(c *client, proc Process) (engine.ExitStatus, error) {
	over := make(chan struct{})
	go func() {
		var w io.Writer
		if q.in != nil {
			w = q.in
		}
		c.receive(w, q.endInput, q.resize)
		select {
		case <-over:
		default: // the client left
			proc.Signal(syscall.SIGHUP)
			proc.Signal(syscall.SIGKILL)
		}
	}()
	var readers sync.WaitGroup
	for kind, r := range map[byte]*os.File{frameStdout: q.out, frameStderr: q.err} {
		if r != nil {
			readers.Go(func() { drainTo(r, func(b []byte) error { return c.send(kind, b) }) })
		}
	}
	st, err := proc.Wait(context.Background())
	q.processEnded()
	readers.Wait()
	close(over)
	return st, err
}

// drainTo reads until the end of r, or, once its deadline has passed, until nothing is in it.
func drainTo(r *os.File, take func([]byte) error) {
	buf := make([]byte, 32<<10)
	lost := false
	give := func(b []byte) {
		if !lost && len(b) > 0 && take(b) != nil {
			lost = true // go on reading: a process must not hang on a client that is gone
		}
	}
	for {
		n, err := r.Read(buf)
		give(buf[:n])
		if err == nil {
			continue
		}
		if !os.IsTimeout(err) {
			return
		}
		break
	}
	conn, err := r.SyscallConn()
	if err != nil {
		return
	}
	// Bounded: another process may go on writing.
	for range 64 {
		n := 0
		conn.Control(func(fd uintptr) { n, err = sys.ReadFD(fd, buf) })
		if err != nil || n == 0 {
			return
		}
		give(buf[:n])
	}
}

// pipes are the stdio of a process whose data goes through this shim's hands.
type pipes struct {
	in, out, err *os.File // ours
	theirs       ends
	console      *os.File // the process's, borrowed
	once         sync.Once
}

func newPipes(spec *specs.Process, in, out, err bool) (*pipes, error) {
	q := &pipes{}
	if spec.Terminal {
		return q, nil
	}
	uid, gid := int(spec.User.UID), int(spec.User.GID)
	var e error
	if in {
		// os.Pipe: our end, which writes, must not block; the other must.
		if q.theirs.in, q.in, e = os.Pipe(); e != nil {
			return nil, e
		}
	}
	if out {
		if q.out, q.theirs.out, e = sys.Pipe(uid, gid); e != nil {
			q.close()
			return nil, e
		}
	}
	if err {
		if q.err, q.theirs.err, e = sys.Pipe(uid, gid); e != nil {
			q.close()
			return nil, e
		}
	}
	return q, nil
}

func (q *pipes) stdio() engine.Stdio {
	if q.theirs.in != nil {
		q.theirs.in.Fd() // makes this end blocking, as a program expects
	}
	return q.theirs.files()
}

func (q *pipes) closeTheirs() {
	q.theirs.close()
	q.theirs = ends{}
}

// useTerminal takes the terminal's master for input and output.
func (q *pipes) useTerminal(console *os.File, in bool) (err error) {
	if console == nil {
		return nil
	}
	q.console = console
	if q.out, err = sys.Dup(console); err == nil && in {
		q.in, err = sys.Dup(console)
	}
	return err
}

func (q *pipes) endInput() {
	q.once.Do(func() {
		if q.in != nil && q.console == nil {
			q.in.Close()
		}
	})
}

func (q *pipes) resize(width, height uint16) error {
	if q.console == nil {
		return nil
	}
	return sys.SetWindowSize(q.console, width, height)
}

// processEnded makes the readers take what is there and no more.
func (q *pipes) processEnded() {
	for _, r := range []*os.File{q.out, q.err} {
		if r != nil {
			r.SetReadDeadline(time.Now())
		}
	}
	if q.in != nil {
		q.in.SetWriteDeadline(time.Now())
	}
}

func (q *pipes) close() {
	for _, f := range []*os.File{q.in, q.out, q.err} {
		if f != nil {
			f.Close()
		}
	}
	q.closeTheirs()
}
