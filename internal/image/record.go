package image

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/11f9778f/berth/internal/image/kind"
	"github.com/11f9778f/berth/internal/image/reference"
)

// change is a change of what index.json records.
type change struct {
	add    map[digest.Digest]*manifest
	name   map[string]digest.Digest // full names that lead to a manifest from now on
	remove []digest.Digest          // manifests that go, with all their names
	unname []string                 // full names that lead nowhere from now on
	pin    map[digest.Digest]bool   // manifests that are pinned from now on, or not
}

// commit makes the change, first on the disk. The blobs and layers of what it adds are at their final
// names and leased.
func (s *Store) commit(c change) error {
	s.disk.Lock()
	defer s.disk.Unlock()
	s.mu.Lock()
	old, tenants := s.own(), maps.Clone(s.tenants)
	s.mu.Unlock()
	if now := old.after(c); len(now.manifests) > 0 {
		tenants[s.namespace] = now
	} else {
		delete(tenants, s.namespace)
	}
	b, err := encodeIndex(tenants)
	if err != nil {
		return err
	}
	if err := s.writeFile(s.index(), b, "image/record"); err != nil {
		return fmt.Errorf("record the image: %w", s.remedy(err))
	}
	s.mu.Lock()
	s.tenants = tenants
	s.mu.Unlock()
	wake(s.settle)
	return nil
}

// after is what a namespace has after a change.
func (t tenant) after(c change) tenant {
	now := t.clone()
	for _, d := range c.remove {
		delete(now.manifests, d)
		delete(now.pins, d)
		maps.DeleteFunc(now.names, func(_ string, to digest.Digest) bool { return to == d })
	}
	for d, m := range c.add {
		if _, ok := now.manifests[d]; !ok {
			now.manifests[d] = m
		}
	}
	maps.Copy(now.names, c.name)
	for _, n := range c.unname {
		delete(now.names, n)
	}
	for d, on := range c.pin {
		if _, ok := now.manifests[d]; ok && on {
			now.pins[d] = true
		} else {
			delete(now.pins, d)
		}
	}
	// A manifest whose last name now leads elsewhere goes. Those that never had one, and those that are pinned, stay.
	named := now.named()
	for _, d := range t.names {
		if !named[d] && !now.pins[d] {
			delete(now.manifests, d)
		}
	}
	return now
}

// named are the manifests that a name leads to.
func (t tenant) named() map[digest.Digest]bool {
	out := map[digest.Digest]bool{}
	for _, d := range t.names {
		out[d] = true
	}
	return out
}

// Annotations of the descriptors in index.json: of what is pinned, and whose it is.
const (
	annotationPinned    = "berth.pinned"
	annotationNamespace = "berth.namespace"
)

// encodeIndex makes index.json: in each namespace a descriptor for each name, and one for each manifest without a name.
func encodeIndex(tenants map[string]tenant) ([]byte, error) {
	index := ispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ispec.MediaTypeImageIndex, Manifests: []ispec.Descriptor{}}
	for _, namespace := range slices.Sorted(maps.Keys(tenants)) {
		t := tenants[namespace]
		add := func(dgst digest.Digest, name string) {
			d := t.manifests[dgst].desc
			d.Annotations = map[string]string{annotationNamespace: namespace}
			if name != "" {
				d.Annotations[ispec.AnnotationRefName] = name
			}
			if t.pins[dgst] {
				d.Annotations[annotationPinned] = "true"
			}
			index.Manifests = append(index.Manifests, d)
		}
		for _, name := range slices.Sorted(maps.Keys(t.names)) {
			add(t.names[name], name)
		}
		named := t.named()
		for _, dgst := range slices.Sorted(maps.Keys(t.manifests)) {
			if !named[dgst] {
				add(dgst, "")
			}
		}
	}
	return json.MarshalIndent(index, "", "  ")
}

// record stores manifest and configuration of an image whose layers are here, and gives it names.
func (s *Store) record(c *contents, names ...string) (*Image, error) {
	if err := s.putBytes(c.config.Digest, c.configBytes); err != nil {
		return nil, err
	}
	if err := s.putBytes(c.manifest.Digest, c.manifestBytes); err != nil {
		return nil, err
	}
	if err := s.keepSignatures(c); err != nil {
		return nil, fmt.Errorf("keep the image's signatures: %w", s.remedy(err))
	}
	m := c.record(time.Now())
	ch := change{add: map[digest.Digest]*manifest{m.desc.Digest: m}, name: map[string]digest.Digest{}}
	for _, n := range names {
		ch.name[n] = m.desc.Digest
	}
	if !s.recorded(ch) {
		if err := s.commit(ch); err != nil {
			return nil, err
		}
	}
	return s.Get(m.config.Digest.String())
}

// recorded says whether a change would change nothing.
func (s *Store) recorded(c change) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for d := range c.add {
		if _, ok := s.own().manifests[d]; !ok {
			return false
		}
	}
	for n, d := range c.name {
		if s.own().names[n] != d {
			return false
		}
	}
	return true
}

// record is the part of the contents that stays in memory.
func (c *contents) record(now time.Time) *manifest {
	desc := ispec.Descriptor{MediaType: c.manifest.MediaType, Digest: c.manifest.Digest, Size: int64(len(c.manifestBytes)), Platform: &ispec.Platform{
		OS: c.image.OS, Architecture: c.image.Architecture, Variant: c.image.Variant,
	}}
	return &manifest{desc: desc, config: c.config, image: c.image, layers: c.layers, pulled: now}
}

// digests are all blobs and layers of the image, for a lease.
func (c *contents) digests() []digest.Digest {
	ds := []digest.Digest{c.manifest.Digest, c.config.Digest}
	for _, l := range c.layers {
		ds = append(ds, l.Blob.Digest, l.DiffID)
	}
	return ds
}

// List returns the namespace's images, the newest first.
func (s *Store) List() []*Image {
	s.mu.Lock()
	defer s.mu.Unlock()
	byID := map[digest.Digest]bool{}
	var images []*Image
	for _, m := range s.own().manifests {
		if !byID[m.config.Digest] {
			byID[m.config.Digest] = true
			images = append(images, s.image(m.config.Digest))
		}
	}
	slices.SortFunc(images, func(a, b *Image) int {
		if c := b.Pulled.Compare(a.Pulled); c != 0 {
			return c
		}
		return strings.Compare(a.ID.String(), b.ID.String())
	})
	return images
}

// image makes the Image with an ID that exists. The caller holds mu.
func (s *Store) image(id digest.Digest) *Image {
	t := s.own()
	img := &Image{ID: id, Namespace: s.namespace}
	var first *manifest
	for d, m := range t.manifests {
		if m.config.Digest != id {
			continue
		}
		img.Pinned = img.Pinned || t.pins[d]
		if first == nil || d < first.desc.Digest {
			first = m
		}
	}
	for name, d := range t.names {
		if t.manifests[d].config.Digest != id {
			continue
		}
		if strings.Contains(name, "@") {
			img.RepoDigests = append(img.RepoDigests, name)
		} else {
			img.RepoTags = append(img.RepoTags, name)
		}
	}
	slices.Sort(img.RepoTags)
	slices.Sort(img.RepoDigests)
	img.Manifest, img.Config, img.Pulled = first.desc.Digest, cloneConfig(first.image), first.pulled
	img.Layers = slices.Clone(first.layers)
	if img.Used = s.lastUse[id]; img.Used.Before(img.Pulled) {
		img.Used = img.Pulled
	}
	img.Size = first.desc.Size + first.config.Size
	seen := map[digest.Digest]bool{}
	for _, l := range first.layers {
		if !seen[l.Blob.Digest] {
			seen[l.Blob.Digest] = true
			img.Size += l.Blob.Size
		}
	}
	return img
}

// cloneConfig copies what a caller might change.
func cloneConfig(c ispec.Image) ispec.Image {
	c.Config.Env = slices.Clone(c.Config.Env)
	c.Config.Entrypoint = slices.Clone(c.Config.Entrypoint)
	c.Config.Cmd = slices.Clone(c.Config.Cmd)
	c.Config.Labels = maps.Clone(c.Config.Labels)
	c.Config.Volumes = maps.Clone(c.Config.Volumes)
	c.Config.ExposedPorts = maps.Clone(c.Config.ExposedPorts)
	c.RootFS.DiffIDs = slices.Clone(c.RootFS.DiffIDs)
	return c
}

// Get finds an image by name ("busybox", "…@sha256:…"), by ID ("sha256:…" or its hex digits), by the
// digest of its manifest, or by the first digits of its ID (three at least). ErrNotFound, ErrAmbiguous.
func (s *Store) Get(refOrID string) (*Image, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id, err := s.find(refOrID)
	if err != nil {
		return nil, err
	}
	return s.image(id), nil
}

// find returns the ID of the image that is meant. The caller holds mu.
func (s *Store) find(what string) (digest.Digest, error) {
	t, hex := s.own(), strings.TrimPrefix(what, "sha256:")
	if len(hex) == 64 && isHex(hex) {
		d := digest.NewDigestFromEncoded(digest.SHA256, hex)
		if m, ok := t.manifests[d]; ok {
			return m.config.Digest, nil
		}
		for _, m := range t.manifests {
			if m.config.Digest == d {
				return d, nil
			}
		}
		return "", s.notFound(what)
	}
	if ref, err := reference.Parse(what); err == nil {
		name := ref.Tagged()
		if ref.Digest() != "" {
			name = ref.WithDigest(ref.Digest())
		}
		if d, ok := t.names[name]; ok {
			return t.manifests[d].config.Digest, nil
		}
	} else if !isHex(hex) {
		return "", err
	}
	if len(hex) < 3 || !isHex(hex) {
		return "", s.notFound(what)
	}
	var found digest.Digest
	for _, m := range t.manifests {
		if id := m.config.Digest; strings.HasPrefix(id.Encoded(), hex) && id != found {
			if found != "" {
				return "", kind.Errorf(ErrAmbiguous, "image %q is ambiguous, several images have an ID that begins so; give more digits", what)
			}
			found = id
		}
	}
	if found == "" {
		return "", s.notFound(what)
	}
	return found, nil
}

func (s *Store) notFound(what string) error {
	if s.namespace == DefaultNamespace {
		return kind.Errorf(ErrNotFound, "image %q is not in the store; pull it first", what)
	}
	return kind.Errorf(ErrNotFound, "image %q is not in the namespace %s of the store; pull it first", what, s.namespace)
}

func isHex(s string) bool {
	return s != "" && strings.Trim(s, "0123456789abcdef") == ""
}

// loadManifest reads one image's manifest and configuration back from the disk.
func (s *Store) loadManifest(desc ispec.Descriptor) (*manifest, error) {
	path := s.blob(desc.Digest)
	fi, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	b, err := s.readBlob(desc.Digest)
	if err != nil {
		return nil, err
	}
	d, err := parseDocument(b, desc.MediaType)
	if err != nil {
		return nil, err
	}
	if err := d.checkManifest(); err != nil {
		return nil, err
	}
	config, err := s.readBlob(d.Config.Digest)
	if err != nil {
		return nil, err
	}
	c, err := d.assemble(desc, b, config, nil)
	if err != nil {
		return nil, err
	}
	if fi, err := os.Stat(s.blob(d.Config.Digest)); err == nil {
		s.lastUse[d.Config.Digest] = fi.ModTime() // touch has left it there
	}
	return c.record(fi.ModTime()), nil
}
