package image

import (
	"cmp"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/11f9778f/berth/internal/image/kind"
)

// load reads the state from the disk and repairs what a crash has left. Nothing else runs yet.
func (s *Store) load() error {
	if err := s.learnProjects(); err != nil {
		return err
	}
	if err := s.loadTrash(); err != nil {
		return err
	}
	if err := s.clearIngest(); err != nil {
		return err
	}
	if err := s.loadBlobs(); err != nil {
		return err
	}
	if err := s.loadLayers(); err != nil {
		return err
	}
	if err := s.loadIndex(); err != nil {
		return err
	}
	if err := s.loadSnapshots(); err != nil {
		return err
	}
	return s.collect()
}

// clearIngest throws away what was being made when the process died.
func (s *Store) clearIngest() error {
	entries, err := os.ReadDir(s.ingest)
	if err != nil {
		return err
	}
	for _, e := range entries {
		s.log.Info("throwing away a half-made download", "name", e.Name())
		if err := s.discard(filepath.Join(s.ingest, e.Name()), s.trash); err != nil {
			return err
		}
	}
	return nil
}

// parseHex reads the name of a blob or layer.
func parseHex(name string) (digest.Digest, bool) {
	d := digest.NewDigestFromEncoded(digest.SHA256, name)
	return d, d.Validate() == nil
}

func (s *Store) loadBlobs() error {
	return s.eachKept(s.layout.blobs(), func(d digest.Digest, e fs.DirEntry) bool {
		fi, err := e.Info()
		if err != nil || !fi.Mode().IsRegular() {
			return false
		}
		s.blobs[d] = fi.Size()
		return true
	})
}

func (s *Store) loadLayers() error {
	return s.eachKept(s.layers(), func(d digest.Digest, e fs.DirEntry) bool {
		var f layerFile
		dir := filepath.Join(s.layers(), e.Name())
		if err := readJSON(filepath.Join(dir, layerFileName), &f); err != nil || f.DiffID != d {
			return false
		}
		if fi, err := os.Lstat(filepath.Join(dir, "fs")); err != nil || !fi.IsDir() {
			return false
		}
		_, err := os.Lstat(filepath.Join(dir, syncedFileName))
		synced := err == nil
		if !synced && f.Boot != s.boot {
			s.log.Info("a layer was not on the disk yet when the machine stopped; it will be unpacked again", "layer", d)
			return false
		}
		s.layerRecs[d] = &layerRec{usage: Usage{Bytes: f.Bytes, Inodes: f.Inodes}, synced: synced}
		if !synced {
			wake(s.settle)
		}
		return true
	})
}

// eachKept calls use for each entry of dir that is named by a digest; what is not, or what use refuses,
// goes to the trash. Within KeepForRetry what is used is kept for a pull that a crash interrupted.
func (s *Store) eachKept(dir string, use func(digest.Digest, fs.DirEntry) bool) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		d, ok := parseHex(e.Name())
		if !ok || !use(d, e) {
			s.log.Warn("throwing away something that is not whole", "path", filepath.Join(dir, e.Name()))
			if err := s.discard(filepath.Join(dir, e.Name()), s.trash); err != nil {
				return err
			}
			continue
		}
		if fi, err := e.Info(); err == nil && s.tunable.Load().KeepForRetry > 0 {
			if until := fi.ModTime().Add(s.tunable.Load().KeepForRetry); until.After(time.Now()) {
				s.keep[d] = until
				time.AfterFunc(time.Until(until)+time.Second, func() { wake(s.settle) })
			}
		}
	}
	return nil
}

const layoutFile = `{"imageLayoutVersion":"1.0.0"}`

// loadIndex reads index.json; where it can't be read, the images are found again by their manifests,
// without names.
func (s *Store) loadIndex() error {
	if _, err := os.Lstat(filepath.Join(s.images, ispec.ImageLayoutFile)); isNotExist(err) {
		if err := s.writeFile(filepath.Join(s.images, ispec.ImageLayoutFile), []byte(layoutFile), "image/layout"); err != nil {
			return err
		}
	}
	var index ispec.Index
	err := readJSON(s.index(), &index)
	switch {
	case isNotExist(err) && len(s.blobs) == 0:
		return s.rewriteIndex()
	case err != nil:
		s.log.Warn("index.json can't be read; finding the images by their manifests, without their names", "err", err)
		index.Manifests = s.findManifests()
	}
	damaged := err != nil
	for _, desc := range index.Manifests {
		if err := s.loadEntry(desc); err != nil {
			damaged = true
			s.log.Warn("an image is damaged and is dropped; pull it again", "image", desc.Annotations[ispec.AnnotationRefName], "manifest", desc.Digest, "err", err)
		}
	}
	if damaged {
		return s.rewriteIndex()
	}
	return nil
}

func (s *Store) rewriteIndex() error {
	b, err := encodeIndex(s.tenants)
	if err != nil {
		return err
	}
	return s.writeFile(s.index(), b, "image/record")
}

// loadEntry loads one entry of index.json. Layers are not looked for: Prepare unpacks them again from
// their blobs.
func (s *Store) loadEntry(desc ispec.Descriptor) error {
	name, pinned := desc.Annotations[ispec.AnnotationRefName], desc.Annotations[annotationPinned] == "true"
	namespace := cmp.Or(desc.Annotations[annotationNamespace], DefaultNamespace)
	desc.Annotations = nil
	if err := errors.Join(checkDescriptor(desc), CheckNamespace(namespace)); err != nil {
		return err
	}
	m := s.manifestOf(desc.Digest)
	if m == nil {
		var err error
		if m, err = s.loadManifest(desc); err != nil {
			return err
		}
		for _, l := range m.layers {
			if size, ok := s.blobs[l.Blob.Digest]; !ok || size != l.Blob.Size {
				return kind.Errorf(ErrCorrupt, "the blob %s is missing or has the wrong size", l.Blob.Digest)
			}
		}
	}
	t, ok := s.tenants[namespace]
	if !ok {
		t = t.clone()
		s.tenants[namespace] = t // nobody has seen it yet
	}
	t.manifests[desc.Digest] = m
	if name != "" {
		t.names[name] = desc.Digest
	}
	if pinned {
		t.pins[desc.Digest] = true
	}
	return nil
}

// readBlob reads a small blob and checks its digest.
func (s *Store) readBlob(d digest.Digest) ([]byte, error) {
	if err := d.Validate(); err != nil {
		return nil, err
	}
	b, err := readLimited(s.blob(d), maxDocument)
	if err != nil {
		return nil, err
	}
	if digestOf(b) != d {
		return nil, kind.Errorf(ErrCorrupt, "the blob %s has other bytes now", d)
	}
	return b, nil
}

const maxDocument = 4 << 20

func digestOf(b []byte) digest.Digest { return digest.SHA256.FromBytes(b) }

// findManifests looks for image manifests among the blobs.
func (s *Store) findManifests() []ispec.Descriptor {
	var found []ispec.Descriptor
	for d, size := range s.blobs {
		if size > maxDocument {
			continue
		}
		b, err := s.readBlob(d)
		if err != nil || !strings.HasPrefix(strings.TrimSpace(string(b)), "{") || !json.Valid(b) {
			continue
		}
		doc, err := parseDocument(b, "")
		if err != nil || doc.Manifests != nil || doc.checkManifest() != nil {
			continue
		}
		found = append(found, ispec.Descriptor{MediaType: doc.MediaType, Digest: d, Size: size})
	}
	return found
}

func (s *Store) loadSnapshots() error {
	entries, err := os.ReadDir(s.snapshots)
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(s.snapshots, e.Name())
		if path == s.snapTrash {
			continue
		}
		if validKey(e.Name()) != nil {
			if err := s.discard(path, s.snapTrash); err != nil {
				return err
			}
			continue
		}
		// Without a record (a power cut) it is still somebody's: Inventory shows it, RemoveRootfs
		// removes it, Prepare makes it anew.
		var f snapshotFile
		if err := readJSON(filepath.Join(path, snapshotFileName), &f); err != nil && !errors.Is(err, fs.ErrNotExist) {
			s.log.Warn("the record of a snapshot can't be read", "key", e.Name(), "err", err)
		}
		s.snaps[e.Name()] = &snapshot{namespace: cmp.Or(f.Namespace, DefaultNamespace), image: f.Image, layers: f.Layers, copied: f.Copied, project: s.project(path)}
	}
	return nil
}
