// Package podlog reads container logs in the CRI format, which whoever keeps the container writes:
//
//	2026-11-21T11:43:09.000000001Z stdout F a whole line
//	2026-11-21T11:43:09.000000002Z stderr P the begin of a long line,
//	2026-11-21T11:43:09.000000003Z stderr F  and its end
//
// Copy can start at the end, follow a log that grows, and goes over to the next file when the log is rotated
// (the file renamed, a new one made at its place), however often that was: it reads one after the other as long as they are
// there and nobody has compressed them. It waits for the kernel to tell of a change; it does not poll.
package podlog

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/11f9778f/berth/internal/sys"
)

// maxLine bounds one line of the file, in bytes; writers split at 16 KiB.
const maxLine = 1 << 20

// Options say what of a log is wanted.
type Options struct {
	Follow     bool
	Timestamps bool
	TailLines  *int64
	Since      time.Time
	LimitBytes *int64
}

// Line is one line of the file.
type Line struct {
	Time    time.Time
	Stamp   []byte // Time as it is written
	Stderr  bool
	Partial bool // the next line goes on with it
	Content []byte
}

// Parse takes a line, without its newline, apart. The result points into b.
func Parse(b []byte) (Line, error) {
	var l Line
	stamp, rest, ok1 := bytes.Cut(b, []byte(" "))
	stream, rest, ok2 := bytes.Cut(rest, []byte(" "))
	tags, content, ok3 := bytes.Cut(rest, []byte(" "))
	if !ok1 || !ok2 || !(ok3 || len(tags) > 0) {
		return l, fmt.Errorf("%.60q is no line of a CRI log", b)
	}
	t, err := time.Parse(time.RFC3339Nano, string(stamp))
	if err != nil {
		return l, fmt.Errorf("%.60q is no line of a CRI log: %w", b, err)
	}
	switch string(stream) {
	case "stdout":
	case "stderr":
		l.Stderr = true
	default:
		return l, fmt.Errorf("%.60q is no line of a CRI log: stream %q", b, stream)
	}
	tag, _, _ := bytes.Cut(tags, []byte(":"))
	l.Time, l.Stamp, l.Partial, l.Content = t, stamp, string(tag) == "P", content
	return l, nil
}

// errLimit ends a copy that has written all that was asked for.
var errLimit = errors.New("limit")

// Copy copies the log at path. With Follow it goes on until ctx ends or ended is closed and everything is
// read; without, to the present end. A log that does not exist is empty.
func Copy(ctx context.Context, path string, o Options, ended <-chan struct{}, stdout, stderr io.Writer) error {
	c := &copier{path: path, o: o, stdout: stdout, stderr: stderr, fresh: [2]bool{true, true}}
	defer c.close()
	err := c.run(ctx, ended)
	if errors.Is(err, errLimit) {
		return nil
	}
	return err
}

type copier struct {
	path           string
	o              Options
	stdout, stderr io.Writer
	file           *os.File
	in             *bufio.Reader
	pending        []byte  // of a line whose newline is not written yet
	written        int64   // bytes, for LimitBytes
	fresh          [2]bool // by stream: the next content begins a line
}

func (c *copier) close() {
	if c.file != nil {
		c.file.Close()
	}
}

func (c *copier) run(ctx context.Context, ended <-chan struct{}) error {
	var wake <-chan struct{}
	if c.o.Follow {
		var stop func()
		wake, stop = watch(filepath.Dir(c.path)) // before the first read, so that nothing is missed
		defer stop()
	}
	if err := c.open(true); err != nil {
		return err
	}
	for last := !c.o.Follow; ; {
		if err := c.drain(ctx); err != nil {
			return err
		}
		if rotated, err := c.next(ctx); err != nil {
			return err
		} else if rotated {
			continue
		}
		if last {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ended:
			last = true
		case <-wake:
		}
	}
}

// open opens the file at path, if there is one, at the place where reading begins: the last lines are those that were there when
// the reader came.
func (c *copier) open(atFirst bool) error {
	f, err := os.Open(c.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if atFirst && c.o.TailLines != nil {
		if err := seekTail(f, *c.o.TailLines); err != nil {
			f.Close()
			return err
		}
	}
	c.take(f)
	return nil
}

func (c *copier) take(f *os.File) {
	c.close()
	c.file, c.in, c.pending = f, bufio.NewReaderSize(f, 64<<10), nil
}

// next goes over to the file that followed the present one, if there is one, after the present one is read to its end: what
// is written once there is a newer one is written to that.
func (c *copier) next(ctx context.Context) (bool, error) {
	if c.file == nil {
		if !c.o.Follow {
			return false, nil
		}
		err := c.open(false)
		return c.file != nil, err
	}
	if !c.o.Follow {
		return false, nil
	}
	there, err := os.Stat(c.path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	mine, err := c.file.Stat()
	if err != nil || os.SameFile(there, mine) {
		return false, err
	}
	if err := c.drain(ctx); err != nil {
		return false, err
	}
	f, err := successor(ctx, c.path, mine)
	if err != nil || f == nil {
		return false, err
	}
	c.take(f)
	return true, nil
}

// drain copies to the present end of the file.
func (c *copier) drain(ctx context.Context) error {
	if c.file == nil {
		return nil
	}
	for ctx.Err() == nil {
		part, err := c.in.ReadSlice('\n')
		if len(c.pending)+len(part) > maxLine {
			return fmt.Errorf("log %s: a line is longer than %d bytes", c.path, maxLine)
		}
		if errors.Is(err, io.EOF) || errors.Is(err, bufio.ErrBufferFull) {
			c.pending = append(c.pending, part...)
			if errors.Is(err, io.EOF) {
				return nil
			}
			continue
		}
		if err != nil {
			return err
		}
		if len(c.pending) > 0 {
			part = append(c.pending, part...)
			c.pending = nil
		}
		if err := c.line(part[:len(part)-1]); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func (c *copier) line(raw []byte) error {
	l, err := Parse(raw)
	if err != nil {
		return nil // a torn line after a crash: the rest is good
	}
	if l.Time.Before(c.o.Since) {
		return nil
	}
	w, stream := c.stdout, 0
	if l.Stderr {
		w, stream = c.stderr, 1
	}
	out := make([]byte, 0, len(raw)+1)
	if c.o.Timestamps && c.fresh[stream] {
		out = append(append(out, l.Stamp...), ' ')
	}
	out = append(out, l.Content...)
	if !l.Partial {
		out = append(out, '\n')
	}
	c.fresh[stream] = !l.Partial
	full := false
	if c.o.LimitBytes != nil {
		if left := *c.o.LimitBytes - c.written; int64(len(out)) >= left {
			out, full = out[:max(left, 0)], true
		}
	}
	if _, err := w.Write(out); err != nil {
		return err
	}
	c.written += int64(len(out))
	if full {
		return errLimit
	}
	return nil
}

// seekTail moves f to the begin of its last n lines.
func seekTail(f *os.File, n int64) error {
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil || n <= 0 {
		return err
	}
	buf := make([]byte, 32<<10)
	lines := int64(0)
	for at := end; at > 0; {
		size := min(int64(len(buf)), at)
		at -= size
		if _, err := f.ReadAt(buf[:size], at); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		for i := size - 1; i >= 0; i-- {
			if buf[i] != '\n' || at+i == end-1 {
				continue
			}
			if lines++; lines == n {
				_, err := f.Seek(at+i+1, io.SeekStart)
				return err
			}
		}
	}
	_, err = f.Seek(0, io.SeekStart)
	return err
}

// watch tells on a channel that something in dir was written. Where the kernel has no watch left, it tells
// now and then.
func watch(dir string) (<-chan struct{}, func()) {
	wake := make(chan struct{}, 1)
	tell := func() {
		select {
		case wake <- struct{}{}:
		default:
		}
	}
	w, err := sys.WatchModified(dir)
	if err != nil {
		return wake, every(200*time.Millisecond, tell)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			if gone, err := w.Wait(); err != nil || gone {
				return
			}
			tell()
		}
	}()
	return wake, func() { w.Close(); <-done }
}

func every(d time.Duration, f func()) (stop func()) {
	t := time.NewTicker(d)
	quit := make(chan struct{})
	go func() {
		for {
			select {
			case <-t.C:
				f()
			case <-quit:
				return
			}
		}
	}()
	return func() { t.Stop(); close(quit) }
}
