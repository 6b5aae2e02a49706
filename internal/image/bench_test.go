package image

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// benchImage has n gzip layers of 500 files, each layer about 24 MiB that compress to about a third.
func benchImage(b *testing.B, n int) (v1.Image, int64) {
	b.Helper()
	r := rand.New(rand.NewPCG(1, 2))
	words := make([][]byte, 4096)
	for i := range words {
		w := make([]byte, 3+r.IntN(12))
		for j := range w {
			w[j] = byte('a' + r.IntN(26))
		}
		words[i] = w
	}
	var layers []v1.Layer
	var total int64
	for l := range n {
		var buf bytes.Buffer
		w := tar.NewWriter(&buf)
		for f := range 500 {
			var body bytes.Buffer
			for size := 1<<10 + r.IntN(96<<10); body.Len() < size; {
				body.Write(words[r.IntN(len(words))])
			}
			w.WriteHeader(&tar.Header{Name: fmt.Sprintf("layer%d/dir%d/file%d", l, f/20, f), Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(body.Len())})
			w.Write(body.Bytes())
		}
		w.Close()
		data := buf.Bytes()
		total += int64(len(data))
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil })
		if err != nil {
			b.Fatal(err)
		}
		layers = append(layers, layer)
	}
	return build(b, machine(), layers...), total
}

// BenchmarkPull is the pull of eight gzip layers from a registry on loopback: download, hash, decompress,
// hash, unpack, record. Bytes are the uncompressed ones.
func BenchmarkPull(b *testing.B) {
	needRoot(b)
	img, size := benchImage(b, 8)
	f := newFake(b)
	ref := f.push(b, "bench:1", img)
	b.SetBytes(size)
	b.ResetTimer()
	for b.Loop() {
		b.StopTimer()
		s := openStore(b, func(c *Config) { c.Log = slog.New(slog.DiscardHandler) })
		b.StartTimer()
		if _, err := s.Pull(context.Background(), ref, PullOptions{}); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		s.Close()
		b.StartTimer()
	}
}

// BenchmarkPrepare is what a container's start needs of the store, and its end.
func BenchmarkPrepare(b *testing.B) {
	needRoot(b)
	s := openStore(b, func(c *Config) { c.Log = slog.New(slog.DiscardHandler) })
	img := put(b, s, simple(b))
	ctx := context.Background()
	b.ResetTimer()
	for n := 0; b.Loop(); n++ {
		key := fmt.Sprint("c", n)
		if _, err := s.Prepare(ctx, key, img); err != nil {
			b.Fatal(err)
		}
		if err := s.RemoveRootfs(ctx, key); err != nil {
			b.Fatal(err)
		}
	}
}
