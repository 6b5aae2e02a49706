package inflate

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// ErrCorrupt is a stream that is no gzip, or a damaged one. A stream that ends too early is io.ErrUnexpectedEOF.
var ErrCorrupt = errors.New("corrupt gzip stream")

func corrupt(what string) error { return fmt.Errorf("%w: %s", ErrCorrupt, what) }

const (
	// Window is how far back a stream refers.
	Window = 32 << 10
	// Room is how much a buffer must be able to take for Decode to go on.
	Room = 1 << 10

	// BufferSize is how much of a Buffer is used: a power of two that a core's cache holds some of.
	BufferSize = 1 << 18

	inSize  = 1 << 16
	inSlack = 32 // zeros after the input's end, so that the loop may read words
	// inMargin is what one step of the loop may read, outMargin what it may write.
	inMargin  = 16
	outMargin = 512
)

// Buffer takes what is decompressed. (It is larger than its BufferSize bytes, so that words can be written at the end.)
type Buffer [BufferSize + 8]byte

// Carry copies the Window before end, or what there is of it, from one buffer to the beginning of another or the same,
// and returns its length: where to decode to next.
func Carry(to, from *Buffer, end int) int {
	if from == nil {
		return 0
	}
	return copy(to[:], from[max(0, end-Window):end])
}

type input [inSize + inSlack]byte

// Decoder decompresses the members of one gzip stream. Its methods may not be called at the same time.
type Decoder struct {
	src      io.Reader
	in       input
	pos, end int   // what is left of in
	err      error // what src ended with

	// Invariant between the steps: bits holds n bits, and zeros above them.
	bits uint64
	n    uint

	next  func(*Decoder, *Buffer, int) (int, error) // the step to do
	last  bool                                      // the block is the member's last one
	left  int                                       // of a stored block
	begun bool                                      // there was a member
	over  error                                     // what Decode has ended with

	crc   uint32 // of the member's bytes
	total uint64 // the member's bytes

	lit     litTable
	dist    distTable
	isFixed bool // lit and dist are those that fixed makes
}

// New returns a decoder of src.
func New(src io.Reader) *Decoder {
	return &Decoder{src: src, next: (*Decoder).header}
}

// Decode decompresses into buf from pos on and returns where the bytes end. What it wrote before must stand before
// pos, Window bytes of it or all; BufferSize-pos must be at least Room. io.EOF is the stream's end, with no bytes. After
// any other error what this call wrote does not count. An error is there to stay.
func (d *Decoder) Decode(buf *Buffer, pos int) (int, error) {
	if BufferSize-pos < Room {
		return pos, io.ErrShortBuffer
	}
	if d.over != nil {
		return pos, d.over
	}
	o := pos
	for BufferSize-o > outMargin {
		var err error
		begin := o
		o, err = d.next(d, buf, o)
		d.crc = crc32.Update(d.crc, crc32.IEEETable, buf[begin:o])
		d.total += uint64(o - begin)
		if err == io.EOF && o > pos {
			return o, nil
		}
		if err != nil {
			d.over = err
			return pos, err
		}
	}
	return o, nil
}

// fetch brings more input than what is left of it. At the source's end it changes nothing.
func (d *Decoder) fetch() error {
	if d.err == io.EOF {
		return nil
	}
	if d.err != nil {
		return d.err
	}
	d.end = copy(d.in[:], d.in[d.pos:d.end])
	d.pos = 0
	for tries := 0; ; tries++ {
		n, err := d.src.Read(d.in[d.end:inSize])
		d.end += n
		clear(d.in[d.end : d.end+inSlack])
		d.err = err
		switch {
		case err != nil && err != io.EOF:
			return err
		case n > 0 || err != nil:
			return nil
		case tries == 100:
			return io.ErrNoProgress
		}
	}
}

// need brings n bits, at most 32.
func (d *Decoder) need(n uint) error {
	for d.n < n {
		if d.pos == d.end {
			if err := d.fetch(); err != nil {
				return err
			}
			if d.pos == d.end {
				return io.ErrUnexpectedEOF
			}
		}
		d.bits |= uint64(d.in[d.pos]) << d.n
		d.pos++
		d.n += 8
	}
	return nil
}

// take takes n bits that need has brought.
func (d *Decoder) take(n uint) uint32 {
	v := uint32(d.bits & (1<<n - 1))
	d.bits >>= n
	d.n -= n
	return v
}

// get brings and takes n bits.
func (d *Decoder) get(n uint) (uint32, error) {
	if err := d.need(n); err != nil {
		return 0, err
	}
	return d.take(n), nil
}

// align drops what is left of a byte.
func (d *Decoder) align() { d.take(d.n & 7) }

// block begins the next block (RFC 1951, 3.2.3), or the trailer.
func (d *Decoder) block(_ *Buffer, o int) (int, error) {
	if d.last {
		d.next = (*Decoder).trailer
		return o, nil
	}
	head, err := d.get(3)
	if err != nil {
		return o, err
	}
	d.last = head&1 != 0
	switch head >> 1 {
	case 0:
		d.align()
		sizes, err := d.get(32)
		if err != nil {
			return o, err
		}
		if uint16(sizes) != ^uint16(sizes>>16) {
			return o, corrupt("a stored block's length")
		}
		d.left = int(uint16(sizes))
		d.next = (*Decoder).stored
		return o, nil
	case 1:
		d.fixed()
	case 2:
		if err := d.dynamic(); err != nil {
			return o, err
		}
	default:
		return o, corrupt("a block's type")
	}
	d.next = (*Decoder).huffman
	return o, nil
}

// stored copies a stored block.
func (d *Decoder) stored(buf *Buffer, o int) (int, error) {
	for d.n > 0 && d.left > 0 && o < BufferSize {
		buf[o] = byte(d.take(8))
		o++
		d.left--
	}
	for d.left > 0 && o < BufferSize {
		if d.pos == d.end {
			if err := d.fetch(); err != nil {
				return o, err
			}
			if d.pos == d.end {
				return o, io.ErrUnexpectedEOF
			}
		}
		n := copy(buf[o:min(o+d.left, BufferSize)], d.in[d.pos:d.end])
		o += n
		d.pos += n
		d.left -= n
	}
	if d.left == 0 {
		d.next = (*Decoder).block
	}
	return o, nil
}

// huffman decodes a block up to its end, or until buf is nearly full.
func (d *Decoder) huffman(buf *Buffer, o int) (int, error) {
	low := o - int(min(d.total, uint64(o)))
	for {
		if d.end-d.pos < inMargin {
			if err := d.fetch(); err != nil {
				return o, err
			}
		}
		stop := d.end - inMargin
		if d.err == io.EOF {
			stop = d.end + 8 // the zeros there end the loop soon; how far it went is checked below
		}
		var state result
		o, state = d.symbols(buf, low, o, stop)
		if d.pos > d.end {
			return o, io.ErrUnexpectedEOF
		}
		switch state {
		case blockEnd:
			d.next = (*Decoder).block
			return o, nil
		case badCode:
			return o, corrupt("a code that its table does not have")
		case badDistance:
			return o, corrupt("a distance beyond the beginning")
		}
		if o >= BufferSize-outMargin {
			return o, nil
		}
	}
}

// trailer checks a member's end (RFC 1952, 2.3.1).
func (d *Decoder) trailer(_ *Buffer, o int) (int, error) {
	d.align()
	sum, err := d.get(32)
	if err != nil {
		return o, err
	}
	size, err := d.get(32)
	if err != nil {
		return o, err
	}
	if sum != d.crc || size != uint32(d.total) {
		return o, corrupt("its check sum")
	}
	d.next = (*Decoder).header
	return o, nil
}

// header reads a member's header (RFC 1952, 2.3).
func (d *Decoder) header(_ *Buffer, o int) (int, error) {
	if d.begun {
		switch err := d.need(8); {
		case err != nil && d.err == io.EOF: // the source's own io.ErrUnexpectedEOF is none
			return o, io.EOF
		case err != nil:
			return o, err
		case d.bits&0xff == 0:
			return o, d.padding()
		}
	}
	var head [10]byte
	crc := uint32(0)
	read := func(p []byte) error {
		for i := range p {
			b, err := d.get(8)
			if err != nil {
				return err
			}
			p[i] = byte(b)
		}
		crc = crc32.Update(crc, crc32.IEEETable, p)
		return nil
	}
	if err := read(head[:]); err != nil {
		return o, err
	}
	if head[0] != 0x1f || head[1] != 0x8b || head[2] != 8 {
		return o, corrupt("its header")
	}
	if err := skipFields(head[3], read); err != nil {
		return o, err
	}
	if head[3]&flagCRC != 0 {
		want := uint16(crc)
		var got [2]byte
		if err := read(got[:]); err != nil {
			return o, err
		}
		if binary.LittleEndian.Uint16(got[:]) != want {
			return o, corrupt("its header's check sum")
		}
	}
	d.begun, d.last, d.crc, d.total = true, false, 0, 0
	d.next = (*Decoder).block
	return o, nil
}

// padding reads the zeros that may follow the last member, up to the stream's end: tapes and some programs fill a block with
// them, and gzip ignores them.
func (d *Decoder) padding() error {
	for {
		switch b, err := d.get(8); {
		case err != nil && d.err == io.EOF:
			return io.EOF
		case err != nil:
			return err
		case b != 0:
			return corrupt("something follows the zeros after its end")
		}
	}
}

const (
	flagCRC     = 1 << 1
	flagExtra   = 1 << 2
	flagName    = 1 << 3
	flagComment = 1 << 4
)

// skipFields reads the header's optional fields but for its check sum.
func skipFields(flags byte, read func([]byte) error) error {
	var b [2]byte
	if flags&flagExtra != 0 {
		if err := read(b[:]); err != nil {
			return err
		}
		for range binary.LittleEndian.Uint16(b[:]) {
			if err := read(b[:1]); err != nil {
				return err
			}
		}
	}
	for _, f := range []byte{flagName, flagComment} {
		for n := 0; flags&f != 0; n++ {
			if err := read(b[:1]); err != nil {
				return err
			}
			if b[0] == 0 {
				break
			}
			if n == maxText {
				return corrupt("its header's text is too long")
			}
		}
	}
	return nil
}

// maxText bounds file name and comment of a header.
const maxText = 64 << 10
