package main

import (
	"bytes"
	"strings"
	"testing"
)

func testView() (*view, *bytes.Buffer, *bytes.Buffer) {
	var out, err bytes.Buffer
	return newView(&cli{out: &out, err: &err}, false), &out, &err
}

func TestLinesCarryTheirContainersName(t *testing.T) {
	v, out, _ := testView()
	v.reserve([]string{"web", "reader"})
	w := v.writer("web")
	for _, part := range []string{"first\nsec", "ond\n\nno end"} {
		w.Write([]byte(part))
	}
	w.flush()
	want := "web    | first\nweb    | second\nweb    | \nweb    | no end\n"
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out, want)
	}
}

func TestALineThatDoesNotEndIsNotKeptForEver(t *testing.T) {
	v, out, _ := testView()
	w := v.writer("x")
	for range 100 {
		w.Write(bytes.Repeat([]byte("y"), 4096))
	}
	if cap(w.rest) > 4*maxLine {
		t.Errorf("%d bytes are kept", cap(w.rest))
	}
	w.flush()
	if got := strings.Count(out.String(), "y"); got != 100*4096 {
		t.Errorf("%d bytes arrived, want %d", got, 100*4096)
	}
}

func TestColourIsForTerminalsOnly(t *testing.T) {
	v, out, err := testView()
	v.reserve([]string{"web"})
	v.line("web", []byte("text"))
	v.note("a note")
	v.progress("image", 1, 2, "", false)
	if strings.Contains(out.String()+err.String(), "\x1b") {
		t.Errorf("escapes where there is no terminal: %q %q", out, err)
	}
	v.colour, v.redraw = true, true
	v.line("web", []byte("text"))
	if !strings.Contains(out.String(), "\x1b[36mweb │\x1b[0m text") {
		t.Errorf("no colour on a terminal: %q", out)
	}
	v.progress("image", 1, 2, "1 of 2 layers", false)
	v.note("over it")
	v.progress("image", 2, 2, "", true)
	if got := err.String(); !strings.Contains(got, "1 of 2 layers") || !strings.HasSuffix(got, redraw) {
		t.Errorf("the bar was not drawn and wiped: %q", got)
	}
}

func TestStampedLinesAreGivenOnce(t *testing.T) {
	var got []string
	w := newStamped(func(b []byte) { got = append(got, string(b)) }, false)
	w.Write([]byte("2026-01-01T00:00:00.1Z one\n2026-01-01T00:00:00.2Z two\n2026-01-01T00:00:00.2Z three\n"))
	w.resume() // the node was replaced, and the stream begins again
	w.Write([]byte("2026-01-01T00:00:00.2Z two\n2026-01-01T00:00:00.2Z three\n2026-01-01T00:00:00.2Z four\n2026-01-01T00:00:00.3Z five\n2026-01-01T00:00:00.1Z six\n"))
	if strings.Join(got, " ") != "one two three four five six" {
		t.Errorf("got %q", got)
	}
}
