package image

import (
	"encoding/json"
	"fmt"
	"io"
	"os"

	ispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxManifest bounds a manifest that is read from the store, in bytes.
const maxManifest = 4 << 20

// Annotations are those of an image's manifest.
func (s *Store) Annotations(img *Image) (map[string]string, error) {
	defer s.lease(img.digests()...)()
	f, err := os.Open(s.blob(img.Manifest))
	if isNotExist(err) {
		return nil, nil // imported without one
	}
	if err != nil {
		return nil, fmt.Errorf("read manifest of image %s: %w", img.ID, err)
	}
	defer f.Close()
	var m ispec.Manifest
	if err := json.NewDecoder(io.LimitReader(f, maxManifest)).Decode(&m); err != nil {
		return nil, fmt.Errorf("read manifest of image %s: %w", img.ID, err)
	}
	return m.Annotations, nil
}
