package crilog

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/11f9778f/berth/internal/sys"
)

// Names of streams, as they stand in the log.
const (
	Stdout = "stdout"
	Stderr = "stderr"
)

// encodeLimit bounds the records of one append (lines may be empty, so records can be many times as long as
// what they are made of).
const encodeLimit = 256 << 10

// Source says what a stream reads.
type Source struct {
	// Name is Stdout or Stderr.
	Name string
	// File is the reading end of a FIFO, or a terminal's master, non-blocking. The stream owns it.
	File *os.File
	// Terminal tells that File is a terminal's master.
	Terminal bool
	// Spool is the path of the stream's spool. What a killed writer left there is logged first.
	Spool string
	// Tap, if set, is given all bytes once they are logged or wait as an unfinished line. It must return soon
	// and not keep them.
	Tap func(p []byte)
}

// Stream carries one source into a log.
type Stream struct {
	log  *Log
	src  Source
	conn syscall.RawConn
	done chan struct{}
	once sync.Once // closes done

	mu     sync.Mutex // one step at a time
	polled *sys.Polled
	spool  *spool // nil until the first byte, and after the spool failed
	rest   []byte // without a spool: the unfinished line
	bare   bool   // the spool failed: bytes go through memory, and may be lost with this process
	ended  bool
}

// scratch are the buffers of a step; streams that wait hold none.
type scratch struct{ raw, enc []byte }

var scratches = sync.Pool{New: func() any { return new(scratch) }}

// Follow makes a stream into the log. What the spool holds from a killed writer is settled at once, so all streams
// of a log must be made before the first one is started.
func (l *Log) Follow(src Source) (*Stream, error) {
	conn, err := src.File.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("follow %s: %w", src.Name, err)
	}
	s := &Stream{log: l, src: src, conn: conn, done: make(chan struct{})}
	if _, err := os.Lstat(src.Spool); err == nil {
		if s.spool, err = openSpool(src.Spool, l); err != nil {
			s.bare = true
		}
	}
	return s, nil
}

// Start carries bytes, whenever there are some, until the source ends or the stream is closed. It is called once, and does
// not wait.
func (s *Stream) Start(p *sys.Poller) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flush(0, false)
	var err error
	if s.polled, err = p.Add(s.src.File, s.carry); err != nil {
		return fmt.Errorf("follow %s: %w", s.src.Name, err)
	}
	return nil
}

// carry carries what the source holds, and reports whether more can come.
func (s *Stream) carry() bool {
	for {
		err := s.locked()
		if errors.Is(err, syscall.EAGAIN) {
			return true
		}
		if err != nil { // closed, or the end
			s.finish()
			return false
		}
	}
}

// locked is one step.
func (s *Stream) locked() (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if cerr := s.conn.Control(func(fd uintptr) { err = s.step(fd) }); cerr != nil {
		return cerr
	}
	return err
}

// Drain carries what the source holds at this moment. It does not wait; after the end it does nothing.
func (s *Stream) Drain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conn.Control(func(fd uintptr) {
		// Bounded, for another process may go on writing: a FIFO holds 1 MiB at most.
		for i := 0; i < 64 && !s.ended && s.step(fd) == nil; i++ {
		}
	})
}

// Close ends the stream after a last Drain, and removes the spool.
func (s *Stream) Close() {
	s.Drain()
	s.mu.Lock()
	polled := s.polled
	s.mu.Unlock()
	if polled != nil {
		polled.Stop()
	}
	s.src.File.Close()
	s.finish()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.spool != nil {
		s.spool.f.Close()
		s.spool = nil
	}
	s.bare = true
	os.Remove(s.src.Spool)
}

// Done is closed when the source has ended and everything is logged.
func (s *Stream) Done() <-chan struct{} { return s.done }

// Freeze stops the stream between two steps: it reads nothing more until Thaw. What it has read is in the log or in the
// spool then; an error tells that it can't be, and the stream runs on.
func (s *Stream) Freeze() error {
	s.mu.Lock()
	if s.bare && len(s.rest) > 0 {
		s.mu.Unlock()
		return fmt.Errorf("%s of %s: an unfinished line is in memory alone", s.src.Name, s.log.path)
	}
	return nil
}

// Thaw lets a frozen stream go on.
func (s *Stream) Thaw() { s.mu.Unlock() }

func (s *Stream) finish() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ended {
		s.ended = true
		s.flush(0, true)
	}
	s.once.Do(func() { close(s.done) })
}

// step carries one portion. It returns EAGAIN if there is none, io.EOF at the end.
func (s *Stream) step(fd uintptr) error {
	if s.ended {
		return io.EOF
	}
	n, err := s.fill(fd)
	if err != nil {
		if errors.Is(err, syscall.EAGAIN) {
			return syscall.EAGAIN
		}
		n = 0 // a terminal whose last user is gone says EIO: the end
	}
	if n == 0 {
		s.ended = true
		s.flush(0, true)
		return io.EOF
	}
	s.flush(n, false)
	return nil
}

// fill moves one portion from the source into the spool, or into memory if there is no spool.
func (s *Stream) fill(fd uintptr) (int, error) {
	if s.spool == nil && !s.bare {
		// A container that never says anything costs no file.
		if data, end := sys.Readable(fd); !data && end {
			return 0, nil
		} else if !data {
			return 0, syscall.EAGAIN
		}
		var err error
		if s.spool, err = openSpool(s.src.Spool, s.log); err != nil {
			s.bare = true
		}
	}
	if s.spool != nil && !s.src.Terminal {
		n, err := sys.Splice(fd, s.spool.f, s.spool.end, maxMove)
		if err == nil || errors.Is(err, syscall.EAGAIN) {
			s.spool.end += int64(n)
			return n, err
		}
		s.abandonSpool()
	}
	b := scratches.Get().(*scratch)
	defer scratches.Put(b)
	b.raw = grow(b.raw, maxMove)
	n, err := sys.ReadFD(fd, b.raw)
	if n <= 0 {
		return 0, err
	}
	if s.spool != nil {
		if _, err := s.spool.f.WriteAt(b.raw[:n], s.spool.end); err == nil {
			s.spool.end += int64(n)
			return n, nil
		}
		s.abandonSpool()
	}
	s.rest = append(s.rest, b.raw[:n]...)
	return n, nil
}

// abandonSpool goes on without one: the run directory is full, say. Better a log that a kill can hurt than none.
func (s *Stream) abandonSpool() {
	sp := s.spool
	s.spool, s.bare = nil, true
	s.rest = make([]byte, sp.end-sp.logged)
	if n, err := sp.f.ReadAt(s.rest, sp.logged); err != nil {
		s.rest = s.rest[:n]
	}
	sp.f.Close()
	os.Remove(s.src.Spool)
}

// flush logs the whole lines that wait, all that waits with final. The last fresh bytes are new since the last flush.
func (s *Stream) flush(fresh int, final bool) {
	b := scratches.Get().(*scratch)
	defer scratches.Put(b)
	data := s.waiting(b)
	if s.src.Tap != nil && fresh > 0 && fresh <= len(data) {
		defer s.src.Tap(data[len(data)-fresh:])
	}
	for at := 0; at < len(data); {
		n := 0
		s.log.write(func(now time.Time) []byte {
			b.enc, n = encode(b.enc[:0], data[at:], s.src.Name, now, final, encodeLimit)
			return b.enc
		}, func(ino uint64, size int64) {
			if s.spool != nil {
				// A spool that can't be written any more (its disk is full) costs the promise, not the line.
				_ = s.spool.announce(s.spool.logged+int64(n), ino, size, int64(len(b.enc)))
			}
		})
		if n == 0 {
			break
		}
		at += n
		if s.spool != nil {
			s.spool.logged += int64(n)
		} else {
			s.rest = s.rest[n:]
		}
	}
	if s.spool != nil {
		s.spool.trim()
	} else if len(s.rest) == 0 {
		s.rest = nil
	}
}

// waiting returns the bytes that are not logged yet.
func (s *Stream) waiting(b *scratch) []byte {
	if s.spool == nil {
		return s.rest
	}
	b.raw = grow(b.raw, int(s.spool.end-s.spool.logged))
	n, err := s.spool.f.ReadAt(b.raw, s.spool.logged)
	if err != nil && n < len(b.raw) {
		return b.raw[:n]
	}
	return b.raw
}

func grow(b []byte, n int) []byte {
	if cap(b) < n {
		return make([]byte, n)
	}
	return b[:n]
}
