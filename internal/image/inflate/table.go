package inflate

import "math/bits"

// An entry of a decoding table is 32 bits:
//
//	 0–5   bits to consume: the code, and the extra bits that follow it
//	 6–7   0, so that subtracting a whole entry from a count of bits works modulo 64
//	 8–13  bits of the code alone; of a literal the lower half of the first byte, see there
//	14–15  kindSub, kindEnd: what is neither literal nor length nor distance
//	16–30  base of the length or distance; of a kindSub the subtable's place
//	31     literal
//
// A literal entry has its first byte at 8–15, a second one at 16–23, and how many there are at 24–25: short codes
// come two at a time.
type entry uint32

const (
	literal entry = 1 << 31
	special entry = kindSub | kindEnd // both: no such code
	kindSub entry = 1 << 14
	kindEnd entry = 1 << 15
	invalid       = special

	litBits  = 11
	distBits = 9
	maxCode  = 15

	maxLit  = 286 // symbols that may occur; 286 and 287 have codes in the fixed table only
	maxDist = 30
	endSym  = 256

	// Room for the first level and all subtables, as powers of two: an index that is masked needs no check. A subtable
	// of 1<<n entries has n+1 codes at least: 286 codes need at most 2048 + 286/5*16 entries, 30 at most 512 + 30/7*64.
	litSize  = 1 << 12
	distSize = 1 << 10
)

type (
	litTable  [litSize]entry
	distTable [distSize]entry
)

// Bases and extra bits of RFC 1951, 3.2.5.
var (
	lengthBase = [...]uint16{3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258}
	lengthMore = [...]uint8{0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0}
	distBase   = [...]uint16{1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 257, 385, 513, 769, 1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577}
)

// litEntry is symbol's entry without its code's bits.
func litEntry(symbol int) (e entry, more int) {
	switch {
	case symbol < endSym:
		return literal | entry(symbol)<<8 | 1<<24, 0
	case symbol == endSym:
		return kindEnd, 0
	case symbol < maxLit:
		return entry(lengthBase[symbol-endSym-1]) << 16, int(lengthMore[symbol-endSym-1])
	}
	return invalid, 0
}

// distEntry is symbol's entry without its code's bits.
func distEntry(symbol int) (e entry, more int) {
	if symbol < maxDist {
		return entry(distBase[symbol]) << 16, max(0, symbol/2-1)
	}
	return invalid, 0
}

// build makes the table for the codes of lengths (RFC 1951, 3.2.2) with a first level of width bits. It says no to
// lengths that are no prefix code. Incomplete is allowed what compress/flate allows: no code at all, or one of one bit.
func build(table []entry, width int, lengths []uint8, symbol func(int) (entry, int)) bool {
	var count, next [maxCode + 1]int
	for _, l := range lengths {
		count[l]++
	}
	longest, space, total := 0, 0, 0 // space: what part of 1<<l the codes up to l bits take
	for l := 1; l <= maxCode; l++ {
		next[l] = total
		total += count[l]
		space = space<<1 + count[l]
		if count[l] > 0 {
			longest = l
		}
	}
	space >>= maxCode - longest
	if space != 1<<longest {
		if longest > 1 || space > 1<<longest {
			return false
		}
		for i := range table[:1<<width] {
			table[i] = invalid
		}
		if longest == 0 {
			return true
		}
	}
	var sorted [288]uint16 // by length, and by symbol among those of one length
	for s, l := range lengths {
		if l > 0 {
			sorted[next[l]] = uint16(s)
			next[l]++
		}
	}
	fill(table, width, sorted[:total], count, longest, symbol)
	return true
}

// fill writes the entries of the codes, which are given out in the order of sorted. The table doubles with each bit.
func fill(table []entry, width int, sorted []uint16, count [maxCode + 1]int, longest int, symbol func(int) (entry, int)) {
	code := 0
	for l := 1; l <= width; l++ {
		code <<= 1
		if l > 1 {
			copy(table[1<<(l-1):1<<l], table[:1<<(l-1)])
		}
		for range count[l] {
			table[reverse(code, l)] = entryOf(symbol, sorted[0], l)
			sorted = sorted[1:]
			code++
		}
	}
	place, sub := -1, 0 // the first level's place of the present subtable, and how many bits that takes
	start, end := 0, 1<<width
	for l := width + 1; l <= longest; l++ {
		code <<= 1
		for ; count[l] > 0; count[l]-- {
			r := reverse(code, l)
			if p := r & (1<<width - 1); p != place {
				place, start, sub = p, end, subWidth(&count, width, l)
				end = start + 1<<sub
				table[place] = kindSub | entry(start)<<16 | entry(sub)<<8 | entry(width)
			}
			e := entryOf(symbol, sorted[0], l-width)
			for i := r >> width; i < 1<<sub; i += 1 << (l - width) {
				table[start+i] = e
			}
			sorted = sorted[1:]
			code++
		}
	}
}

// subWidth is how many bits a subtable must take that begins with a code of l bits, when count are left.
func subWidth(count *[maxCode + 1]int, width, l int) int {
	sub := l - width
	for space := count[l]; space < 1<<sub && width+sub < maxCode; {
		sub++
		space = space<<1 + count[width+sub]
	}
	return sub
}

// reverse turns the n bits of a code around, as the stream has its first bit lowest.
func reverse(code, n int) int { return int(bits.Reverse16(uint16(code)) >> (16 - n)) }

// entryOf is the entry of a symbol with a code of n bits.
func entryOf(symbol func(int) (entry, int), s uint16, n int) entry {
	e, more := symbol(int(s))
	if e < literal && e&special == 0 {
		e |= entry(n) << 8
	}
	return e | entry(n+more)
}

// pair lets an entry of one literal bring the next one too where both codes fit into the first level.
func pair(table *litTable) {
	for i := 1<<litBits - 1; i >= 0; i-- { // downwards: i>>n is still a single one then, and i = 0 is its own
		e := table[i]
		n := e & 63
		next := table[i>>n]
		if e < literal || next < literal || n+next&63 > litBits {
			continue
		}
		table[i] = e + next&63 + next&0xff00<<8 + 1<<24
	}
}
