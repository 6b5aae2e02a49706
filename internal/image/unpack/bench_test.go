package unpack

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// benchTar is a layer like a distribution's: 4000 files in 200 directories, most small, some large.
func benchTar(b *testing.B) []byte {
	b.Helper()
	r := rand.New(rand.NewPCG(1, 2))
	body := make([]byte, 4<<20)
	for i := range body {
		body[i] = byte(r.IntN(64))
	}
	var entries []ent
	for d := range 200 {
		dir := fmt.Sprintf("usr/lib/package%d/", d)
		entries = append(entries, ent{name: dir, typ: tar.TypeDir, mode: 0o755})
		for f := range 20 {
			size := r.IntN(8 << 10)
			switch {
			case f == 0 && d%10 == 0:
				size = 2<<20 + r.IntN(2<<20)
			case f < 4:
				size = r.IntN(64 << 10)
			}
			entries = append(entries, ent{name: fmt.Sprintf("%sfile%d", dir, f), body: string(body[:size])})
		}
	}
	return makeTar(b, entries...)
}

// BenchmarkApply is the unpacking of an uncompressed layer that is in memory.
func BenchmarkApply(b *testing.B) {
	needRoot(b)
	data := benchTar(b)
	b.SetBytes(int64(len(data)))
	root := b.TempDir()
	b.ResetTimer()
	for n := 0; b.Loop(); n++ {
		dir := filepath.Join(root, fmt.Sprint(n))
		if err := os.Mkdir(dir, 0o755); err != nil {
			b.Fatal(err)
		}
		if _, err := Apply(context.Background(), dir, bytes.NewReader(data), Limits{}); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		os.RemoveAll(dir)
		b.StartTimer()
	}
}
