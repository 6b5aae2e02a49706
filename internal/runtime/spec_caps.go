package runtime

import (
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/11f9778f/berth/internal/engine/caps"
)

// capabilities starts from the engine's default set (privileged: from all), adds, then drops. Nothing
// is inheritable unless it is ambient (CVE-2022-29162).
func (b *specBuilder) capabilities() error {
	sec := b.container.Spec.Security
	var set []string
	if c := b.out.Process.Capabilities; c != nil {
		set = slices.Clone(c.Bounding)
	}
	if sec.Privileged {
		set = caps.Names()
	}
	add, all, err := capNames(sec.AddCapabilities)
	if err != nil {
		return err
	}
	if all {
		add = caps.Names()
	}
	drop, all, err := capNames(sec.DropCapabilities)
	if err != nil {
		return err
	}
	if all {
		set = nil
	}
	ambient, allAmbient, err := capNames(sec.AmbientCapabilities)
	if err != nil {
		return err
	}
	if allAmbient {
		return invalid("ambient capabilities must be named one by one")
	}
	for _, c := range append(add, ambient...) {
		if !slices.Contains(set, c) {
			set = append(set, c)
		}
	}
	set = slices.DeleteFunc(set, func(c string) bool { return slices.Contains(drop, c) && !slices.Contains(add, c) })
	b.out.Process.Capabilities = &specs.LinuxCapabilities{
		Bounding: set, Effective: set, Permitted: set, Inheritable: ambient, Ambient: ambient,
	}
	return nil
}

// administersNetwork tells whether the container may make interfaces in its network namespace.
func (s Security) administersNetwork() bool {
	return s.Privileged || slices.ContainsFunc(slices.Concat(s.AddCapabilities, s.AmbientCapabilities), func(c string) bool {
		c = strings.TrimPrefix(strings.ToUpper(c), "CAP_")
		return c == "NET_ADMIN" || c == "ALL"
	})
}

// capNames checks names and gives them their prefix; "ALL" is reported apart.
func capNames(in []string) (out []string, all bool, err error) {
	for _, n := range in {
		n = strings.ToUpper(n)
		if n == "ALL" {
			all = true
			continue
		}
		if !strings.HasPrefix(n, "CAP_") {
			n = "CAP_" + n
		}
		if _, err := caps.Number(n); err != nil {
			return nil, false, invalid("capability %q does not exist", n)
		}
		out = append(out, n)
	}
	return out, all, nil
}
