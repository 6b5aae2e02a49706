package decompress

import (
	"bytes"
	"io"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

func TestReader(t *testing.T) {
	plain := bytes.Repeat([]byte("layer "), 10000)
	var gz, zs bytes.Buffer
	w := gzip.NewWriter(&gz)
	w.Write(plain)
	w.Close()
	z, _ := zstd.NewWriter(&zs)
	z.Write(plain)
	z.Close()
	for name, in := range map[string][]byte{"plain": plain, "gzip": gz.Bytes(), "zstd": zs.Bytes(), "two members": append(bytes.Clone(gz.Bytes()), gz.Bytes()...)} {
		r, err := Reader(bytes.NewReader(in))
		if err != nil {
			t.Fatal(name, err)
		}
		got, err := io.ReadAll(r)
		r.Close()
		if err != nil || !bytes.HasPrefix(got, plain) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
	for _, in := range []string{"", "x"} {
		r, err := Reader(bytes.NewReader([]byte(in)))
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := io.ReadAll(r); string(got) != in {
			t.Errorf("%q became %q", in, got)
		}
	}
}

func FuzzReader(f *testing.F) {
	f.Add([]byte{0x1f, 0x8b, 8, 0})
	f.Add([]byte{0x28, 0xb5, 0x2f, 0xfd, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := Reader(bytes.NewReader(b)); err == nil {
			io.Copy(io.Discard, io.LimitReader(r, 1<<20))
			r.Close()
		}
	})
}
