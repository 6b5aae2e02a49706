package image

import (
	"iter"
	"maps"
	"regexp"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/11f9778f/berth/internal/image/kind"
)

// DefaultNamespace is that of Kubernetes, as everywhere where containerd serves it. What was stored before there were
// namespaces is in it.
const DefaultNamespace = "k8s.io"

// maxNamespace bounds a namespace's name, in bytes; both are containerd's rules.
const maxNamespace = 76

var namespaceForm = regexp.MustCompile(`^[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*$`)

// tenant is what one namespace has.
//
// Invariant: one that is in core.tenants is never changed. commit replaces it.
type tenant struct {
	manifests map[digest.Digest]*manifest
	names     map[string]digest.Digest // full name → manifest
	pins      map[digest.Digest]bool   // manifests that are pinned
}

func (t tenant) clone() tenant {
	if t.manifests == nil {
		return tenant{map[digest.Digest]*manifest{}, map[string]digest.Digest{}, map[digest.Digest]bool{}}
	}
	return tenant{maps.Clone(t.manifests), maps.Clone(t.names), maps.Clone(t.pins)}
}

// CheckNamespace says what is wrong with the name of a namespace.
func CheckNamespace(name string) error {
	if len(name) > maxNamespace || !namespaceForm.MatchString(name) {
		return kind.Errorf(ErrInvalid, "%.100q can't be a namespace: it needs letters and digits, between them single . _ -, at most %d in all", name, maxNamespace)
	}
	return nil
}

// In returns the store as another namespace sees it: names, pins and users of images are its own, their bytes and
// unpacked layers are everybody's. A namespace begins with its first image and ends with its last.
func (s *Store) In(namespace string) (*Store, error) {
	if err := CheckNamespace(namespace); err != nil {
		return nil, err
	}
	return &Store{core: s.core, namespace: namespace}, nil
}

// Namespace is the one that s sees.
func (s *Store) Namespace() string { return s.namespace }

// Namespaces returns the namespaces that have an image, sorted.
func (s *Store) Namespaces() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.tenants))
}

// own is what this namespace has. The caller holds mu.
func (s *Store) own() tenant { return s.tenants[s.namespace] }

// everybodys are the manifests of all namespaces; one that several have comes several times. The caller holds mu.
func (c *core) everybodys() iter.Seq2[digest.Digest, *manifest] {
	return func(yield func(digest.Digest, *manifest) bool) {
		for _, t := range c.tenants {
			for d, m := range t.manifests {
				if !yield(d, m) {
					return
				}
			}
		}
	}
}

// manifestOf finds a manifest in any namespace. The caller holds mu.
func (c *core) manifestOf(d digest.Digest) *manifest {
	for _, t := range c.tenants {
		if m := t.manifests[d]; m != nil {
			return m
		}
	}
	return nil
}
