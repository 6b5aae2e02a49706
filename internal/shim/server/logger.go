package server

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"

	"github.com/11f9778f/berth/internal/shim/crilog"
	"github.com/11f9778f/berth/internal/sys"
)

const (
	// loggerReady is how long a logging program may take until it is ready.
	loggerReady = 10 * time.Second
	// loggerEnds is how long it may take to log what is left after the process's end, and again after SIGTERM.
	loggerEnds = 10 * time.Second
)

// logger is a program that a binary:// URI names. It reads a process's output from its descriptors 3 and 4, tells by
// descriptor 5 that it is ready, and ends when both have ended. Containerd calls this a shim logging plugin
// (core/runtime/v2/README.md, Logging).
type logger struct {
	cmd      *exec.Cmd
	out, err *os.File // what the process writes to, until it has them
	ended    chan struct{}
}

// startLogger starts the program: the URI's path, with its query as arguments.
func startLogger(uri, id, namespace string, uid, gid int) (*logger, error) {
	u, err := url.Parse(uri)
	if err != nil {
		return nil, fmt.Errorf("logging program: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	l := &logger{cmd: exec.Command(u.Path, loggerArgs(u)...), ended: make(chan struct{})}
	l.cmd.Env = append(os.Environ(), "CONTAINER_ID="+id, "CONTAINER_NAMESPACE="+namespace)
	l.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	var theirs [3]*os.File
	defer func() {
		for _, f := range theirs {
			if f != nil {
				f.Close()
			}
		}
		if err != nil {
			l.closePipes()
		}
	}()
	if theirs[0], l.out, err = blockingPipe(uid, gid); err != nil {
		return nil, err
	}
	if theirs[1], l.err, err = blockingPipe(uid, gid); err != nil {
		return nil, err
	}
	var ready *os.File
	if ready, theirs[2], err = os.Pipe(); err != nil {
		return nil, err
	}
	defer ready.Close()
	theirs[2].Fd() // blocking, as programs expect
	l.cmd.ExtraFiles = theirs[:]
	if err = sys.Punctual(l.cmd.Start); err != nil {
		return nil, fmt.Errorf("start logging program: %w", err)
	}
	go func() { defer close(l.ended); l.cmd.Wait() }()
	theirs[2].Close()
	theirs[2] = nil
	if err = awaitLogger(ready, u.Scheme+"://" == schemeBinary2); err != nil {
		l.cmd.Process.Kill()
		return nil, fmt.Errorf("logging program %s: %w", u.Path, err)
	}
	return l, nil
}

// blockingPipe makes a pipe between two programs, whose writing end belongs to the user.
func blockingPipe(uid, gid int) (r, w *os.File, err error) {
	if r, w, err = os.Pipe(); err != nil {
		return nil, nil, fmt.Errorf("make pipe: %w", err)
	}
	r.Fd() // makes it blocking
	w.Fd()
	if uid == 0 && gid == 0 {
		return r, w, nil
	}
	if err := w.Chown(uid, gid); err != nil {
		closeAll(r, w)
		return nil, nil, fmt.Errorf("make pipe: %w", err)
	}
	return r, w, nil
}

func loggerArgs(u *url.URL) (args []string) {
	query := u.Query()
	for _, pair := range strings.FieldsFunc(u.RawQuery, func(r rune) bool { return r == '&' }) { // in the order of the URI
		key, _, _ := strings.Cut(pair, "=")
		if key, err := url.QueryUnescape(key); err == nil && !slices.Contains(args, key) {
			args = append(args, key)
			if v := query.Get(key); v != "" {
				args = append(args, v)
			}
		}
	}
	return args
}

// awaitLogger waits for a byte, or (in the older protocol) the end, of the program's descriptor 5.
func awaitLogger(ready *os.File, byteNeeded bool) error {
	ready.SetReadDeadline(time.Now().Add(loggerReady))
	n, err := ready.Read(make([]byte, 1))
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("it does not get ready: %w", err)
	}
	if byteNeeded && n == 0 {
		return errors.New("it ended, or closed descriptor 5, before it was ready")
	}
	return nil
}

// take returns the descriptor that the process writes the stream to.
func (l *logger) take(name string) (f *os.File) {
	if name == crilog.Stdout {
		f, l.out = l.out, nil
	} else {
		f, l.err = l.err, nil
	}
	return f
}

func (l *logger) closePipes() {
	for _, f := range []*os.File{l.out, l.err} {
		if f != nil {
			f.Close()
		}
	}
	l.out, l.err = nil, nil
}

// close lets the program see the end, waits a little, and leaves one that is slow to a goroutine that ends it.
func (l *logger) close() {
	l.closePipes()
	select {
	case <-l.ended:
		return
	case <-time.After(lastOutput):
	}
	go func() {
		for _, sig := range []syscall.Signal{0, syscall.SIGTERM, syscall.SIGKILL} {
			l.cmd.Process.Signal(sig)
			select {
			case <-l.ended:
				return
			case <-time.After(loggerEnds):
			}
		}
	}()
}
