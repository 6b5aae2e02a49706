package image

import (
	"context"
	"hash"
	"io"
	"os"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/11f9778f/berth/internal/image/decompress"
	"github.com/11f9778f/berth/internal/image/inflate"
	"github.com/11f9778f/berth/internal/image/kind"
	"github.com/11f9778f/berth/internal/image/unpack"
)

// follower reads a file that somebody still writes: it waits at the end for more.
type follower struct {
	f     *os.File
	owned bool // close closes f
	ctx   context.Context
	stop  func() bool

	mu      sync.Mutex
	cond    *sync.Cond
	written int64
	done    bool
	err     error
	// detached says that nobody wants to read any more.
	detached bool

	off int64 // the reader's alone
}

// newFollower follows f; size >= 0 says that f is whole.
func newFollower(ctx context.Context, f *os.File, size int64) *follower {
	fl := &follower{f: f, ctx: ctx}
	fl.cond = sync.NewCond(&fl.mu)
	if size >= 0 {
		fl.written, fl.done = size, true
	}
	fl.stop = context.AfterFunc(ctx, func() {
		fl.mu.Lock()
		defer fl.mu.Unlock()
		fl.cond.Broadcast()
	})
	return fl
}

// advance says that n more bytes are in the file.
func (f *follower) advance(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.written += int64(n)
	f.cond.Broadcast()
}

// finish says that no more bytes come; err says why if there should be more.
func (f *follower) finish(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.done, f.err = true, err
	f.cond.Broadcast()
}

// Read implements io.Reader.
func (f *follower) Read(p []byte) (int, error) {
	f.mu.Lock()
	for f.off >= f.written && !f.done && !f.detached && f.ctx.Err() == nil {
		f.cond.Wait()
	}
	left, err, detached := f.written-f.off, f.err, f.detached
	f.mu.Unlock()
	if detached {
		return 0, os.ErrClosed
	}
	if cerr := f.ctx.Err(); cerr != nil {
		return 0, cerr
	}
	if left == 0 {
		if err == nil {
			err = io.EOF
		}
		return 0, err
	}
	n, err := f.f.ReadAt(p[:min(int64(len(p)), left)], f.off)
	f.off += int64(n)
	if err == io.EOF && n > 0 {
		err = nil
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF // the file is shorter than it was said to be
	}
	return n, err
}

// detach ends Read, also one that waits.
func (f *follower) detach() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.detached = true
	f.cond.Broadcast()
}

// outcome waits until the file is whole or known not to become so, as long as at most slack bytes of
// size are missing, and returns what finish was given.
func (f *follower) outcome(size, slack int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for !f.done && f.ctx.Err() == nil && size-f.written <= slack {
		f.cond.Wait()
	}
	return f.err
}

// close ends the following.
func (f *follower) close() {
	f.stop()
	if f.owned {
		f.f.Close()
	}
}

// ahead decompresses and hashes a stream in a goroutine of its own, some buffers ahead of who reads it.
type ahead struct {
	full       chan filled
	free       chan *inflate.Buffer
	quit, gone chan struct{}
	hash       hash.Hash
	err        error // set before full is closed

	cur  *inflate.Buffer
	rest []byte // what is left to read of cur
	n    int64
}

// aheadBuffers bounds how far ahead.
const aheadBuffers = 6

func newAhead(r io.Reader, count func(int64) int64) *ahead {
	a := &ahead{
		full: make(chan filled, aheadBuffers), free: make(chan *inflate.Buffer, aheadBuffers),
		quit: make(chan struct{}), gone: make(chan struct{}), hash: digest.SHA256.Hash(),
	}
	for range aheadBuffers {
		a.free <- nil
	}
	go a.run(r, count)
	return a
}

func (a *ahead) run(r io.Reader, count func(int64) int64) {
	defer close(a.gone)
	defer close(a.full)
	z, err := decompress.New(r)
	if err != nil {
		a.err = err
		return
	}
	defer z.Close()
	var last filled
	for {
		var buf *inflate.Buffer
		select {
		case buf = <-a.free:
		case <-a.quit:
			return
		}
		if buf == nil {
			buf = new(inflate.Buffer)
		}
		start := inflate.Carry(buf, last.buf, last.end)
		end, err := z.Decode(buf, start)
		if err != nil {
			if err != io.EOF {
				a.err = err
			}
			return
		}
		a.hash.Write(buf[start:end])
		count(int64(end - start))
		last = filled{buf, start, end}
		a.full <- last // never blocks: there are no more buffers than places
	}
}

// filled is a buffer with decompressed bytes from start to end.
type filled struct {
	buf        *inflate.Buffer
	start, end int
}

// Read implements io.Reader.
func (a *ahead) Read(p []byte) (int, error) {
	if len(a.rest) == 0 {
		if a.cur != nil {
			a.free <- a.cur
			a.cur = nil
		}
		next, ok := <-a.full
		if !ok {
			if a.err != nil {
				return 0, a.err
			}
			return 0, io.EOF
		}
		a.cur, a.rest = next.buf, next.buf[next.start:next.end]
	}
	n := copy(p, a.rest)
	a.rest = a.rest[n:]
	a.n += int64(n)
	return n, nil
}

// drain reads what follows the tar's end, which counts for the digest.
func (a *ahead) drain(l unpack.Limits) error {
	limit := l.MaxBytes() - a.n
	if n, err := io.Copy(io.Discard, io.LimitReader(a, limit+1)); err != nil {
		return err
	} else if n > limit {
		return kind.Errorf(unpack.ErrLimit, "it is larger than allowed when unpacked")
	}
	return nil
}

// digest is the digest of the whole stream, after drain.
func (a *ahead) digest() digest.Digest { return digest.NewDigest(digest.SHA256, a.hash) }

// close ends the goroutine and waits for it; the source must be able to end.
func (a *ahead) close() {
	close(a.quit)
	<-a.gone
}
