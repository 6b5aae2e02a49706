package image

import (
	"archive/tar"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/11f9778f/berth/internal/image/kind"
	"github.com/11f9778f/berth/internal/image/reference"
)

// Export writes images as one tar that is both an OCI image layout and what "docker save" writes, so that
// docker, podman, skopeo, containerd and Import take it. The same images make the same bytes. It checks
// that all of them are here before it writes.
func (s *Store) Export(ctx context.Context, w io.Writer, refOrIDs ...string) error {
	if err := s.gate.enter(); err != nil {
		return err
	}
	defer s.gate.calls.Done()
	e := &exporter{s: s, ctx: ctx, tw: tar.NewWriter(w), written: map[digest.Digest]bool{}}
	for _, what := range refOrIDs {
		img, err := s.Get(what)
		if err != nil {
			return err
		}
		defer s.lease(img.digests()...)()
		if err := e.add(img, what); err != nil {
			return fmt.Errorf("export %s: %w", what, err)
		}
	}
	if len(e.index) == 0 {
		return kind.Errorf(ErrInvalid, "there is nothing to export: name an image")
	}
	if err := e.write(); err != nil {
		return fmt.Errorf("export: %w", s.remedy(err))
	}
	return nil
}

// exporter is one archive being written.
type exporter struct {
	s       *Store
	ctx     context.Context
	tw      *tar.Writer
	index   []ispec.Descriptor
	docker  []dockerEntry
	blobs   []ispec.Descriptor
	written map[digest.Digest]bool
}

// add takes an image into the archive, under the name that was asked for, or under all where it was an ID.
func (e *exporter) add(img *Image, asked string) error {
	desc, config, err := e.s.described(img)
	if err != nil {
		return err
	}
	names := img.RepoTags
	if r, err := reference.Parse(asked); err == nil && r.Digest() == "" && e.s.isName(r.Tagged()) {
		names = []string{r.Tagged()}
	}
	for _, name := range names {
		r, err := reference.Parse(name)
		if err != nil {
			return err
		}
		named := desc
		named.Annotations = map[string]string{annotationContainerdName: name, ispec.AnnotationRefName: r.Tag()}
		e.index = append(e.index, named)
	}
	if len(names) == 0 {
		e.index = append(e.index, desc)
	}
	entry := dockerEntry{Config: blobName(config.Digest), RepoTags: []string{}, Layers: []string{}}
	for _, name := range names {
		r, _ := reference.Parse(name)
		entry.RepoTags = append(entry.RepoTags, r.Familiar())
	}
	e.blobs = append(e.blobs, desc, config)
	for _, l := range img.Layers {
		entry.Layers = append(entry.Layers, blobName(l.Blob.Digest))
		e.blobs = append(e.blobs, l.Blob)
	}
	e.docker = append(e.docker, entry)
	return nil
}

// isName tells whether a full name leads to an image.
func (s *Store) isName(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.own().names[name]
	return ok
}

// described returns the descriptors of an image's manifest and configuration.
func (s *Store) described(img *Image) (manifest, config ispec.Descriptor, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m, ok := s.own().manifests[img.Manifest]
	if !ok {
		return manifest, config, s.notFound(img.ID.String())
	}
	return m.desc, m.config, nil
}

func blobName(d digest.Digest) string { return path.Join("blobs", d.Algorithm().String(), d.Encoded()) }

func (e *exporter) write() error {
	index := ispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ispec.MediaTypeImageIndex, Manifests: e.index}
	for _, f := range []struct {
		name string
		v    any
	}{{ispec.ImageLayoutFile, ispec.ImageLayout{Version: ispec.ImageLayoutVersion}}, {ispec.ImageIndexFile, index}, {"manifest.json", e.docker}} {
		b, err := json.Marshal(f.v)
		if err != nil {
			return err
		}
		if err := e.header(f.name, int64(len(b))); err != nil {
			return err
		}
		if _, err := e.tw.Write(b); err != nil {
			return err
		}
	}
	for _, b := range e.blobs {
		if err := e.blob(b); err != nil {
			return err
		}
	}
	return e.tw.Close()
}

func (e *exporter) header(name string, size int64) error {
	return e.tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: size})
}

func (e *exporter) blob(desc ispec.Descriptor) error {
	if e.written[desc.Digest] {
		return nil
	}
	e.written[desc.Digest] = true
	f, err := os.Open(e.s.blob(desc.Digest))
	if err != nil {
		return err
	}
	defer f.Close()
	if err := e.header(blobName(desc.Digest), desc.Size); err != nil {
		return err
	}
	stop := context.AfterFunc(e.ctx, func() { f.Close() })
	defer stop()
	n, err := io.Copy(e.tw, io.LimitReader(f, desc.Size))
	if e.ctx.Err() != nil {
		return context.Cause(e.ctx)
	}
	if err == nil && n != desc.Size {
		err = kind.Errorf(ErrCorrupt, "the blob %s has %d bytes, it should have %d; run berth fsck --repair", desc.Digest, n, desc.Size)
	}
	return err
}
