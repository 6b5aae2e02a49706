package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"os"
	"testing"

	"github.com/opencontainers/go-digest"
)

func build(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, h := range headers {
		body := h.PAXRecords["body"]
		h.PAXRecords, h.Size, h.Mode = nil, int64(len(body)), 0o644
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		w.Write([]byte(body))
	}
	w.Close()
	return buf.Bytes()
}

func file(name, body string) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeReg, PAXRecords: map[string]string{"body": body}}
}

func TestRead(t *testing.T) {
	dir := t.TempDir()
	b := build(t, file("./a/x.json", `{"k":1}`), file("../../escape", "evil"),
		tar.Header{Name: "b/layer.tar", Typeflag: tar.TypeSymlink, Linkname: "../a/x.json"},
		tar.Header{Name: "loop", Typeflag: tar.TypeSymlink, Linkname: "loop"})
	a, err := Read(context.Background(), bytes.NewReader(b), dir, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	var v map[string]int
	if f, ok := a.Lookup("b/layer.tar"); !ok || f.JSON(&v) != nil || v["k"] != 1 {
		t.Errorf("through the link: %v", v)
	}
	if _, ok := a.Lookup("loop"); ok {
		t.Error("a loop leads somewhere")
	}
	if _, ok := a.ByDigest(digest.FromString("evil")); !ok {
		t.Error("not found by its digest")
	}
	if names, _ := os.ReadDir(dir); len(names) != 2 {
		t.Errorf("spooled: %v", names)
	}
}

func TestLimits(t *testing.T) {
	b := build(t, file("a", "0123456789"))
	for name, in := range map[string][]byte{"too large": b, "cut": b[:515], "garbage": bytes.Repeat([]byte("x"), 2000)} {
		limit := int64(100)
		if name == "too large" {
			limit = 5
		}
		if _, err := Read(context.Background(), bytes.NewReader(in), t.TempDir(), limit); !errors.Is(err, ErrArchive) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add(build(f, file("a", "b")))
	f.Fuzz(func(t *testing.T, b []byte) {
		Read(context.Background(), bytes.NewReader(b), t.TempDir(), 1<<20)
	})
}
