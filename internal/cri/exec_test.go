package cri

import "testing"

// Both streams together fit into a message of 16 MiB, and what fits is not cut.
func TestOutputFitsIntoAMessage(t *testing.T) {
	const most = 16<<20 - 1<<10
	for _, c := range [][4]int{
		{0, 0, 0, 0}, {5, 6, 5, 6}, {16 << 20, 0, most, 0}, {0, 20 << 20, 0, most}, {16 << 20, 100, most - 100, 100},
		{100, 16 << 20, 100, most - 100}, {16 << 20, 16 << 20, most / 2, most / 2},
	} {
		out, errs := fit(make([]byte, c[0]), make([]byte, c[1]))
		if len(out) != c[2] || len(errs) != c[3] {
			t.Errorf("%d and %d become %d and %d, want %d and %d", c[0], c[1], len(out), len(errs), c[2], c[3])
		}
	}
}
