package demo

import (
	"context"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestWritePageGreetsThePod(t *testing.T) {
	path := filepath.Join(t.TempDir(), "index.html")
	if err := WritePage(path, "hello", time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(b), "Hello from hello") || !strings.Contains(string(b), "1970-01-01T00:00:01Z") {
		t.Errorf("page is %s", b)
	}
	if names, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".page-*")); len(names) != 0 {
		t.Errorf("left behind: %v", names)
	}
}

func TestServeServesUntilItIsAskedToEnd(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "index.html"), []byte("a page"), 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	lines, log := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, "127.0.0.1:0", dir, log) }()
	buf := make([]byte, 256)
	n, err := lines.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	first := strings.Fields(string(buf[:n]))
	go io.Copy(io.Discard, lines)
	resp, err := http.Get("http://" + first[len(first)-1] + "/")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil || string(body) != "a page" {
		t.Errorf("got %q, %v", body, err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestWatchTellsOfEachChangeOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, w := io.Pipe()
	go func() { Watch(ctx, path, time.Millisecond, w); w.Close() }()
	read := func() string {
		buf := make([]byte, 512)
		n, _ := r.Read(buf)
		return string(buf[:n])
	}
	if got := read(); !strings.Contains(got, "not there yet") {
		t.Errorf("first line is %q", got)
	}
	if err := os.WriteFile(path, []byte("four"), 0o644); err != nil {
		t.Fatal(err)
	}
	for got := read(); !strings.Contains(got, "4 bytes"); got = read() {
		if !strings.Contains(got, "0 bytes") { // seen between its making and its writing
			t.Fatalf("second line is %q", got)
		}
	}
	cancel()
	if got := read(); !strings.Contains(got, "good-bye") {
		t.Errorf("last line is %q", got)
	}
}
