// Package wire reads and writes protocol buffers without reflection and without tables that a program builds when it
// starts: half of what a shim weighed were those. A message is a struct whose method Fields lists its fields once, for both
// directions:
//
//	func (m *KillRequest) Fields(f *wire.Fields) {
//		f.String(1, &m.ID)
//		f.Uint32(3, &m.Signal)
//	}
//
// It promises what proto3 says (https://protobuf.dev/programming-guides/encoding/): zero values are left out, unknown fields
// and fields of another type are skipped, messages that come twice are merged, strings are UTF-8. Groups, which proto3 does
// not have, are refused. What was read shares no memory with the bytes that it was read from.
//
// It never checks what values mean.
package wire
