package engine

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/11f9778f/berth/internal/engine/seccomp"
)

// SpecWriter writes specs as LoadSpec reads them. It makes and encodes each default seccomp profile once: most containers
// of a node have the same one, and it is by far the largest part of a spec. The zero value is ready for use, by several
// goroutines at once.
type SpecWriter struct {
	mu       sync.Mutex
	profiles map[string]*specs.LinuxSeccomp // by the capabilities that they are for; maxProfiles at most
	texts    map[*specs.LinuxSeccomp][]byte // their JSON
}

// DefaultSeccomp is seccomp.Default. The profile is shared with other specs: it must not be changed.
func (w *SpecWriter) DefaultSeccomp(caps []string) (*specs.LinuxSeccomp, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	key := strings.Join(caps, " ")
	if p, ok := w.profiles[key]; ok {
		return p, nil
	}
	p, err := seccomp.Default(caps)
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	if len(w.profiles) >= maxProfiles || w.profiles == nil {
		w.profiles, w.texts = map[string]*specs.LinuxSeccomp{}, map[*specs.LinuxSeccomp][]byte{}
	}
	w.profiles[key], w.texts[p] = p, text
	return p, nil
}

// Marshal encodes a spec, environment variables that are no UTF-8 included: see KeepRawEnv.
func (w *SpecWriter) Marshal(s *specs.Spec) ([]byte, error) {
	KeepRawEnv(s)
	if s.Linux == nil || s.Linux.Seccomp == nil {
		return json.Marshal(s)
	}
	w.mu.Lock()
	text := w.texts[s.Linux.Seccomp]
	w.mu.Unlock()
	if text == nil {
		return json.Marshal(s)
	}
	linux := *s.Linux
	linux.Seccomp = &specs.LinuxSeccomp{}
	spec := *s
	spec.Linux = &linux
	b, err := json.Marshal(&spec)
	if err != nil {
		return nil, err
	}
	// Quotes in strings are escaped, so this is a key with its value, and no other part of a spec has such a value.
	before, after, found := bytes.Cut(b, []byte(`,"seccomp":{"defaultAction":""}`))
	if !found {
		return json.Marshal(s)
	}
	return slices.Concat(before, []byte(`,"seccomp":`), text, after), nil
}
