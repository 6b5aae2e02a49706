package image

import (
	"context"
	"fmt"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/11f9778f/berth/internal/image/kind"
	"github.com/11f9778f/berth/internal/image/reference"
)

// Put brings an image that is made here into the store under the name ref, which has a tag. An image that
// is here already costs a look-up. An image that had no other name than ref before is removed.
func (s *Store) Put(ctx context.Context, ref string, img v1.Image) (*Image, error) {
	if err := s.gate.enter(); err != nil {
		return nil, err
	}
	defer s.gate.calls.Done()
	r, err := reference.Parse(ref)
	if err != nil {
		return nil, err
	}
	i, err := s.put(ctx, r, img)
	if err != nil {
		return nil, fmt.Errorf("store the image %s: %w", r.Familiar(), err)
	}
	return i, nil
}

func (s *Store) put(ctx context.Context, ref reference.Reference, img v1.Image) (*Image, error) {
	raw, err := img.RawManifest()
	if err != nil {
		return nil, err
	}
	media, err := img.MediaType()
	if err != nil {
		return nil, err
	}
	config, err := img.RawConfigFile()
	if err != nil {
		return nil, err
	}
	fetch := func(_ context.Context, desc ispec.Descriptor, w io.Writer) error {
		h, err := v1.NewHash(desc.Digest.String())
		if err != nil {
			return err
		}
		l, err := img.LayerByDigest(h)
		if err != nil {
			return err
		}
		r, err := l.Compressed()
		if err != nil {
			return err
		}
		defer r.Close()
		_, err = io.Copy(w, r)
		return err
	}
	c, err := contentsOf(raw, string(media), config, nil)
	if err != nil {
		return nil, err
	}
	name := ref.Tagged()
	if name == "" {
		return nil, kind.Errorf(ErrInvalid, "it needs a tag")
	}
	return s.bring(ctx, c, fetchFunc(fetch), nil, name)
}

// contentsOf checks a manifest and configuration that are here in full.
func contentsOf(raw []byte, media string, config []byte, want *ispec.Platform) (*contents, error) {
	doc, err := parseDocument(raw, media)
	if err != nil {
		return nil, err
	}
	if err := doc.checkManifest(); err != nil {
		return nil, err
	}
	if got := doc.Config.Digest.Algorithm().FromBytes(config); got != doc.Config.Digest {
		return nil, kind.Errorf(ErrCorrupt, "its configuration has the digest %s, its manifest says %s", got, doc.Config.Digest)
	}
	desc := ispec.Descriptor{MediaType: media, Digest: digestOf(raw), Size: int64(len(raw))}
	return doc.assemble(desc, raw, config, want)
}

// bring brings an image's layers into the store and records it under names.
func (s *Store) bring(ctx context.Context, c *contents, fetch blobSource, rep *reporter, names ...string) (*Image, error) {
	defer wake(s.settle) // after the leases: what nobody wants is garbage now
	defer s.lease(c.digests()...)()
	if err := s.ensureLayers(ctx, c.layers, fetch, rep); err != nil {
		s.keepForRetry(c, err)
		return nil, err
	}
	return s.record(c, names...)
}
