package unpack

// Limits bounds what one layer may hold; a zero field is the default.
type Limits struct {
	// Bytes bounds the uncompressed tar, and the sum of the sizes of its files; 0 is 64 GiB.
	Bytes int64
	// Entries bounds the number of entries; 0 is 4 million.
	Entries int64
	// Depth bounds the number of a path's components; 0 is 512.
	Depth int
}

// MaxBytes is Bytes with its default.
func (l Limits) MaxBytes() int64 { return l.withDefaults().Bytes }

// withDefaults fills zero fields.
func (l Limits) withDefaults() Limits {
	if l.Bytes == 0 {
		l.Bytes = 64 << 30
	}
	if l.Entries == 0 {
		l.Entries = 4 << 20
	}
	if l.Depth == 0 {
		l.Depth = 512
	}
	return l
}
