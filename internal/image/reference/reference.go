// Package reference reads the names of images: "busybox", "registry:5000/team/app:1.2",
// "ghcr.io/x/y@sha256:…". A name without a registry is Docker Hub's, one without tag and digest is
// ":latest", as everywhere in the field.
package reference

import (
	_ "crypto/sha256" // go-digest looks its algorithms up among the linked ones
	_ "crypto/sha512"
	"errors"
	"strings"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	"github.com/11f9778f/berth/internal/image/kind"
)

// ErrInvalid is a text that names no image.
var ErrInvalid = errors.New("invalid image name")

// Reference is a full name. The zero value names nothing.
type Reference struct {
	domain, path string
	tag          string
	digest       digest.Digest
}

// Parse reads a name as users write it.
func Parse(s string) (Reference, error) {
	if len(s) > 1024 {
		return Reference{}, kind.Errorf(ErrInvalid, "it is %d characters long", len(s))
	}
	named, err := reference.ParseNormalizedNamed(s)
	if err != nil {
		return Reference{}, kind.Errorf(ErrInvalid, "invalid image name %q: %s; write it as [registry/]name[:tag][@digest], in lower case", s, trim(err))
	}
	r := Reference{domain: reference.Domain(named), path: reference.Path(named)}
	if t, ok := named.(reference.Tagged); ok {
		r.tag = t.Tag()
	}
	if d, ok := named.(reference.Digested); ok {
		r.digest = d.Digest()
	}
	if r.tag == "" && r.digest == "" {
		r.tag = "latest"
	}
	return r, nil
}

// trim drops the words that the library begins each of its errors with.
func trim(err error) string { return strings.TrimPrefix(err.Error(), "invalid reference format: ") }

// Domain is the registry, "docker.io" or "localhost:5000".
func (r Reference) Domain() string { return r.domain }

// Path is the repository in the registry, "library/busybox".
func (r Reference) Path() string { return r.path }

// Repository is registry and path, "docker.io/library/busybox".
func (r Reference) Repository() string { return r.domain + "/" + r.path }

// Tag is the tag, or "".
func (r Reference) Tag() string { return r.tag }

// Digest is the digest, or "".
func (r Reference) Digest() digest.Digest { return r.digest }

// Identifier is what a registry is asked for: the digest if there is one, else the tag.
func (r Reference) Identifier() string {
	if r.digest != "" {
		return r.digest.String()
	}
	return r.tag
}

// Tagged is the full name with the tag and without the digest, or "" where there is no tag.
func (r Reference) Tagged() string {
	if r.tag == "" {
		return ""
	}
	return r.Repository() + ":" + r.tag
}

// WithDigest is the full name of d in the same repository.
func (r Reference) WithDigest(d digest.Digest) string { return r.Repository() + "@" + d.String() }

// String is the full name, with all that was given.
func (r Reference) String() string {
	s := r.Repository()
	if r.tag != "" {
		s += ":" + r.tag
	}
	if r.digest != "" {
		s += "@" + r.digest.String()
	}
	return s
}

// Familiar is the name as users write it: without Docker Hub's parts.
func (r Reference) Familiar() string {
	s := r.String()
	if rest, ok := strings.CutPrefix(s, "docker.io/library/"); ok {
		return rest
	}
	return strings.TrimPrefix(s, "docker.io/")
}
