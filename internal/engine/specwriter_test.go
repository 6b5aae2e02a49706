package engine

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/11f9778f/berth/internal/engine/seccomp"
)

// A writer writes what json.Marshal writes, whosever the profile is.
func TestSpecWriter(t *testing.T) {
	var w SpecWriter
	caps := []string{"CAP_SYS_ADMIN"}
	profile, err := w.DefaultSeccomp(caps)
	if err != nil {
		t.Fatal(err)
	}
	again, _ := w.DefaultSeccomp(caps)
	other, _ := w.DefaultSeccomp(nil)
	want, err := seccomp.Default(caps)
	if again != profile || other == profile || err != nil || !cmp.Equal(profile, want) {
		t.Errorf("profiles %p, %p and %p for other capabilities; %v, %s", profile, again, other, err, cmp.Diff(profile, want))
	}
	for name, p := range map[string]*specs.LinuxSeccomp{"ours": profile, "none": nil, "empty": {}, "another's": want} {
		s := DefaultSpec()
		s.Linux.Seccomp = p
		s.Annotations = map[string]string{"seccomp": `,"seccomp":{"defaultAction":""}`}
		got, err := w.Marshal(s)
		want, _ := json.Marshal(s)
		if err != nil || string(got) != string(want) {
			t.Errorf("%s: %v, %s", name, err, cmp.Diff(string(got), string(want)))
		}
		if s.Linux.Seccomp != p {
			t.Errorf("%s: the spec was changed", name)
		}
	}
	for i := range 2 * maxProfiles {
		if _, err := w.DefaultSeccomp([]string{fmt.Sprint("CAP_", i)}); err != nil {
			t.Error(err)
		}
	}
	if n, m := len(w.profiles), len(w.texts); n > maxProfiles || m != n {
		t.Errorf("%d profiles and %d texts are remembered", n, m)
	}
	spec := &specs.Spec{Process: &specs.Process{Env: []string{"A=\xff"}}}
	b, err := w.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	if s, err := ParseSpec(b); err != nil || s.Process.Env[0] != "A=\xff" {
		t.Errorf("%v, %v", s.Process.Env, err)
	}
}
