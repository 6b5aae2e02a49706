package trust

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/11f9778f/berth/internal/image/kind"
	"github.com/11f9778f/berth/internal/image/reference"
)

// maxKey bounds a key's file.
const maxKey = 64 << 10

// Signature is one of cosign's: the payload of a "simple signing" document and the signature of its bytes.
type Signature struct {
	Payload   []byte `json:"payload"`
	Signature []byte `json:"signature"`
}

// key is a public key and where it comes from.
type key struct {
	name string
	pub  crypto.PublicKey
}

func parseKey(b []byte, name string) (key, error) {
	block, _ := pem.Decode(b)
	if block == nil || block.Type != "PUBLIC KEY" {
		return key{}, errors.New(`it is no public key in PEM form ("-----BEGIN PUBLIC KEY-----"); cosign writes one as cosign.pub`)
	}
	pub, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return key{}, err
	}
	switch pub.(type) {
	case *ecdsa.PublicKey, *rsa.PublicKey, ed25519.PublicKey:
		return key{name, pub}, nil
	}
	return key{}, fmt.Errorf("keys of the type %T are not supported", pub)
}

// signed tells whether sig is this key's signature of the payload.
func (k key) signed(payload, sig []byte) bool {
	sum := sha256.Sum256(payload)
	switch pub := k.pub.(type) {
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(pub, sum[:], sig)
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(pub, crypto.SHA256, sum[:], sig) == nil
	case ed25519.PublicKey:
		return ed25519.Verify(pub, payload, sig)
	}
	return false
}

// payload is a "simple signing" document as cosign writes it (cosign, specs/SIGNATURE_SPEC.md).
type payload struct {
	Critical struct {
		Identity struct {
			Reference string `json:"docker-reference"`
		} `json:"identity"`
		Image struct {
			Digest digest.Digest `json:"docker-manifest-digest"`
		} `json:"image"`
		Type string `json:"type"`
	} `json:"critical"`
}

const payloadType = "cosign container image signature"

// Check says whether an image may be used under a name: nil, or ErrRejected with the reason. digests are those
// of its manifest and of the index that it came by; signatures may be signatures of anything.
func (p *Policy) Check(ref reference.Reference, digests []digest.Digest, signatures []Signature) error {
	list, scope := p.For(ref)
	if len(list) == 0 {
		return kind.Errorf(ErrRejected, "the image policy says nothing on %s, so it may not be used", ref.Familiar())
	}
	for _, r := range list {
		switch r.Type {
		case Accept:
		case Signed:
			if err := r.check(ref, digests, signatures); err != nil {
				return kind.Errorf(ErrRejected, "the image policy (scope %q) wants a signature of %s, and %w", scope, ref.Familiar(), err)
			}
		default:
			return kind.Errorf(ErrRejected, "the image policy (scope %q) rejects %s", scope, ref.Familiar())
		}
	}
	return nil
}

// check looks for one good signature. Its error follows "and".
func (r *Requirement) check(ref reference.Reference, digests []digest.Digest, signatures []Signature) error {
	if len(signatures) == 0 {
		return errors.New("it has none; sign it with cosign sign --key")
	}
	why := errors.New("none of its signatures is of a key in the policy")
	for _, s := range signatures {
		k := slices.IndexFunc(r.keys, func(k key) bool { return k.signed(s.Payload, s.Signature) })
		if k < 0 {
			continue
		}
		var doc payload
		if err := json.Unmarshal(s.Payload, &doc); err != nil {
			why = fmt.Errorf("what the key %s has signed is not valid JSON: %w", r.keys[k].name, err)
			continue
		}
		c := doc.Critical
		switch {
		case c.Type != payloadType:
			why = fmt.Errorf("the key %s has signed something else: %q", r.keys[k].name, shorten(c.Type))
		case !slices.Contains(digests, c.Image.Digest):
			why = fmt.Errorf("the key %s has signed another image: %s", r.keys[k].name, shorten(c.Image.Digest.String()))
		default:
			if err := r.match.allows(ref, c.Identity.Reference); err != nil {
				why = err
				continue
			}
			return nil
		}
	}
	return why
}

func shorten(s string) string {
	if len(s) > 200 {
		s = s[:200] + "…"
	}
	return strings.ToValidUTF8(s, "?")
}

// identity says for which names a signature of another name is good.
type identity struct {
	how              string
	exact            string // exactReference, exactRepository
	prefix, signedAs string // remapIdentity
}

const (
	matchExact            = "matchExact"
	matchRepoDigestOrSame = "matchRepoDigestOrExact"
	matchRepository       = "matchRepository"
	exactReference        = "exactReference"
	exactRepository       = "exactRepository"
	remapIdentity         = "remapIdentity"
)

func parseIdentity(b json.RawMessage) (identity, error) {
	if b == nil {
		return identity{how: matchRepoDigestOrSame}, nil
	}
	var d struct {
		Type             string `json:"type"`
		DockerReference  string `json:"dockerReference"`
		DockerRepository string `json:"dockerRepository"`
		Prefix           string `json:"prefix"`
		SignedPrefix     string `json:"signedPrefix"`
	}
	if err := strict(b, &d); err != nil {
		return identity{}, err
	}
	id := identity{how: d.Type}
	switch d.Type {
	case matchExact, matchRepoDigestOrSame, matchRepository:
		return id, nil
	case exactReference:
		id.exact = d.DockerReference
	case exactRepository:
		id.exact = d.DockerRepository
	case remapIdentity:
		id.prefix, id.signedAs = d.Prefix, d.SignedPrefix
		if id.prefix == "" || id.signedAs == "" {
			return id, errors.New("remapIdentity needs prefix and signedPrefix")
		}
		return id, nil
	default:
		return id, fmt.Errorf("type: %q is not known", d.Type)
	}
	if _, err := reference.Parse(id.exact); err != nil {
		return id, err
	}
	return id, nil
}

// allows says whether a signature of the name signed is good for ref.
func (i identity) allows(ref reference.Reference, signed string) error {
	s, err := reference.Parse(signed)
	if err != nil {
		return fmt.Errorf("the signature is for no image name: %q", shorten(signed))
	}
	tagged := strings.Contains(signed[strings.LastIndexByte(signed, '/')+1:], ":") // Parse adds :latest
	same := func(a, b reference.Reference) bool {
		return tagged && a.Repository() == b.Repository() && a.Tag() == b.Tag()
	}
	ok := false
	switch i.how {
	case matchExact:
		ok = same(s, ref)
	case matchRepoDigestOrSame:
		ok = same(s, ref) || ref.Digest() != "" && s.Repository() == ref.Repository()
	case matchRepository:
		ok = s.Repository() == ref.Repository()
	case exactRepository, exactReference:
		want, err := reference.Parse(i.exact)
		ok = err == nil && s.Repository() == want.Repository() && (i.how == exactRepository || same(s, want))
	case remapIdentity:
		repo := ref.Repository()
		if rest, cut := strings.CutPrefix(repo, i.prefix); cut && (rest == "" || rest[0] == '/') {
			repo = i.signedAs + rest
		}
		ok = s.Repository() == repo && (!tagged || ref.Digest() != "" || s.Tag() == ref.Tag())
	}
	if !ok {
		return fmt.Errorf("its signature is for %q, which %s does not take for %s; cosign signs without the tag, for which signedIdentity has matchRepository", shorten(signed), i.how, ref.Familiar())
	}
	return nil
}
