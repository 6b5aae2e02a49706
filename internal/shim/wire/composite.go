package wire

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// String is a string. What is no UTF-8 is refused when it is read, and mended when it is written: an error message may quote
// anything.
func (f *Fields) String(number int, p *string) {
	if !f.reading {
		if *p != "" {
			f.text(number, *p)
		}
	} else if f.is(number, length) && f.utf8() {
		*p = string(f.bytes)
	}
}

func (f *Fields) text(number int, s string) {
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "\uFFFD")
	}
	f.tag(number, length)
	f.out = append(binary.AppendUvarint(f.out, uint64(len(s))), s...)
}

func (f *Fields) utf8() bool {
	if !utf8.Valid(f.bytes) {
		f.err = fmt.Errorf("field %d is not UTF-8", f.number)
	}
	return f.err == nil
}

// Bytes are bytes.
func (f *Fields) Bytes(number int, p *[]byte) {
	if !f.reading {
		if len(*p) > 0 {
			f.tag(number, length)
			f.out = append(binary.AppendUvarint(f.out, uint64(len(*p))), *p...)
		}
	} else if f.is(number, length) {
		*p = slices.Clone(f.bytes)
	}
}

// Strings is a list of strings.
func (f *Fields) Strings(number int, p *[]string) {
	if !f.reading {
		for _, s := range *p {
			f.text(number, s)
		}
	} else if f.is(number, length) && f.utf8() && f.room(len(*p)) {
		*p = append(*p, string(f.bytes))
	}
}

func (f *Fields) room(n int) bool {
	if n >= MaxList {
		f.err = fmt.Errorf("field %d has more than %d elements", f.number, MaxList)
	}
	return f.err == nil
}

// Map is a map of strings.
func (f *Fields) Map(number int, p *map[string]string) {
	if !f.reading {
		for _, k := range slices.Sorted(maps.Keys(*p)) {
			f.message(number, &entry{k, (*p)[k]})
		}
	} else if f.is(number, length) && f.room(len(*p)) {
		var e entry
		if f.inner(&e); f.err == nil {
			if *p == nil {
				*p = map[string]string{}
			}
			(*p)[e.key] = e.value
		}
	}
}

type entry struct{ key, value string }

func (e *entry) Fields(f *Fields) {
	f.String(1, &e.key)
	f.String(2, &e.value)
}

// message writes a message in the message. Its length stands before it and is known behind it.
func (f *Fields) message(number int, m Message) {
	f.tag(number, length)
	start := len(f.out)
	m.Fields(f)
	var head [binary.MaxVarintLen64]byte
	n := binary.PutUvarint(head[:], uint64(len(f.out)-start))
	f.out = slices.Insert(f.out, start, head[:n]...)
}

// inner reads the message that is in the field.
func (f *Fields) inner(m Message) {
	number := f.number
	f.read(f.bytes, m)
	f.number, f.bytes = number, nil
	f.kind = -1 // used up
	if f.err != nil {
		f.err = fmt.Errorf("field %d: %w", number, f.err)
	}
}

// pointer is a message's.
type pointer[T any] interface {
	*T
	Message
}

// Sub is a message in the message, nil where there is none.
func Sub[T any, P pointer[T]](f *Fields, number int, p **T) {
	if !f.reading {
		if *p != nil {
			f.message(number, P(*p))
		}
	} else if f.is(number, length) {
		if *p == nil {
			*p = new(T)
		}
		f.inner(P(*p))
	}
}

// List is a list of messages.
func List[T any, P pointer[T]](f *Fields, number int, p *[]*T) {
	if !f.reading {
		for _, m := range *p {
			f.message(number, P(m))
		}
	} else if f.is(number, length) && f.room(len(*p)) {
		m := new(T)
		*p = append(*p, m)
		f.inner(P(m))
	}
}

// Time is a google.protobuf.Timestamp; the zero time is none.
func (f *Fields) Time(number int, p *time.Time) {
	if !f.reading {
		if !p.IsZero() {
			f.message(number, &timestamp{p.Unix(), int32(p.Nanosecond())})
		}
	} else if f.is(number, length) {
		var t timestamp
		if !p.IsZero() {
			t = timestamp{p.Unix(), int32(p.Nanosecond())}
		}
		f.inner(&t)
		*p = time.Unix(t.seconds, int64(t.nanos)).UTC()
	}
}

type timestamp struct {
	seconds int64
	nanos   int32
}

func (t *timestamp) Fields(f *Fields) {
	f.Int64(1, &t.seconds)
	Int32(f, 2, &t.nanos)
}

// Any is google.protobuf.Any: a message of a type that its name says. containerd's names have no prefix
// ("containerd.runc.v1.Options").
type Any struct {
	TypeURL string
	Value   []byte
}

// Fields implements Message.
func (a *Any) Fields(f *Fields) {
	f.String(1, &a.TypeURL)
	f.Bytes(2, &a.Value)
}

// Type is the name of the type, without a prefix; nil's is "".
func (a *Any) Type() string {
	if a == nil {
		return ""
	}
	return a.TypeURL[strings.LastIndexByte(a.TypeURL, '/')+1:]
}

// Bytes is the value; nil has none.
func (a *Any) Bytes() []byte {
	if a == nil {
		return nil
	}
	return a.Value
}

// Empty is google.protobuf.Empty.
type Empty struct{}

// Fields implements Message.
func (*Empty) Fields(*Fields) {}
