package crilog

import (
	"bytes"
	"time"
)

// MaxLine is the longest piece of a line that one record holds.
const MaxLine = 16 << 10

// encode appends to dst the records for the whole lines of data, and for MaxLine pieces of a line that is
// longer, until dst has grown beyond limit. It returns how much of data they cover. With final, what is left
// without a newline becomes a record too, tagged P.
func encode(dst, data []byte, stream string, now time.Time, final bool, limit int) (out []byte, covered int) {
	var head [64]byte
	prefix := now.UTC().AppendFormat(head[:0], time.RFC3339Nano)
	prefix = append(append(append(prefix, ' '), stream...), ' ')
	record := func(tag byte, text []byte) {
		dst = append(dst, prefix...)
		dst = append(dst, tag, ' ')
		dst = append(append(dst, text...), '\n')
	}
	for len(dst) <= limit {
		rest := data[covered:]
		// A newline right behind MaxLine bytes still ends a whole line.
		end := bytes.IndexByte(rest[:min(len(rest), MaxLine+1)], '\n')
		switch {
		case end >= 0:
			record('F', rest[:end])
			covered += end + 1
		case len(rest) > MaxLine:
			record('P', rest[:MaxLine])
			covered += MaxLine
		case final && len(rest) > 0:
			record('P', rest)
			return dst, len(data)
		default:
			return dst, covered
		}
	}
	return dst, covered
}
