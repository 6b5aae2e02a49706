// Package trust decides whether an image may be used: by a policy for each repository, and by cosign's
// signatures, checked against public keys that are here. It asks nobody: what it is given to check has been
// fetched by somebody else.
//
// The policy has the form of containers-policy.json(5), of which it takes what can be decided offline with
// keys: insecureAcceptAnything, reject, sigstoreSigned with keys. What it does not know it refuses, as
// leaving it out would accept more than was meant. What it can't read accepts nothing.
package trust

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/11f9778f/berth/internal/image/kind"
	"github.com/11f9778f/berth/internal/image/reference"
)

// ErrRejected is an image that the policy does not allow, or a policy that can't be read.
var ErrRejected = errors.New("rejected by the image policy")

// Policy says what is required of images. The zero value accepts none.
type Policy struct {
	fallback []Requirement
	scopes   map[string][]Requirement // of the transport docker; "" is for all of it
}

// Requirement is one thing that an image must fulfil.
type Requirement struct {
	Type string
	keys []key
	// match says which names a signature is good for.
	match identity
}

// The types of requirements.
const (
	Accept = "insecureAcceptAnything"
	Reject = "reject"
	Signed = "sigstoreSigned"
)

const (
	maxPolicy = 1 << 20
	maxKeys   = 64
)

// Load reads a policy from a file.
func Load(path string) (*Policy, error) {
	b, err := readLimited(path, maxPolicy)
	if err != nil {
		return nil, kind.Errorf(ErrRejected, "the image policy can't be read, so no image may be used: %w", err)
	}
	p, err := Parse(b)
	if err != nil {
		return nil, kind.Errorf(ErrRejected, "the image policy %s can't be read, so no image may be used: %w", path, err)
	}
	return p, nil
}

func readLimited(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s has more than %d bytes", path, limit)
	}
	return b, err
}

type document struct {
	Default    []requirement                       `json:"default"`
	Transports map[string]map[string][]requirement `json:"transports"`
}

type requirement struct {
	Type           string          `json:"type"`
	KeyPath        string          `json:"keyPath"`
	KeyPaths       []string        `json:"keyPaths"`
	KeyData        []byte          `json:"keyData"`
	KeyDatas       [][]byte        `json:"keyDatas"`
	SignedIdentity json.RawMessage `json:"signedIdentity"`
}

// Parse reads a policy, and the keys that it names.
func Parse(b []byte) (*Policy, error) {
	var d document
	if err := strict(b, &d); err != nil {
		return nil, err
	}
	p := &Policy{scopes: map[string][]Requirement{}}
	var err error
	if p.fallback, err = requirements(d.Default); err != nil {
		return nil, fmt.Errorf("default: %w", err)
	}
	for _, transport := range slices.Sorted(maps.Keys(d.Transports)) {
		for scope, list := range d.Transports[transport] {
			r, err := requirements(list)
			if err != nil && transport == "docker" { // others name images that this store never has
				return nil, fmt.Errorf("transports.docker.%q: %w", scope, err)
			}
			if transport == "docker" {
				p.scopes[scope] = r
			}
		}
	}
	return p, nil
}

func strict(b []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return err
	}
	if _, err := dec.Token(); err != io.EOF {
		return errors.New("something follows the end of the document")
	}
	return nil
}

func requirements(list []requirement) ([]Requirement, error) {
	if len(list) == 0 {
		return nil, errors.New("it needs one requirement at least")
	}
	var out []Requirement
	for i, r := range list {
		req, err := r.read()
		if err != nil {
			return nil, fmt.Errorf("requirement %d: %w", i+1, err)
		}
		out = append(out, req)
	}
	return out, nil
}

func (r *requirement) read() (Requirement, error) {
	out := Requirement{Type: r.Type}
	hasKeys := r.KeyPath != "" || len(r.KeyPaths)+len(r.KeyData)+len(r.KeyDatas) > 0
	switch r.Type {
	case Accept, Reject:
		if hasKeys || r.SignedIdentity != nil {
			return out, fmt.Errorf("%s takes no key and no identity", r.Type)
		}
		return out, nil
	case Signed:
	default:
		return out, fmt.Errorf("type: %q is none of %s, %s, %s", r.Type, Accept, Reject, Signed)
	}
	paths := r.KeyPaths
	if r.KeyPath != "" {
		paths = append([]string{r.KeyPath}, paths...)
	}
	datas := r.KeyDatas
	if len(r.KeyData) > 0 {
		datas = append([][]byte{r.KeyData}, datas...)
	}
	if n := len(paths) + len(datas); n == 0 || n > maxKeys {
		return out, fmt.Errorf("keyPath: it needs from 1 to %d keys", maxKeys)
	}
	for _, path := range paths {
		b, err := readLimited(path, maxKey)
		if err != nil {
			return out, fmt.Errorf("keyPath: %w", err)
		}
		k, err := parseKey(b, path)
		if err != nil {
			return out, fmt.Errorf("keyPath: %s: %w", path, err)
		}
		out.keys = append(out.keys, k)
	}
	for _, b := range datas {
		k, err := parseKey(b, "keyData")
		if err != nil {
			return out, fmt.Errorf("keyData: %w", err)
		}
		out.keys = append(out.keys, k)
	}
	var err error
	if out.match, err = parseIdentity(r.SignedIdentity); err != nil {
		return out, fmt.Errorf("signedIdentity: %w", err)
	}
	return out, nil
}

// For returns what is required of a name, and the scope that says so: the most specific one.
func (p *Policy) For(ref reference.Reference) ([]Requirement, string) {
	for _, scope := range scopes(ref) {
		if r, ok := p.scopes[scope]; ok {
			return r, scope
		}
	}
	if r, ok := p.scopes[""]; ok {
		return r, "transports.docker"
	}
	return p.fallback, "default"
}

// scopes are the scopes that a name is in, the most specific first.
func scopes(ref reference.Reference) []string {
	list := []string{ref.String()}
	if ref.Digest() != "" {
		list = append(list, ref.WithDigest(ref.Digest()))
	}
	for s := ref.Repository(); ; {
		list = append(list, s)
		i := strings.LastIndexByte(s, '/')
		if i < 0 {
			break
		}
		s = s[:i]
	}
	host, _, _ := strings.Cut(ref.Domain(), ":")
	for {
		_, rest, ok := strings.Cut(host, ".")
		if !ok {
			return list
		}
		host = rest
		list = append(list, "*."+host)
	}
}

// NeedsSignatures tells whether a signature can make a difference for the requirements.
func NeedsSignatures(list []Requirement) bool {
	return slices.ContainsFunc(list, func(r Requirement) bool { return r.Type == Signed }) &&
		!slices.ContainsFunc(list, func(r Requirement) bool { return r.Type == Reject })
}

// Describe is a sentence for people on what is required.
func Describe(list []Requirement, scope string) string {
	var said []string
	for _, r := range list {
		switch r.Type {
		case Accept:
			said = append(said, "accepted without a signature")
		case Reject:
			said = append(said, "rejected")
		case Signed:
			var names []string
			for _, k := range r.keys {
				names = append(names, k.name)
			}
			said = append(said, "must be signed with "+strings.Join(names, " or "))
		}
	}
	if len(said) == 0 {
		said = []string{"rejected, as nothing is said"}
	}
	return strings.Join(said, ", and ") + " (" + scope + ")"
}
