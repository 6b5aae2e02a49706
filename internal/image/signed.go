package image

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"

	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/11f9778f/berth/internal/image/kind"
	"github.com/11f9778f/berth/internal/image/reference"
	"github.com/11f9778f/berth/internal/image/registry"
	"github.com/11f9778f/berth/internal/image/trust"
)

// policy reads the image policy; nil where none is configured.
func (s *Store) policy() (*trust.Policy, error) {
	path := s.tunable.Load().Policy
	if path == "" {
		return nil, nil
	}
	return trust.Load(path)
}

// mayPull refuses at once what no signature could get in.
func (s *Store) mayPull(ref reference.Reference) error {
	p, err := s.policy()
	if p == nil || err != nil {
		return err
	}
	if list, _ := p.For(ref); trust.NeedsSignatures(list) {
		return nil
	}
	return p.Check(ref, nil, nil)
}

// admit asks the policy about what a pull has resolved, and keeps the signatures that it was let in with, so
// that Allowed need not ask the registry.
func (s *Store) admit(ctx context.Context, client *registry.Client, ref reference.Reference, c *contents, index digest.Digest) error {
	p, err := s.policy()
	if p == nil || err != nil {
		return err
	}
	digests := []digest.Digest{c.manifest.Digest}
	if index != c.manifest.Digest {
		digests = append(digests, index)
	}
	var found []trust.Signature
	if list, _ := p.For(ref); trust.NeedsSignatures(list) {
		for _, d := range digests {
			more, err := fetchSignatures(ctx, client, d)
			if err != nil {
				return err
			}
			found = append(found, more...)
		}
	}
	if err := p.Check(ref, digests, found); err != nil {
		return err
	}
	c.signatures = found
	return nil
}

const (
	cosignSignature = "dev.cosignproject.cosign/signature"
	maxSignatures   = 64
	maxPayload      = 64 << 10
)

// fetchSignatures fetches what cosign has put beside an image: an image of its own, whose layers are what was
// signed. None is no error.
func fetchSignatures(ctx context.Context, client *registry.Client, d digest.Digest) ([]trust.Signature, error) {
	tag := d.Algorithm().String() + "-" + d.Encoded() + ".sig"
	m, err := client.Manifest(ctx, tag, []string{ispec.MediaTypeImageManifest, dockerManifest})
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	doc, err := parseDocument(m.Bytes, m.MediaType)
	if err != nil {
		return nil, err
	}
	if len(doc.Layers) > maxSignatures {
		return nil, kind.Errorf(ErrCorrupt, "it has %d signatures, %d are possible", len(doc.Layers), maxSignatures)
	}
	var found []trust.Signature
	for _, desc := range doc.Layers {
		sig, err := base64.StdEncoding.DecodeString(desc.Annotations[cosignSignature])
		if err != nil || len(sig) == 0 || desc.Size > maxPayload || checkDescriptor(desc) != nil {
			continue // nothing that could count
		}
		b, err := client.Bytes(ctx, desc)
		if err != nil {
			return nil, err
		}
		found = append(found, trust.Signature{Payload: b, Signature: sig})
	}
	return found, nil
}

// Allowed says whether the policy lets a container be made of the image that refOrID means: nil, or an
// ErrRejected. asked is the name that the user has for it; where it is none of the image's names one of those
// must be allowed.
func (s *Store) Allowed(refOrID, asked string) error {
	p, err := s.policy()
	if p == nil || err != nil {
		return err
	}
	img, err := s.Get(refOrID)
	if err != nil {
		return err
	}
	names := slices.Concat(img.RepoTags, img.RepoDigests)
	if r, err := reference.Parse(asked); err == nil {
		for _, n := range []string{r.Tagged(), r.WithDigest(r.Digest())} {
			if slices.Contains(names, n) {
				names = []string{n}
			}
		}
	}
	digests, signatures := s.evidence(img)
	err = kind.Errorf(ErrRejected, "the image %s has no name, so the image policy can't allow it", img.ID)
	for _, n := range names {
		ref, perr := reference.Parse(n)
		if perr != nil {
			continue
		}
		if err = p.Check(ref, digests, signatures); err == nil {
			return nil
		}
	}
	return err
}

// evidence is what signatures of an image may be of, and those that were kept.
func (s *Store) evidence(img *Image) (digests []digest.Digest, signatures []trust.Signature) {
	s.mu.Lock()
	for d, m := range s.own().manifests {
		if m.config.Digest == img.ID {
			digests = append(digests, d)
		}
	}
	s.mu.Unlock()
	for _, d := range digests {
		signatures = append(signatures, s.readSignatures(d)...)
	}
	for _, n := range img.RepoDigests {
		if r, err := reference.Parse(n); err == nil {
			digests = append(digests, r.Digest())
		}
	}
	return digests, signatures
}

func (l layout) signatures() string { return filepath.Join(l.images, "signatures") }
func (l layout) signature(manifest digest.Digest) string {
	return filepath.Join(l.signatures(), manifest.Encoded())
}

// readSignatures reads the signatures that an image was let in with. What can't be read is none.
func (s *Store) readSignatures(manifest digest.Digest) []trust.Signature {
	var list []trust.Signature
	if err := readJSON(s.signature(manifest), &list); err != nil {
		if !isNotExist(err) {
			s.log.Warn("the signatures of an image can't be read; pull it again", "manifest", manifest, "err", err)
		}
		return nil
	}
	return list
}

// keepSignatures writes them beside those that are there.
func (s *Store) keepSignatures(c *contents) error {
	if len(c.signatures) == 0 {
		return nil
	}
	list := s.readSignatures(c.manifest.Digest)
	for _, n := range c.signatures {
		if !slices.ContainsFunc(list, func(o trust.Signature) bool {
			return string(o.Payload) == string(n.Payload) && string(o.Signature) == string(n.Signature)
		}) {
			list = append(list, n)
		}
	}
	if len(list) > 2*maxSignatures {
		list = c.signatures // the old ones are of keys or names that nobody asks for
	}
	b, err := json.Marshal(list)
	if err != nil {
		return err
	}
	s.disk.Lock()
	defer s.disk.Unlock()
	return s.writeFile(s.signature(c.manifest.Digest), b, "image/signature")
}

// dropSignatures removes those of images that are not here any more. The caller holds disk.
func (s *Store) dropSignatures() error {
	entries, err := os.ReadDir(s.signatures())
	if err != nil {
		return err
	}
	for _, e := range entries {
		d, ok := parseHex(e.Name())
		s.mu.Lock()
		here := s.manifestOf(d) != nil || s.leases[d] > 0
		s.mu.Unlock()
		if ok && here {
			continue
		}
		if err := s.discard(s.signature(digest.NewDigestFromEncoded(digest.SHA256, e.Name())), s.trash); err != nil {
			return err
		}
		wake(s.sweep)
	}
	return nil
}
