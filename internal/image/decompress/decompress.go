// Package decompress finds out how a stream is compressed and undoes it: gzip, zstd or not at all. It
// goes by the stream's first bytes, as media types lie.
package decompress

import (
	"bufio"
	"bytes"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"

	"github.com/11f9778f/berth/internal/image/inflate"
)

// maxWindow bounds what a zstd stream can make us keep in memory.
const maxWindow = 128 << 20

// Decoder decompresses into buffers, as inflate.Decoder.Decode does. Close frees what it holds; it does not close its
// source.
type Decoder interface {
	Decode(buf *inflate.Buffer, pos int) (end int, err error)
	Close()
}

// New returns a decoder of r's content.
func New(r io.Reader) (Decoder, error) {
	br := bufio.NewReaderSize(r, 64<<10)
	magic, err := br.Peek(4)
	if err != nil && err != io.EOF {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		return gzipDecoder{inflate.New(br)}, nil
	case bytes.HasPrefix(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		zr, err := zstd.NewReader(br, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, fmt.Errorf("zstd: %w", err)
		}
		return &readDecoder{zr, zr.Close}, nil
	}
	return &readDecoder{br, func() {}}, nil
}

type gzipDecoder struct{ *inflate.Decoder }

// Close implements Decoder.
func (gzipDecoder) Close() {}

// readDecoder is a Decoder of what is read.
type readDecoder struct {
	r     io.Reader
	close func()
}

// Decode implements Decoder.
func (d *readDecoder) Decode(buf *inflate.Buffer, pos int) (int, error) {
	o := pos
	for o < inflate.BufferSize {
		n, err := d.r.Read(buf[o:inflate.BufferSize])
		o += n
		if err == io.EOF && o > pos {
			break
		}
		if err != nil {
			return pos, err
		}
	}
	return o, nil
}

// Close implements Decoder.
func (d *readDecoder) Close() { d.close() }

// Reader returns r's content without its compression. Close frees what it holds; it does not close r.
func Reader(r io.Reader) (io.ReadCloser, error) {
	d, err := New(r)
	if err != nil {
		return nil, err
	}
	return &reader{d: d, buf: new(inflate.Buffer)}, nil
}

type reader struct {
	d        Decoder
	buf      *inflate.Buffer
	pos, end int // what is left to read of buf
}

// Read implements io.Reader.
func (r *reader) Read(p []byte) (int, error) {
	if r.pos == r.end {
		start := inflate.Carry(r.buf, r.buf, r.end)
		end, err := r.d.Decode(r.buf, start)
		r.pos, r.end = start, end
		if err != nil {
			return 0, err
		}
	}
	n := copy(p, r.buf[r.pos:r.end])
	r.pos += n
	return n, nil
}

// Close implements io.Closer.
func (r *reader) Close() error {
	r.d.Close()
	return nil
}
