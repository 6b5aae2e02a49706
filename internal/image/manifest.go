package image

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/11f9778f/berth/internal/image/kind"
	"github.com/11f9778f/berth/internal/image/trust"
)

// Docker's names of the media types that the OCI standardised.
const (
	dockerManifest     = "application/vnd.docker.distribution.manifest.v2+json"
	dockerManifestList = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerConfig       = "application/vnd.docker.container.image.v1+json"
	dockerSchema1      = "application/vnd.docker.distribution.manifest.v1"
)

// manifestTypes is what a registry is asked for.
var manifestTypes = []string{ispec.MediaTypeImageManifest, ispec.MediaTypeImageIndex, dockerManifest, dockerManifestList}

// maxLayers bounds the layers of an image; overlayfs takes 500 lower directories.
const maxLayers = 500

// document is the union of manifest and index, to find out which of both it is.
type document struct {
	SchemaVersion int                 `json:"schemaVersion"`
	MediaType     string              `json:"mediaType"`
	Config        *ispec.Descriptor   `json:"config"`
	Layers        []ispec.Descriptor  `json:"layers"`
	Manifests     *[]ispec.Descriptor `json:"manifests"`
	FSLayers      json.RawMessage     `json:"fsLayers"`
}

// parseDocument reads a manifest or index; claimed is the media type that the transport or the
// descriptor gave, "" where there is none. A document that can be read as both, or that says of itself
// something else than its carrier, is refused: two readers would see two images.
func parseDocument(b []byte, claimed string) (*document, error) {
	var d document
	if err := json.Unmarshal(b, &d); err != nil {
		return nil, kind.Errorf(ErrCorrupt, "its manifest is not valid JSON: %w", err)
	}
	if d.SchemaVersion == 1 || d.FSLayers != nil || strings.HasPrefix(claimed, dockerSchema1) {
		return nil, kind.Errorf(ErrCorrupt, "its manifest has schema version 1, which is no longer in use; build and push it anew")
	}
	if d.Manifests != nil && (d.Config != nil || d.Layers != nil) {
		return nil, kind.Errorf(ErrCorrupt, "its manifest is ambiguous, it is both an index and an image; do not use it")
	}
	if d.Manifests == nil && d.Config == nil {
		return nil, kind.Errorf(ErrCorrupt, "its manifest describes neither an image nor an index")
	}
	for _, media := range []string{d.MediaType, claimed} {
		switch media {
		case ispec.MediaTypeImageManifest, dockerManifest:
			if d.Manifests != nil {
				return nil, kind.Errorf(ErrCorrupt, "its manifest calls itself an image and is an index")
			}
		case ispec.MediaTypeImageIndex, dockerManifestList:
			if d.Manifests == nil {
				return nil, kind.Errorf(ErrCorrupt, "its manifest calls itself an index and is an image")
			}
		}
	}
	return &d, nil
}

// choose returns the index's entry that fits the platform best.
func (d *document) choose(want ispec.Platform) (ispec.Descriptor, error) {
	match := platforms.Only(want)
	var best *ispec.Descriptor
	var have []string
	for i := range *d.Manifests {
		m := &(*d.Manifests)[i]
		if m.Platform == nil || m.Platform.OS == "unknown" { // attestations and the like
			continue
		}
		p := platforms.Normalize(*m.Platform)
		have = append(have, platforms.Format(p))
		if match.Match(p) && (best == nil || match.Less(p, platforms.Normalize(*best.Platform))) {
			best = m
		}
	}
	if best != nil {
		return *best, nil
	}
	if len(*d.Manifests) == 1 && (*d.Manifests)[0].Platform == nil {
		return (*d.Manifests)[0], nil // its configuration will tell
	}
	if len(have) == 0 {
		return ispec.Descriptor{}, kind.Errorf(ErrPlatform, "its index names no image for any platform")
	}
	slices.Sort(have)
	return ispec.Descriptor{}, platformError(strings.Join(slices.Compact(have), ", "), want)
}

func platformError(have string, want ispec.Platform) error {
	return kind.Errorf(ErrPlatform, "it is for %s; this machine is %s: use an image that is built for it", have, platforms.Format(want))
}

// contents is an image as its manifest and configuration describe it, both checked against each other.
type contents struct {
	manifest      ispec.Descriptor // of the manifest itself
	manifestBytes []byte
	config        ispec.Descriptor
	configBytes   []byte
	image         ispec.Image
	layers        []Layer
	signatures    []trust.Signature // that the policy let it in with
}

// checkManifest checks what d says about the blobs that make up the image.
func (d *document) checkManifest() error {
	if d.Config == nil {
		return kind.Errorf(ErrCorrupt, "its index contains an index where an image is expected")
	}
	switch d.Config.MediaType {
	case ispec.MediaTypeImageConfig, dockerConfig, "":
	default:
		return kind.Errorf(ErrCorrupt, "it is no container image but %q", d.Config.MediaType)
	}
	if len(d.Layers) > maxLayers {
		return kind.Errorf(ErrCorrupt, "it has %d layers, %d are possible", len(d.Layers), maxLayers)
	}
	for _, desc := range append([]ispec.Descriptor{*d.Config}, d.Layers...) {
		if err := checkDescriptor(desc); err != nil {
			return err
		}
	}
	return nil
}

func checkDescriptor(d ispec.Descriptor) error {
	if err := d.Digest.Validate(); err != nil || d.Digest.Algorithm() != digest.SHA256 {
		return kind.Errorf(ErrCorrupt, "its manifest has the digest %q; only sha256 is supported", d.Digest)
	}
	if d.Size < 0 {
		return kind.Errorf(ErrCorrupt, "its manifest gives %s the size %d", d.Digest, d.Size)
	}
	return nil
}

// assemble checks configuration against manifest and platform; want nil takes any.
func (d *document) assemble(manifest ispec.Descriptor, manifestBytes, config []byte, want *ispec.Platform) (*contents, error) {
	manifest.MediaType = ispec.MediaTypeImageManifest
	if d.MediaType != "" {
		manifest.MediaType = d.MediaType
	} else if strings.HasPrefix(d.Config.MediaType, "application/vnd.docker.") {
		manifest.MediaType = dockerManifest
	}
	c := &contents{manifest: manifest, manifestBytes: manifestBytes, config: *d.Config, configBytes: config}
	if err := json.Unmarshal(config, &c.image); err != nil {
		return nil, kind.Errorf(ErrCorrupt, "its configuration is not valid JSON: %w", err)
	}
	if want != nil {
		have := platforms.Normalize(c.image.Platform)
		if have.OS == "" || have.Architecture == "" {
			return nil, kind.Errorf(ErrCorrupt, "its configuration names no platform")
		}
		if !platforms.Only(*want).Match(have) {
			return nil, platformError(platforms.Format(have), *want)
		}
	}
	diffIDs := c.image.RootFS.DiffIDs
	if len(diffIDs) != len(d.Layers) {
		return nil, kind.Errorf(ErrCorrupt, "its manifest has %d layers, its configuration %d", len(d.Layers), len(diffIDs))
	}
	for i, id := range diffIDs {
		if err := id.Validate(); err != nil || id.Algorithm() != digest.SHA256 {
			return nil, kind.Errorf(ErrCorrupt, "its configuration has the diff ID %q; only sha256 is supported", id)
		}
		c.layers = append(c.layers, Layer{Blob: d.Layers[i], DiffID: id})
	}
	return c, nil
}
