package inflate

import "encoding/binary"

// The functions below read and write words in the buffers of fixed size. Masking the place shows the compiler that it
// is inside, which costs less than a check does.

func (b *input) load64(i int) uint64 {
	i &= inSize - 1
	return binary.LittleEndian.Uint64(b[i : i+8])
}

func (b *Buffer) load64(i int) uint64 {
	i &= BufferSize - 1
	return binary.LittleEndian.Uint64(b[i : i+8])
}

func (b *Buffer) store64(i int, v uint64) {
	i &= BufferSize - 1
	binary.LittleEndian.PutUint64(b[i:i+8], v)
}

func (b *Buffer) store16(i int, v uint16) {
	i &= BufferSize - 1
	binary.LittleEndian.PutUint16(b[i:i+2], v)
}
