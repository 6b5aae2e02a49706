package demo

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// layer is an uncompressed tar layer that is made anew each time it is read. It is stored
// uncompressed on purpose: it never crosses a network, and gzip would cost a second.
type layer struct {
	path   string
	digest v1.Hash
	size   int64
}

var _ v1.Layer = (*layer)(nil)

func newLayer(path string) (*layer, error) {
	h, n := sha256.New(), countingWriter(0)
	if err := writeLayer(io.MultiWriter(h, &n), path); err != nil {
		return nil, fmt.Errorf("make demo layer from %s: %w", path, err)
	}
	return &layer{path: path, digest: v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(h.Sum(nil))}, size: int64(n)}, nil
}

func (l *layer) Digest() (v1.Hash, error)            { return l.digest, nil }
func (l *layer) DiffID() (v1.Hash, error)            { return l.digest, nil }
func (l *layer) Size() (int64, error)                { return l.size, nil }
func (l *layer) MediaType() (types.MediaType, error) { return types.OCIUncompressedLayer, nil }
func (l *layer) Compressed() (io.ReadCloser, error)  { return l.Uncompressed() }
func (l *layer) Uncompressed() (io.ReadCloser, error) {
	r, w := io.Pipe()
	go func() { w.CloseWithError(writeLayer(w, l.path)) }()
	return r, nil
}

type countingWriter int64

func (c *countingWriter) Write(p []byte) (int, error) {
	*c += countingWriter(len(p))
	return len(p), nil
}
