package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/opencontainers/image-spec/specs-go"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/11f9778f/berth/internal/failpoint"
	"github.com/11f9778f/berth/internal/image/archive"
	"github.com/11f9778f/berth/internal/image/kind"
	"github.com/11f9778f/berth/internal/image/reference"
	"github.com/11f9778f/berth/internal/sys"
)

// annotationContainerdName is where containerd and Docker put the full name.
const annotationContainerdName = "io.containerd.image.name"

// Import brings the images of an archive into the store: a tar, compressed or not, of an OCI image
// layout or of "docker save". Of an image for several platforms it takes the one that fits.
func (s *Store) Import(ctx context.Context, r io.Reader, o ImportOptions) ([]*Image, error) {
	if err := s.gate.enter(); err != nil {
		return nil, err
	}
	defer s.gate.calls.Done()
	images, err := s.importArchive(ctx, r, o)
	if err != nil {
		return nil, fmt.Errorf("import: %w", s.remedy(err))
	}
	return images, nil
}

func (s *Store) importArchive(ctx context.Context, r io.Reader, o ImportOptions) ([]*Image, error) {
	spool := s.unique(s.ingest, "import")
	if err := makeDir(spool, 0o700); err != nil {
		return nil, err
	}
	defer s.removeSpool(spool)
	a, err := archive.Read(ctx, r, spool, s.cfg.MaxImport)
	if err == nil {
		err = failpoint.Here("image/import/spooled")
	}
	if err != nil {
		return nil, err
	}
	var found []archived
	if index, ok := a.Lookup(ispec.ImageIndexFile); ok {
		found, err = s.findOCI(a, index, o)
	} else if m, ok := a.Lookup("manifest.json"); ok {
		found, err = s.findDocker(a, m, o)
	} else {
		err = kind.Errorf(archive.ErrArchive, "it is neither an OCI image layout (index.json) nor the output of docker save (manifest.json)")
	}
	if err != nil {
		return nil, err
	}
	var images []*Image
	for _, f := range found {
		img, err := s.importOne(ctx, a, f, o)
		if err != nil {
			return images, err
		}
		images = append(images, img)
	}
	return images, nil
}

func (s *Store) removeSpool(path string) {
	d, err := sys.OpenFolder(s.ingest)
	if err != nil {
		return
	}
	defer d.Close()
	// Under a fresh context: it must go also when the import was cancelled.
	if err := d.RemoveAll(context.Background(), strings.TrimPrefix(path, s.ingest+"/")); err != nil {
		s.log.Warn("an import's files stay until the next start", "path", path, "err", err)
	}
}

// archived is one image of an archive.
type archived struct {
	contents *contents
	names    []string
}

func (s *Store) importOne(ctx context.Context, a *archive.Archive, f archived, o ImportOptions) (*Image, error) {
	fetch := func(_ context.Context, desc ispec.Descriptor, w io.Writer) error {
		file, ok := a.ByDigest(desc.Digest)
		if !ok {
			return kind.Errorf(ErrCorrupt, "the archive lacks the blob %s", desc.Digest)
		}
		src, err := os.Open(file.Path)
		if err != nil {
			return err
		}
		defer src.Close()
		_, err = io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{src}, make([]byte, 256<<10))
		return err
	}
	title := "image " + f.contents.config.Digest.String()
	if len(f.names) > 0 {
		title = f.names[0]
	}
	rep := newReporter(title, o.Progress)
	img, err := s.bring(ctx, f.contents, fetchFunc(fetch), rep, f.names...)
	rep.close(err)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", title, err)
	}
	return img, nil
}

// findOCI finds the images in an OCI image layout.
func (s *Store) findOCI(a *archive.Archive, file *archive.File, o ImportOptions) ([]archived, error) {
	var index ispec.Index
	if err := file.JSON(&index); err != nil {
		return nil, err
	}
	var found []archived
	var other error
	for _, desc := range index.Manifests {
		if desc.Platform != nil && desc.Platform.OS == "unknown" {
			continue // an attestation
		}
		c, err := s.readOCI(a, desc, o)
		if errors.Is(err, ErrPlatform) && len(index.Manifests) > 1 {
			other = err
			continue
		}
		if err != nil {
			return nil, err
		}
		names, err := archiveNames([]string{desc.Annotations[annotationContainerdName], desc.Annotations[ispec.AnnotationRefName]}, o)
		if err != nil {
			return nil, err
		}
		found = append(found, archived{c, names})
	}
	if len(found) == 0 && other == nil {
		other = kind.Errorf(archive.ErrArchive, "it names no image")
	}
	if len(found) == 0 {
		return nil, other
	}
	return found, nil
}

// readOCI reads the image, or the fitting one of the index, that desc describes.
func (s *Store) readOCI(a *archive.Archive, desc ispec.Descriptor, o ImportOptions) (*contents, error) {
	want := s.wanted(o.Platform)
	for range 3 { // an index may hold an index
		if err := checkDescriptor(desc); err != nil {
			return nil, err
		}
		b, err := archiveBlob(a, desc)
		if err != nil {
			return nil, err
		}
		doc, err := parseDocument(b, desc.MediaType)
		if err != nil {
			return nil, err
		}
		if doc.Manifests != nil {
			if desc, err = doc.choose(want); err != nil {
				return nil, err
			}
			continue
		}
		if err := doc.checkManifest(); err != nil {
			return nil, err
		}
		config, err := archiveBlob(a, *doc.Config)
		if err != nil {
			return nil, err
		}
		return contentsOf(b, desc.MediaType, config, &want)
	}
	return nil, kind.Errorf(ErrCorrupt, "its indexes are nested too deep")
}

func archiveBlob(a *archive.Archive, desc ispec.Descriptor) ([]byte, error) {
	f, ok := a.ByDigest(desc.Digest)
	if !ok {
		return nil, kind.Errorf(ErrCorrupt, "the archive lacks the blob %s", desc.Digest)
	}
	return f.Bytes()
}

// dockerEntry is an element of docker save's manifest.json.
type dockerEntry struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// findDocker finds the images in the output of docker save, and writes OCI manifests for them.
func (s *Store) findDocker(a *archive.Archive, file *archive.File, o ImportOptions) ([]archived, error) {
	var entries []dockerEntry
	if err := file.JSON(&entries); err != nil {
		return nil, err
	}
	want := s.wanted(o.Platform)
	var found []archived
	for _, e := range entries {
		config, manifest, err := dockerManifestOf(a, e)
		if err != nil {
			return nil, err
		}
		c, err := contentsOf(manifest, ispec.MediaTypeImageManifest, config, &want)
		if err != nil {
			return nil, err
		}
		names, err := archiveNames(e.RepoTags, o)
		if err != nil {
			return nil, err
		}
		found = append(found, archived{c, names})
	}
	if len(found) == 0 {
		return nil, kind.Errorf(archive.ErrArchive, "it names no image")
	}
	return found, nil
}

func dockerManifestOf(a *archive.Archive, e dockerEntry) (config, manifest []byte, err error) {
	f, ok := a.Lookup(e.Config)
	if !ok {
		return nil, nil, kind.Errorf(archive.ErrArchive, "it lacks the configuration %q", e.Config)
	}
	if config, err = f.Bytes(); err != nil {
		return nil, nil, err
	}
	m := ispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ispec.MediaTypeImageManifest,
		Config:    ispec.Descriptor{MediaType: ispec.MediaTypeImageConfig, Digest: f.Digest, Size: f.Size},
		Layers:    []ispec.Descriptor{},
	}
	for _, name := range e.Layers {
		l, ok := a.Lookup(name)
		if !ok {
			return nil, nil, kind.Errorf(archive.ErrArchive, "it lacks the layer %q", name)
		}
		media, err := layerMediaType(l.Path)
		if err != nil {
			return nil, nil, err
		}
		m.Layers = append(m.Layers, ispec.Descriptor{MediaType: media, Digest: l.Digest, Size: l.Size})
	}
	manifest, err = json.Marshal(m)
	return config, manifest, err
}

// layerMediaType goes by the file's first bytes.
func layerMediaType(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	var magic [4]byte
	if _, err := io.ReadFull(f, magic[:]); err != nil && err != io.ErrUnexpectedEOF && err != io.EOF {
		return "", err
	}
	switch {
	case magic[0] == 0x1f && magic[1] == 0x8b:
		return ispec.MediaTypeImageLayerGzip, nil
	case magic == [4]byte{0x28, 0xb5, 0x2f, 0xfd}:
		return ispec.MediaTypeImageLayerZstd, nil
	}
	return ispec.MediaTypeImageLayer, nil
}

// archiveNames are the full names among those that an archive gives an image, else what the options say.
func archiveNames(given []string, o ImportOptions) ([]string, error) {
	var names []string
	tag := ""
	for _, g := range given {
		if !strings.ContainsAny(g, ":/") { // a bare tag, as skopeo writes it
			tag = g
			continue
		}
		if ref, err := reference.Parse(g); err == nil && ref.Tagged() != "" {
			names = append(names, ref.Tagged())
		}
	}
	if len(names) > 0 || o.Name == "" {
		slices.Sort(names)
		return slices.Compact(names), nil
	}
	name := o.Name
	if ref, err := reference.Parse(name + ":" + tag); err == nil && tag != "" {
		return []string{ref.Tagged()}, nil
	}
	ref, err := reference.Parse(name)
	if err != nil {
		return nil, err
	}
	return []string{ref.Tagged()}, nil
}
