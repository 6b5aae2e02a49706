package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// Message is what can be sent.
type Message interface {
	// Fields names each field, with its number, to f.
	Fields(f *Fields)
}

// ErrMalformed tells that bytes are no protocol buffer, or not one of the message that was asked for.
var ErrMalformed = errors.New("malformed message")

// MaxList is how many elements a list may have: some two bytes make an element, which is much larger in memory.
const MaxList = 1 << 16

// Kinds of values, as the encoding calls them.
const (
	varint  = 0
	fixed64 = 1
	length  = 2
	fixed32 = 5
)

const maxNumber = 1<<29 - 1

// Fields writes a message's fields, or takes the one that was just read into its place.
type Fields struct {
	out []byte // what has been written

	reading bool
	number  int // of the field that was read
	kind    int
	value   uint64 // of every kind but length
	bytes   []byte // of length
	err     error
}

// Marshal encodes a message.
func Marshal(m Message) []byte { return Append(nil, m) }

// Append encodes a message behind b.
func Append(b []byte, m Message) []byte {
	f := Fields{out: b}
	m.Fields(&f)
	return f.out
}

// Unmarshal decodes b into m. Its errors are ErrMalformed.
func Unmarshal(b []byte, m Message) error {
	f := Fields{reading: true}
	f.read(b, m)
	if f.err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, f.err)
	}
	return nil
}

func (f *Fields) read(b []byte, m Message) {
	for len(b) > 0 && f.err == nil {
		if b = f.next(b); f.err == nil {
			m.Fields(f)
		}
	}
}

// next takes one field off b.
func (f *Fields) next(b []byte) []byte {
	tag, b := f.uvarint(b)
	f.number, f.kind, f.bytes = 0, int(tag&7), nil
	if number := tag >> 3; f.err == nil && (number == 0 || number > maxNumber) {
		f.err = fmt.Errorf("field number %d", number)
	}
	if f.err != nil {
		return nil
	}
	f.number = int(tag >> 3)
	switch f.kind {
	case varint:
		f.value, b = f.uvarint(b)
	case fixed64:
		if len(b) < 8 {
			f.err = errShort
			return nil
		}
		f.value, b = binary.LittleEndian.Uint64(b), b[8:]
	case fixed32:
		if len(b) < 4 {
			f.err = errShort
			return nil
		}
		f.value, b = uint64(binary.LittleEndian.Uint32(b)), b[4:]
	case length:
		var n uint64
		if n, b = f.uvarint(b); f.err == nil && n > uint64(len(b)) {
			f.err = errShort
		}
		if f.err != nil {
			return nil
		}
		f.bytes, b = b[:n], b[n:]
	default:
		f.err = fmt.Errorf("field %d is of kind %d", f.number, f.kind)
	}
	return b
}

var errShort = errors.New("it ends in the middle of a field")

func (f *Fields) uvarint(b []byte) (uint64, []byte) {
	v, n := binary.Uvarint(b)
	if n <= 0 {
		f.err = errShort
		if n < 0 {
			f.err = errors.New("a number is longer than 64 bits")
		}
		return 0, nil
	}
	return v, b[n:]
}

// is tells whether the field that was read is the one with this number and kind.
func (f *Fields) is(number, kind int) bool {
	return f.number == number && f.kind == kind && f.err == nil
}

func (f *Fields) tag(number, kind int) {
	f.out = binary.AppendUvarint(f.out, uint64(number)<<3|uint64(kind))
}

// number64 is every kind of varint.
func (f *Fields) number64(number int, v uint64) {
	if v != 0 {
		f.tag(number, varint)
		f.out = binary.AppendUvarint(f.out, v)
	}
}

// Uint64 is a uint64.
func (f *Fields) Uint64(number int, p *uint64) {
	if !f.reading {
		f.number64(number, *p)
	} else if f.is(number, varint) {
		*p = f.value
	}
}

// Int64 is an int64.
func (f *Fields) Int64(number int, p *int64) {
	if !f.reading {
		f.number64(number, uint64(*p))
	} else if f.is(number, varint) {
		*p = int64(f.value)
	}
}

// Uint32 is a uint32.
func (f *Fields) Uint32(number int, p *uint32) {
	if !f.reading {
		f.number64(number, uint64(*p))
	} else if f.is(number, varint) {
		*p = uint32(f.value)
	}
}

// Int32 is an int32 or an enumeration.
func Int32[T ~int32](f *Fields, number int, p *T) {
	if !f.reading {
		f.number64(number, uint64(int64(*p)))
	} else if f.is(number, varint) {
		*p = T(f.value)
	}
}

// Bool is a bool.
func (f *Fields) Bool(number int, p *bool) {
	if !f.reading {
		if *p {
			f.number64(number, 1)
		}
	} else if f.is(number, varint) {
		*p = f.value != 0
	}
}

// Double is a double.
func (f *Fields) Double(number int, p *float64) {
	if !f.reading {
		if bits := math.Float64bits(*p); bits != 0 {
			f.tag(number, fixed64)
			f.out = binary.LittleEndian.AppendUint64(f.out, bits)
		}
	} else if f.is(number, fixed64) {
		*p = math.Float64frombits(f.value)
	}
}
