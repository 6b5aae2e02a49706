package inflate

type result int

const (
	more result = iota // the loop has stopped for want of input or room
	blockEnd
	badCode
	badDistance
)

// symbols decodes literals and matches into buf from o on, until the block ends, input is read up to stop, or outMargin
// bytes are left in buf. No byte before low is a match's.
//
// The bit buffer is filled with a whole word at a time: those bits above n that came along are the same that the next
// word brings to that place. n counts modulo 64.
func (d *Decoder) symbols(buf *Buffer, low, o, stop int) (int, result) {
	in, bits, n, pos := &d.in, d.bits, uint64(d.n), d.pos
	lit, dist := &d.lit, &d.dist
	room := BufferSize - outMargin
	state := more
loop:
	for o < room && pos <= stop {
		bits |= in.load64(pos) << (n & 63)
		pos += int(63-n&63) >> 3
		n |= 56
		e := lit[bits&(1<<litBits-1)]
		if e >= literal { // at most 11 bits of 56
			buf.store16(o, uint16(e>>8))
			o += int(e>>24) & 3
			bits >>= e & 63
			n -= uint64(e)
			e = lit[bits&(1<<litBits-1)]
			if e >= literal { // 22
				buf.store16(o, uint16(e>>8))
				o += int(e>>24) & 3
				bits >>= e & 63
				n -= uint64(e)
				e = lit[bits&(1<<litBits-1)]
				if e >= literal { // 33
					buf.store16(o, uint16(e>>8))
					o += int(e>>24) & 3
					bits >>= e & 63
					n -= uint64(e)
					continue
				}
			}
		}
		if e&special != 0 { // at most 22 bits are gone
			if e&special == kindSub {
				bits >>= litBits
				n -= litBits
				e = lit[(uint64(e>>16)+bits&(1<<(e>>8&63)-1))&(litSize-1)]
			}
			if e >= literal {
				buf[o&(BufferSize-1)] = byte(e >> 8)
				o++
				bits >>= e & 63
				n -= uint64(e)
				continue
			}
			if e&special != 0 {
				state = badCode
				if e&special == kindEnd {
					state = blockEnd
					bits >>= e & 63
					n -= uint64(e)
				}
				break loop
			}
		}
		length := int(e>>16) + int(bits&(1<<(e&63)-1)>>(e>>8&63)) // at most 42 bits are gone then
		bits >>= e & 63
		n -= uint64(e)

		bits |= in.load64(pos) << (n & 63)
		pos += int(63-n&63) >> 3
		n |= 56
		e = dist[bits&(1<<distBits-1)]
		if e&special != 0 {
			if e&special != kindSub {
				state = badCode
				break loop
			}
			bits >>= distBits
			n -= distBits
			e = dist[(uint64(e>>16)+bits&(1<<(e>>8&63)-1))&(distSize-1)]
			if e&special != 0 {
				state = badCode
				break loop
			}
		}
		offset := int(e>>16) + int(bits&(1<<(e&63)-1)>>(e>>8&63))
		bits >>= e & 63
		n -= uint64(e)
		if offset > o-low {
			state = badDistance
			break loop
		}
		from, end := o-offset, o+length
		switch {
		case offset >= 8:
			buf.store64(o, buf.load64(from))
			buf.store64(o+8, buf.load64(from+8))
			for i := 16; i < length; i += 8 {
				buf.store64(o+i, buf.load64(from+i))
			}
		case offset == 1:
			v := uint64(buf[from&(BufferSize-1)]) * 0x0101010101010101
			for i := 0; i < length; i += 8 {
				buf.store64(o+i, v)
			}
		default:
			for i := range length {
				buf[(o+i)&(BufferSize-1)] = buf[(from+i)&(BufferSize-1)]
			}
		}
		o = end
	}
	n &= 63
	pos -= int(n >> 3)
	n &= 7
	d.bits, d.n, d.pos = bits&(1<<n-1), uint(n), pos
	return o, state
}
