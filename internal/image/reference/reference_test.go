package reference

import (
	"errors"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	const dgst = "sha256:0123456789012345678901234567890123456789012345678901234567890123"
	for in, want := range map[string]struct{ full, ident, familiar string }{
		"busybox":                      {"docker.io/library/busybox:latest", "latest", "busybox:latest"},
		"index.docker.io/busybox":      {"docker.io/library/busybox:latest", "latest", "busybox:latest"},
		"team/app:1.2":                 {"docker.io/team/app:1.2", "1.2", "team/app:1.2"},
		"localhost:5000/a/b/c":         {"localhost:5000/a/b/c:latest", "latest", "localhost:5000/a/b/c:latest"},
		"127.0.0.1:1/x@" + dgst:        {"127.0.0.1:1/x@" + dgst, dgst, "127.0.0.1:1/x@" + dgst},
		"ghcr.io/x/y:v1@" + dgst:       {"ghcr.io/x/y:v1@" + dgst, dgst, "ghcr.io/x/y:v1@" + dgst},
		"berth.local/demo:latest":      {"berth.local/demo:latest", "latest", "berth.local/demo:latest"},
		"[::1]:5000/x":                 {"[::1]:5000/x:latest", "latest", "[::1]:5000/x:latest"},
		"registry.k8s.io/pause:3.10.1": {"registry.k8s.io/pause:3.10.1", "3.10.1", "registry.k8s.io/pause:3.10.1"},
	} {
		r, err := Parse(in)
		if err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		if r.String() != want.full || r.Identifier() != want.ident || r.Familiar() != want.familiar {
			t.Errorf("%s: %s, %s, %s", in, r, r.Identifier(), r.Familiar())
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, in := range []string{"", "UPPER", "a b", "x:", "x@sha256:12", "x@md5:d41d8cd98f00b204e9800998ecf8427e", "../x", "x/../y", "-x", strings.Repeat("a", 2000),
		"0123456789012345678901234567890123456789012345678901234567890123"} {
		if r, err := Parse(in); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %v, %v", in, r, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("localhost:5000/a/b:c")
	f.Fuzz(func(t *testing.T, s string) {
		r, err := Parse(s)
		if err != nil {
			return
		}
		again, err := Parse(r.String())
		if err != nil || again != r {
			t.Errorf("%q → %q → %v, %v", s, r, again, err)
		}
	})
}
