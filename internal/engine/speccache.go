package engine

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/11f9778f/berth/internal/engine/seccomp"
)

// SpecCache remembers the seccomp profiles of the specs that it has read, and their compiled filters: most containers
// of a node have the same one, and it is by far the largest part of a spec. The nil cache remembers nothing.
type SpecCache struct {
	mu       sync.Mutex
	profiles map[string]*specs.LinuxSeccomp // by their JSON
	filters  map[*specs.LinuxSeccomp]*seccomp.Filter
}

// maxProfiles bounds how many profiles are remembered; then all are forgotten.
const maxProfiles = 16

// LoadSpec is the function LoadSpec. The profile, linux.seccomp, may be shared with other specs: it must not be changed.
func (c *SpecCache) LoadSpec(bundle string) (*specs.Spec, error) {
	if c == nil {
		return LoadSpec(bundle)
	}
	room := configs.Get().(*bytes.Buffer)
	defer configs.Put(room)
	room.Reset()
	if err := readConfig(bundle, room); err != nil {
		return nil, err
	}
	b, profile := c.cut(room.Bytes())
	s, err := c.parse(b, profile)
	if errors.Is(err, errMisplaced) {
		return c.parse(room.Bytes(), nil)
	}
	return s, err
}

// configs has room for a config.json: nothing that is read of it keeps the text.
var configs = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// stead stands for a profile that was cut out of a spec.
const stead = "0"

var errMisplaced = errors.New("the profile is not where it belongs")

// cut leaves the first profile of a spec out if it is one that is remembered: decoding the JSON would go over it several
// times. Quotes in strings are escaped, so what it finds is a key with its value, though maybe not linux.seccomp.
func (c *SpecCache) cut(b []byte) ([]byte, *specs.LinuxSeccomp) {
	key := []byte(`,"seccomp":`)
	before, after, found := bytes.Cut(b, key)
	if !found {
		return b, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for raw, p := range c.profiles {
		if len(after) > len(raw) && string(after[:len(raw)]) == raw {
			return slices.Concat(before, key, []byte(stead), after[len(raw):]), p
		}
	}
	return b, nil
}

// The fields of these hide those of the embedded types, so that the profile stays as it is, and so that no decoder is made
// for other platforms' parts: such a spec is refused in any case (validate), and a decoder costs a shim some 100 KiB.
type (
	lazySpec struct {
		specs.Spec
		Linux   *lazyLinux `json:"linux"`
		Solaris *struct{}  `json:"solaris"`
		Windows *struct{}  `json:"windows"`
		VM      *struct{}  `json:"vm"`
		ZOS     *struct{}  `json:"zos"`
		FreeBSD *struct{}  `json:"freebsd"`
	}
	lazyLinux struct {
		specs.Linux
		Seccomp json.RawMessage `json:"seccomp"`
	}
)

// parse decodes a spec. With a profile that cut has left out it returns errMisplaced unless that was linux.seccomp.
func (c *SpecCache) parse(b []byte, known *specs.LinuxSeccomp) (*specs.Spec, error) {
	var l lazySpec
	if err := json.Unmarshal(b, &l); err != nil {
		return nil, fmt.Errorf("config.json: %w", err)
	}
	if err := restoreRawEnv(&l.Spec); err != nil {
		return nil, fmt.Errorf("config.json: %w", err)
	}
	if l.Solaris != nil || l.Windows != nil || l.VM != nil || l.ZOS != nil || l.FreeBSD != nil {
		l.Spec.VM = &specs.VM{}
	}
	if known != nil && (l.Linux == nil || string(l.Linux.Seccomp) != stead) {
		return nil, errMisplaced
	}
	if l.Linux == nil {
		return &l.Spec, nil
	}
	l.Spec.Linux = &l.Linux.Linux
	if known != nil {
		l.Spec.Linux.Seccomp = known
		return &l.Spec, nil
	}
	if len(l.Linux.Seccomp) == 0 {
		return &l.Spec, nil
	}
	profile, err := c.profile(string(l.Linux.Seccomp))
	if err != nil {
		return nil, fmt.Errorf("config.json: linux.seccomp: %w", err)
	}
	l.Spec.Linux.Seccomp = profile
	return &l.Spec, nil
}

func (c *SpecCache) profile(raw string) (*specs.LinuxSeccomp, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p, ok := c.profiles[raw]; ok {
		return p, nil
	}
	var p *specs.LinuxSeccomp
	if err := json.Unmarshal([]byte(raw), &p); err != nil {
		return nil, err
	}
	if len(c.profiles) >= maxProfiles || c.profiles == nil {
		c.profiles, c.filters = map[string]*specs.LinuxSeccomp{}, map[*specs.LinuxSeccomp]*seccomp.Filter{}
	}
	c.profiles[raw] = p
	return p, nil
}

// filter compiles a profile, or returns what it compiled to before.
func (c *SpecCache) filter(p *specs.LinuxSeccomp) (*seccomp.Filter, error) {
	if c == nil || p == nil {
		return compileSeccomp(p)
	}
	c.mu.Lock()
	f := c.filters[p]
	c.mu.Unlock()
	if f != nil {
		return f, nil
	}
	f, err := compileSeccomp(p)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.filters != nil && c.remembers(p) {
		c.filters[p] = f
	}
	return f, nil
}

func (c *SpecCache) remembers(p *specs.LinuxSeccomp) bool {
	for _, q := range c.profiles {
		if p == q {
			return true
		}
	}
	return false
}
