package podlog

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"
)

const sample = `2026-11-21T10:00:00.000000001Z stdout F one
2026-11-21T10:00:01.000000001Z stderr F oops
torn
2026-11-21T10:00:02.000000001Z stdout P two,
2026-11-21T10:00:03.000000001Z stdout F  still two
2026-11-21T10:00:04.000000001Z stdout F 
2026-11-21T10:00:05.000000001Z stdout F three
`

func ptr(n int64) *int64 { return &n }

func TestCopy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	os.WriteFile(path, []byte(sample), 0o600)
	for _, c := range []struct {
		name     string
		o        Options
		out, err string
	}{
		{"all", Options{}, "one\ntwo, still two\n\nthree\n", "oops\n"},
		{"tail", Options{TailLines: ptr(1)}, "three\n", ""},
		{"tail of more than there is", Options{TailLines: ptr(100)}, "one\ntwo, still two\n\nthree\n", "oops\n"},
		{"tail 0", Options{TailLines: ptr(0)}, "", ""},
		{"since", Options{Since: time.Date(2026, 11, 21, 10, 0, 4, 0, time.UTC)}, "\nthree\n", ""},
		{"limit", Options{LimitBytes: ptr(6)}, "on", "oops"},
		{"timestamps", Options{Timestamps: true, TailLines: ptr(4)}, "2026-11-21T10:00:02.000000001Z two, still two\n2026-11-21T10:00:04.000000001Z \n2026-11-21T10:00:05.000000001Z three\n", ""},
	} {
		var out, stderr bytes.Buffer
		if err := Copy(t.Context(), path, c.o, nil, &out, &stderr); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if c.name == "limit" {
			if out.Len()+stderr.Len() != 6 {
				t.Errorf("limit: %q %q", out.String(), stderr.String())
			}
			continue
		}
		if out.String() != c.out || stderr.String() != c.err {
			t.Errorf("%s: got %q and %q", c.name, out.String(), stderr.String())
		}
	}
	if err := Copy(t.Context(), path+"none", Options{}, nil, io.Discard, io.Discard); err != nil {
		t.Errorf("no log: %v", err)
	}
}

// Of a log that begins after its reader has come, all lines are new.
func TestTailOfALogToCome(t *testing.T) {
	var out bytes.Buffer
	c := &copier{path: filepath.Join(t.TempDir(), "0.log"), o: Options{Follow: true, TailLines: ptr(0)}, stdout: &out, stderr: io.Discard, fresh: [2]bool{true, true}}
	defer c.close()
	if err := c.open(true); err != nil || c.file != nil {
		t.Fatalf("no file yet: %v", err)
	}
	os.WriteFile(c.path, []byte(sample), 0o600)
	if there, err := c.next(t.Context()); err != nil || !there {
		t.Fatalf("the file: %v, %v", there, err)
	}
	if err := c.drain(t.Context()); err != nil || out.String() != "one\ntwo, still two\n\nthree\n" {
		t.Errorf("%q, %v", out.String(), err)
	}
}

// TestFollow writes a log, rotates it under the reader as a kubelet does, and ends the container.
func TestFollow(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	ended := make(chan struct{})
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- Copy(t.Context(), path, Options{Follow: true}, ended, w, w); w.Close() }()

	var f *os.File
	n := 0
	write := func() {
		n++
		fmt.Fprintf(f, "2026-11-21T10:00:00.000000001Z stdout F line %d\n", n)
	}
	expect := func(upTo int) {
		t.Helper()
		buf := make([]byte, 64)
		for ; upTo > 0; upTo-- {
			if _, err := io.ReadAtLeast(r, buf[:7], 7); err != nil {
				t.Fatal(err)
			}
		}
	}
	reopen := func() { f, _ = os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600) }
	reopen()
	write()
	expect(1)
	os.Rename(path, path+".20261121-100000")
	write() // the writer has not reopened yet
	old := f
	reopen()
	old.Close()
	write()
	expect(2)
	write()
	close(ended)
	rest, err := io.ReadAll(r)
	if err != nil || string(rest) != "line 4\n" {
		t.Errorf("at the end: %q, %v", rest, err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	f.Close()
}

// A reader that is slow finds the log rotated several times since its last look: it reads each file in turn, as far as they
// are left.
func TestFollowSlowly(t *testing.T) {
	for _, removed := range []int{0, 2} {
		dir := t.TempDir()
		path := filepath.Join(dir, "0.log")
		rotated := func(i int) string { return fmt.Sprintf("%s.20261121-10000%d.000000000", path, i) }
		put := func(name string, n int) {
			t.Helper()
			line := fmt.Sprintf("2026-11-21T10:00:00.000000001Z stdout F line %d\n", n)
			if err := os.WriteFile(name, []byte(line), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		put(path, 1)
		ended := make(chan struct{})
		r, w := io.Pipe() // without a buffer: the reader of the log waits until line 1 is taken
		done := make(chan error, 1)
		go func() { done <- Copy(t.Context(), path, Options{Follow: true}, ended, w, w); w.Close() }()
		first := make([]byte, 1)
		if _, err := io.ReadFull(r, first); err != nil {
			t.Fatal(err)
		}
		for n := 2; n <= 5; n++ {
			if err := os.Rename(path, rotated(n-1)); err != nil {
				t.Fatal(err)
			}
			put(path, n)
		}
		put(path+".20261121-100003.gz", 9) // others' files
		put(path+".tmp", 9)
		for n := range removed {
			os.Remove(rotated(n + 1))
		}
		close(ended)
		rest, err := io.ReadAll(r)
		want := "line 1\n"
		for n := max(2, removed+1); n <= 5; n++ {
			want += fmt.Sprintf("line %d\n", n)
		}
		if got := string(first) + string(rest); err != nil || got != want {
			t.Errorf("%d removed: %q, %v, want %q", removed, got, err, want)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestFollowEndsWithContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Copy(ctx, filepath.Join(t.TempDir(), "0.log"), Options{Follow: true}, nil, io.Discard, io.Discard); err != context.Canceled {
		t.Errorf("got %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("2026-11-21T10:00:00.000000001Z stdout F one"))
	f.Add([]byte("2026-11-21T10:00:00Z stderr P:x "))
	f.Fuzz(func(t *testing.T, b []byte) {
		if l, err := Parse(b); err == nil && len(l.Content) > len(b) {
			t.Fatal("longer than its line")
		}
	})
}
