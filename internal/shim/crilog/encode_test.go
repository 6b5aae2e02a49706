package crilog

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

var testTime = time.Date(2026, 11, 21, 11, 38, 0, 123456789, time.FixedZone("CET", 3600))

const testStamp = "2026-11-21T10:38:00.123456789Z"

func TestEncode(t *testing.T) {
	long := strings.Repeat("x", MaxLine)
	for _, c := range []struct {
		name, in string
		final    bool
		want     string
		covered  int
	}{
		{"nothing", "", false, "", 0},
		{"a line", "hello\n", false, "stdout F hello\n", 6},
		{"an empty line", "\n", false, "stdout F \n", 1},
		{"two and a half", "a\nb\nc", false, "stdout F a\nstdout F b\n", 4},
		{"the rest at the end", "a\nb", true, "stdout F a\nstdout P b\n", 3},
		{"the end of nothing", "", true, "", 0},
		{"carriage returns stay", "a\r\n", false, "stdout F a\r\n", 3},
		{"just fits", long + "\n", false, "stdout F " + long + "\n", MaxLine + 1},
		{"one too many", long + "y\n", false, "stdout P " + long + "\nstdout F y\n", MaxLine + 2},
		{"full, its newline may follow", long, false, "", 0},
		{"full and over", long + "y", false, "stdout P " + long + "\n", MaxLine},
		{"full at the end", long, true, "stdout P " + long + "\n", MaxLine},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, covered := encode(nil, []byte(c.in), Stdout, testTime, c.final, 1<<20)
			want := strings.ReplaceAll(c.want, "stdout ", testStamp+" stdout ")
			if string(got) != want || covered != c.covered {
				t.Errorf("got %.200q covering %d, want %.200q covering %d", got, covered, want, c.covered)
			}
		})
	}
}

func TestEncodeStopsAtLimit(t *testing.T) {
	in := bytes.Repeat([]byte("\n"), 10_000)
	got, covered := encode(nil, in, Stderr, testTime, false, 1000)
	if len(got) < 1000 || len(got) > 1100 || covered != bytes.Count(got, []byte("\n")) {
		t.Errorf("%d bytes covering %d", len(got), covered)
	}
}

// FuzzEncode checks that what a reader puts together again is what was written.
func FuzzEncode(f *testing.F) {
	f.Add([]byte("a\nb\n\nc"), 3)
	f.Add(bytes.Repeat([]byte("z"), 3*MaxLine+1), MaxLine)
	f.Fuzz(func(t *testing.T, in []byte, cut int) {
		if cut < 0 || cut > len(in) {
			cut = len(in) / 2
		}
		enc, n := encode(nil, in[:cut], Stdout, testTime, false, 1<<30)
		enc, m := encode(enc, in[n:], Stdout, testTime, true, 1<<30)
		if n+m != len(in) {
			t.Fatalf("covered %d + %d of %d", n, m, len(in))
		}
		var back []byte
		for _, line := range bytes.SplitAfter(enc, []byte("\n")) {
			if len(line) == 0 {
				continue
			}
			text, ok := bytes.CutPrefix(line, []byte(testStamp+" stdout "))
			if !ok {
				t.Fatalf("record %q", line)
			}
			switch {
			case bytes.HasPrefix(text, []byte("F ")):
				back = append(back, text[2:]...)
			case bytes.HasPrefix(text, []byte("P ")):
				back = append(back, text[2:len(text)-1]...)
			default:
				t.Fatalf("record %q", line)
			}
		}
		if !bytes.Equal(back, in) {
			t.Fatalf("%q came back as %q", in, back)
		}
	})
}
