package api

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

func TestFrames(t *testing.T) {
	var b bytes.Buffer
	long := bytes.Repeat([]byte("x"), MaxFrame+1)
	for _, p := range [][]byte{nil, []byte("hello"), long} {
		if err := WriteFrame(&b, FrameStdout, p); err != nil {
			t.Fatal(err)
		}
	}
	buf := make([]byte, MaxFrame)
	for _, want := range []int{0, 5, MaxFrame, 1} {
		kind, p, err := ReadFrame(&b, buf)
		if err != nil || kind != FrameStdout || len(p) != want {
			t.Fatalf("%d, %d bytes, %v; want %d bytes", kind, len(p), err, want)
		}
	}
	if _, _, err := ReadFrame(&b, buf); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
	for _, bad := range []string{"\x07\x00\x00\x00\x00", "\x00\x00\x01\x00\x01", "\x00\xff\xff\xff\xff"} {
		if _, _, err := ReadFrame(bytes.NewReader([]byte(bad)), buf); !errors.Is(err, ErrFrame) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func FuzzReadFrame(f *testing.F) {
	f.Add([]byte("\x01\x00\x00\x00\x05hello"))
	buf := make([]byte, MaxFrame)
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		for {
			kind, p, err := ReadFrame(r, buf)
			if err != nil {
				return
			}
			if kind > FrameError || len(p) > MaxFrame {
				t.Fatalf("kind %d, %d bytes", kind, len(p))
			}
		}
	})
}
