package checkpoint

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	goruntime "runtime"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// AnnotationName marks the manifest of an image that holds an archive, its one layer: the name of the container. It is
// Podman's and buildah's.
const AnnotationName = "org.criu.checkpoint.container.name"

// WriteImage writes an image that holds an archive, as the tar of an OCI image layout: so it travels by a registry, and
// a container whose image it is becomes the checkpoint. It reads the archive twice.
func WriteImage(ctx context.Context, w io.Writer, archive, container string) error {
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	layer, err := digest.Canonical.FromReader(f)
	if err != nil {
		return fmt.Errorf("read %s: %w", archive, err)
	}
	size, err := f.Seek(0, io.SeekCurrent)
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", archive, err)
	}
	l := layout{ctx: ctx, tw: tar.NewWriter(w)}
	config := l.document(ispec.MediaTypeImageConfig, ispec.Image{
		Platform: ispec.Platform{Architecture: goruntime.GOARCH, OS: goruntime.GOOS}, RootFS: ispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{layer}},
	})
	manifest := l.document(ispec.MediaTypeImageManifest, ispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ispec.MediaTypeImageManifest, Config: config,
		Layers:      []ispec.Descriptor{{MediaType: ispec.MediaTypeImageLayer, Digest: layer, Size: size}},
		Annotations: map[string]string{AnnotationName: container},
	})
	l.file(blobName(layer), size, f)
	l.json(ispec.ImageIndexFile, ispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ispec.MediaTypeImageIndex, Manifests: []ispec.Descriptor{manifest}})
	l.json(ispec.ImageLayoutFile, ispec.ImageLayout{Version: ispec.ImageLayoutVersion})
	if l.err != nil {
		return fmt.Errorf("write image of %s: %w", archive, l.err)
	}
	return l.tw.Close()
}

func blobName(d digest.Digest) string { return "blobs/" + d.Algorithm().String() + "/" + d.Encoded() }

// layout writes the files of an OCI image layout. After its first error it does nothing more.
type layout struct {
	ctx context.Context
	tw  *tar.Writer
	err error
}

func (l *layout) file(name string, size int64, r io.Reader) {
	if l.err == nil {
		l.err = l.ctx.Err()
	}
	if l.err == nil {
		l.err = l.tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o600, Size: size})
	}
	if l.err == nil {
		_, l.err = io.Copy(l.tw, r)
	}
}

func (l *layout) json(name string, v any) {
	b := l.encode(v)
	l.file(name, int64(len(b)), bytes.NewReader(b))
}

func (l *layout) encode(v any) []byte {
	b, err := json.Marshal(v)
	if l.err == nil {
		l.err = err
	}
	return b
}

// document writes a blob and describes it.
func (l *layout) document(mediaType string, v any) ispec.Descriptor {
	b := l.encode(v)
	d := ispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	l.file(blobName(d.Digest), d.Size, bytes.NewReader(b))
	return d
}
