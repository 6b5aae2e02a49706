package server

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/11f9778f/berth/internal/sys"
)

// lastOutput is how long Delete waits for output that others than the ended process still hold back, or that nobody
// reads. Then it is cut off.
const lastOutput = 2 * time.Second

// portion bounds one step of a relay.
const portion = 32 << 10

var portions = sync.Pool{New: func() any { return new([portion]byte) }}

// outlet is where relays carry output to: the FIFO or file of a stock containerd. It is closed when its last relay ends,
// so that a reader sees the end before anybody asks for it; a FIFO not before its reader has come.
type outlet struct {
	f       *os.File
	fifo    bool
	relays  atomic.Int32
	once    sync.Once
	givenUp chan struct{}
}

// openOutlet opens the FIFO at path for writing, or the file for appending. A FIFO is held open for reading too: nobody gets
// an error while its reader, containerd, is being restarted.
func openOutlet(uri string) (*outlet, error) {
	path, isFile := strings.CutPrefix(uri, schemeFile)
	path = strings.TrimPrefix(path, schemeFIFO)
	if isFile {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return nil, fmt.Errorf("open output %s: %w", uri, err)
		}
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|syscall.O_NOFOLLOW, 0o644)
		if err != nil {
			return nil, fmt.Errorf("open output %s: %w", uri, err)
		}
		return newOutlet(f, false), nil
	}
	fifo, err := sys.IsFIFO(path)
	if err != nil {
		return nil, fmt.Errorf("open output: %w", err)
	}
	var f *os.File
	if fifo {
		f, err = sys.OpenFIFO(path, syscall.O_RDWR|syscall.O_NONBLOCK)
	} else {
		f, err = os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	}
	if err != nil {
		return nil, fmt.Errorf("open output: %w", err)
	}
	return newOutlet(f, fifo), nil
}

func newOutlet(f *os.File, fifo bool) *outlet {
	return &outlet{f: f, fifo: fifo, givenUp: make(chan struct{})}
}

func (s *outlet) release() {
	switch {
	case s.relays.Add(-1) > 0:
	case s.fifo:
		sys.HandOverFIFO(s.f, s.givenUp)
	default:
		s.f.Close()
	}
}

// giveUp no longer waits for one who reads.
func (s *outlet) giveUp() { s.once.Do(func() { close(s.givenUp) }) }

// relay carries a process's output into an outlet. While it waits it has no buffer.
type relay struct {
	src  *os.File
	to   *outlet
	done chan struct{} // nil before run
}

func newRelay(src *os.File, to *outlet) *relay {
	to.relays.Add(1)
	return &relay{src: src, to: to}
}

// run carries until the end of src, or until the outlet takes no more, in a goroutine of its own.
func (r *relay) run() {
	r.done = make(chan struct{})
	go func() {
		defer close(r.done)
		defer r.to.release()
		defer r.src.Close()
		for r.step() == nil {
		}
	}()
}

// step waits for something to carry, and carries it.
func (r *relay) step() error {
	conn, err := r.src.SyscallConn()
	if err != nil {
		return err
	}
	var b *[portion]byte
	n := 0
	rerr := conn.Read(func(fd uintptr) bool {
		b = portions.Get().(*[portion]byte)
		if n, err = sys.ReadFD(fd, b[:]); errors.Is(err, syscall.EAGAIN) {
			portions.Put(b)
			b = nil
			return false
		}
		return true
	})
	if b != nil {
		defer portions.Put(b)
	}
	switch {
	case rerr != nil:
		return rerr
	case err != nil:
		return err // EIO of a terminal: its last user is gone
	case n == 0:
		return io.EOF
	}
	_, err = r.to.f.Write(b[:n])
	return err
}

// finish ends the relay: when all is carried or, at the latest, when the time has come. What is held back then is lost.
func (r *relay) finish(deadline time.Time) {
	if r.done == nil {
		r.src.Close()
		r.to.giveUp()
		r.to.release()
		return
	}
	select {
	case <-r.done:
		return
	case <-time.After(time.Until(deadline)):
	}
	r.src.SetReadDeadline(time.Now())
	r.to.f.SetWriteDeadline(time.Now())
	r.to.giveUp()
	select {
	case <-r.done:
	case <-time.After(time.Second): // a file on a filesystem that hangs: nothing can interrupt that
	}
}
