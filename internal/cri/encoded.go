package cri

import (
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// listed is the number of the only field that answers with a list have, be they streamed or not.
const listed protowire.Number = 1

// encoded puts items into an answer whose only field they are, each as it goes over the wire: with the field's number and its
// length before it. The answer passes them on as bytes that it does not look into, as it does with fields that it does not
// know. So items are encoded where they are made, on all processors, and need not live on until the last one is there.
func encoded[T proto.Message](answer T, items [][]byte) T {
	answer.ProtoReflect().SetUnknown(slices.Concat(items...))
	return answer
}

// encoders encode the items of a list on several goroutines.
type encoders []*encoder

// begin makes the one of another goroutine.
func (l *encoders) begin() *encoder {
	e := new(encoder)
	*l = append(*l, e)
	return e
}

// items are those of all.
func (l encoders) items() (out [][]byte, err error) {
	for _, e := range l {
		if e.err != nil {
			return nil, asStatus(e.err)
		}
		out = append(out, e.items...)
	}
	return out, nil
}

// encoder encodes items one after the other.
type encoder struct {
	items [][]byte
	err   error // the first
}

// add encodes an item, which may be changed afterwards.
func (e *encoder) add(item proto.Message) {
	size := proto.Size(item)
	out := make([]byte, 0, protowire.SizeTag(listed)+protowire.SizeBytes(size))
	out = protowire.AppendVarint(protowire.AppendTag(out, listed, protowire.BytesType), uint64(size))
	out, err := (proto.MarshalOptions{UseCachedSize: true}).MarshalAppend(out, item)
	if err != nil && e.err == nil {
		e.err = err
	}
	e.items = append(e.items, out)
}
