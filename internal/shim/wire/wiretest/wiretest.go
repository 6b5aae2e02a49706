// Package wiretest holds messages of package wire against the ones that protoc generates.
package wiretest

import (
	"bytes"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/11f9778f/berth/internal/shim/wire"
)

// Pair is a message of ours and the one that it shall be.
type Pair struct {
	Ours   func() wire.Message
	Theirs proto.Message
	// Without are fields that ours has not.
	Without []protoreflect.Name
}

// Of makes a Pair.
func Of[T any, P interface {
	*T
	wire.Message
}](theirs proto.Message, without ...protoreflect.Name) Pair {
	return Pair{func() wire.Message { return P(new(T)) }, theirs, without}
}

// Compare fills messages at random, with every field set and with few, and demands that both encodings are the same, byte
// for byte, in both directions.
func Compare(t *testing.T, pairs ...Pair) {
	t.Helper()
	for _, p := range pairs {
		name := p.Theirs.ProtoReflect().Descriptor().FullName()
		for seed := range uint64(50) {
			f := filler{rand.New(rand.NewPCG(seed, 1)), 1 - float64(seed%10)/10, p.Without}
			theirs := p.Theirs.ProtoReflect().New()
			f.fill(theirs)
			want, err := proto.MarshalOptions{Deterministic: true}.Marshal(theirs.Interface())
			if err != nil {
				t.Fatal(err)
			}
			ours := p.Ours()
			if err := wire.Unmarshal(want, ours); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if got := wire.Marshal(ours); !bytes.Equal(got, want) {
				t.Fatalf("%s, seed %d: ours\n%x\ntheirs\n%x\n%v", name, seed, got, want, theirs)
			}
		}
	}
}

// Fuzz feeds foreign bytes to ours and theirs: ours refuses what theirs does (and groups, which proto3 does not have), and
// reads the same.
func Fuzz(f *testing.F, pairs ...Pair) {
	for i, p := range pairs {
		fill := filler{rand.New(rand.NewPCG(uint64(i), 2)), 1, p.Without}
		m := p.Theirs.ProtoReflect().New()
		fill.fill(m)
		b, err := proto.Marshal(m.Interface())
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(i), b)
	}
	f.Fuzz(func(t *testing.T, n uint8, b []byte) {
		p := pairs[int(n)%len(pairs)]
		ours, theirs := p.Ours(), p.Theirs.ProtoReflect().New().Interface()
		if wire.Unmarshal(b, ours) != nil {
			return
		}
		if err := proto.Unmarshal(b, theirs); err != nil {
			if len(p.Without) == 0 { // else it may be in one of these
				t.Fatalf("ours reads what theirs does not: %v", err)
			}
			return
		}
		again := p.Theirs.ProtoReflect().New().Interface()
		if err := proto.Unmarshal(wire.Marshal(ours), again); err != nil {
			t.Fatalf("theirs does not read what ours has written: %v", err)
		}
		forget(theirs.ProtoReflect(), p.Without)
		if !proto.Equal(theirs, again) {
			t.Fatalf("ours read\n%v\ntheirs\n%v", again, theirs)
		}
	})
}

const timestamp = "google.protobuf.Timestamp"

// forget removes what ours does not have, and what is unknown. Timestamps become what a time.Time makes of them.
func forget(m protoreflect.Message, without []protoreflect.Name) {
	m.SetUnknown(nil)
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case has(without, fd):
			m.Clear(fd)
		case fd.IsMap(), fd.Kind() != protoreflect.MessageKind:
		case fd.IsList():
			for i := range v.List().Len() {
				forget(v.List().Get(i).Message(), without)
			}
		case fd.Message().FullName() == timestamp:
			fields := v.Message().Descriptor().Fields()
			at := time.Unix(v.Message().Get(fields.ByNumber(1)).Int(), v.Message().Get(fields.ByNumber(2)).Int())
			if at.IsZero() {
				m.Clear(fd)
				break
			}
			m.Set(fd, protoreflect.ValueOfMessage(stamp(v.Message().New(), at.Unix(), int32(at.Nanosecond()))))
		default:
			forget(v.Message(), without)
		}
		return true
	})
}

// stamp fills in a timestamp.
func stamp(m protoreflect.Message, seconds int64, nanos int32) protoreflect.Message {
	fields := m.Descriptor().Fields()
	m.Set(fields.ByNumber(1), protoreflect.ValueOfInt64(seconds))
	m.Set(fields.ByNumber(2), protoreflect.ValueOfInt32(nanos))
	return m
}

func has(names []protoreflect.Name, fd protoreflect.FieldDescriptor) bool {
	for _, n := range names {
		if n == fd.Name() {
			return true
		}
	}
	return false
}

type filler struct {
	*rand.Rand
	often   float64
	without []protoreflect.Name
}

func (f filler) fill(m protoreflect.Message) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		if f.Float64() >= f.often || has(f.without, fd) {
			continue
		}
		switch {
		case fd.IsMap():
			for range 1 + f.IntN(3) {
				m.Mutable(fd).Map().Set(f.value(fd.MapKey(), nil).MapKey(), f.value(fd.MapValue(), nil))
			}
		case fd.IsList():
			for range 1 + f.IntN(3) {
				m.Mutable(fd).List().Append(f.value(fd, m.NewField(fd).List().NewElement))
			}
		default:
			m.Set(fd, f.value(fd, func() protoreflect.Value { return m.NewField(fd) }))
		}
	}
}

func (f filler) value(fd protoreflect.FieldDescriptor, message func() protoreflect.Value) protoreflect.Value {
	switch fd.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString([]string{"a", "größer", string(bytes.Repeat([]byte("x"), 200))}[f.IntN(3)])
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte{1, 0xff, 0})
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(true)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(fd.Enum().Values().Get(f.IntN(fd.Enum().Values().Len())).Number())
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(f.Int32N(1<<30) - 1<<29)
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(f.Int64() - math.MaxInt64/2)
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(f.Uint32())
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(f.Uint64())
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(f.Float64())
	case protoreflect.MessageKind:
		v := message()
		if fd.Message().FullName() == timestamp { // what a time.Time can be
			stamp(v.Message(), f.Int64N(1<<35), f.Int32N(1e9))
			return v
		}
		f.fill(v.Message())
		return v
	}
	panic("a kind that no message has: " + fd.Kind().String())
}
