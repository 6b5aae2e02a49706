package inflate

// fixed makes the tables of RFC 1951, 3.2.6, once for blocks that follow each other: such a block may have ten bits.
func (d *Decoder) fixed() {
	if d.isFixed {
		return
	}
	d.isFixed = true
	var lengths [288]uint8
	for i := range lengths {
		switch {
		case i < 144:
			lengths[i] = 8
		case i < 256:
			lengths[i] = 9
		case i < 280:
			lengths[i] = 7
		default:
			lengths[i] = 8
		}
	}
	build(d.lit[:], litBits, lengths[:], litEntry)
	clear(lengths[:])
	for i := range 32 {
		lengths[i] = 5
	}
	build(d.dist[:], distBits, lengths[:32], distEntry)
}

// codeOrder is the order of the code lengths' code lengths (RFC 1951, 3.2.7).
var codeOrder = [...]uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}

const preBits = 7

// dynamic reads a block's tables (RFC 1951, 3.2.7).
func (d *Decoder) dynamic() error {
	head, err := d.get(14)
	if err != nil {
		return err
	}
	nlit, ndist, npre := int(head&31)+257, int(head>>5&31)+1, int(head>>10)+4
	if nlit > maxLit || ndist > maxDist {
		return corrupt("too many codes")
	}
	var pre [19]uint8
	for _, i := range codeOrder[:npre] {
		l, err := d.get(3)
		if err != nil {
			return err
		}
		pre[i] = uint8(l)
	}
	var lengths [maxLit + maxDist]uint8
	if err := d.lengths(lengths[:nlit+ndist], &pre); err != nil {
		return err
	}
	d.isFixed = false
	if !build(d.lit[:], litBits, lengths[:nlit], litEntry) || !build(d.dist[:], distBits, lengths[nlit:nlit+ndist], distEntry) {
		return corrupt("a block's codes")
	}
	pair(&d.lit)
	return nil
}

// lengths reads code lengths that are compressed themselves.
func (d *Decoder) lengths(out []uint8, pre *[19]uint8) error {
	var table [1 << preBits]entry
	if !build(table[:], preBits, pre[:], func(s int) (entry, int) { return entry(s) << 16, 0 }) {
		return corrupt("a block's code lengths")
	}
	for i := 0; i < len(out); {
		// A code may be followed by nothing but the stream's last bits.
		var e entry
		for e = table[d.bits&(1<<preBits-1)]; uint(e&63) > d.n || e == invalid; e = table[d.bits&(1<<preBits-1)] {
			if d.n >= preBits {
				return corrupt("a block's code lengths")
			}
			if err := d.need(d.n + 1); err != nil {
				return err
			}
		}
		d.take(uint(e & 63))
		symbol := uint8(e >> 16)
		if symbol < 16 {
			out[i] = symbol
			i++
			continue
		}
		value, bits, base := uint8(0), uint(3), 3
		switch symbol {
		case 16:
			if i == 0 {
				return corrupt("a repeated code length")
			}
			value, bits = out[i-1], 2
		case 18:
			bits, base = 7, 11
		}
		more, err := d.get(bits)
		if err != nil {
			return err
		}
		n := base + int(more)
		if n > len(out)-i {
			return corrupt("too many code lengths")
		}
		for ; n > 0; n-- {
			out[i] = value
			i++
		}
	}
	return nil
}
