package image

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/11f9778f/berth/internal/image/decompress"
	"github.com/11f9778f/berth/internal/image/unpack"
)

// copyImage unpacks all layers of an image over each other into dir. It costs the image's size for each
// container, which is why it is the last resort.
func (s *Store) copyImage(ctx context.Context, dir string, img *Image) error {
	defer s.lease(img.digests()...)()
	for _, l := range img.Layers {
		open := func() (io.ReadCloser, error) {
			f, err := os.Open(s.blob(l.Blob.Digest))
			if err != nil {
				return nil, err
			}
			z, err := decompress.Reader(f)
			if err != nil {
				f.Close()
				return nil, err
			}
			return &unpacking{z, f}, nil
		}
		if err := unpack.Merge(ctx, dir, open, s.cfg.Limits); err != nil {
			return fmt.Errorf("copy layer %s: %w", l.DiffID, layerError(err))
		}
	}
	return nil // an engine makes the places of mounts that the image lacks
}

// unpacking is a decompressed file.
type unpacking struct {
	io.ReadCloser
	f *os.File
}

// Close implements io.Closer.
func (u *unpacking) Close() error {
	u.ReadCloser.Close()
	return u.f.Close()
}
