package engine

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/11f9778f/berth/internal/engine/seccomp"
)

// A cache reads what LoadSpec reads, and keeps one copy of a profile.
func TestSpecCache(t *testing.T) {
	profile, err := seccomp.Default(nil)
	if err != nil {
		t.Fatal(err)
	}
	spec := DefaultSpec()
	spec.Linux.Seccomp = profile
	with, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	cache := &SpecCache{}
	known := `{"defaultAction":"SCMP_ACT_LOG"}`
	for name, config := range map[string]string{
		"known": `{"linux":{"cgroupsPath":"/x","seccomp":` + known + `,"mountLabel":"m"},"hostname":"h"}`,
		"alone": `{"linux":{"seccomp":` + known + `}}`, "elsewhere": `{"x":{"y":1,"seccomp":` + known + `},"linux":{"mountLabel":"m"}}`,
		"elsewhere too": `{"x":{"y":1,"seccomp":` + known + `},"linux":{"mountLabel":"m","seccomp":{}}}`,
		"twice":         `{"linux":{"mountLabel":"m","seccomp":` + known + `,"seccomp":{"defaultAction":"x"}}}`,
		"quoted":        `{"annotations":{"a":",\"seccomp\":{}","seccomp":"x"},"linux":{"mountLabel":",\"seccomp\":{}","seccomp":` + known + `}}`,
		"cut short":     `{"linux":{"mountLabel":"m","seccomp":` + known, "followed by nonsense": `{"linux":{"mountLabel":"m","seccomp":` + known + `1}}`,
		"profile": string(with), "no profile": `{"linux":{"seccomp":null,"cgroupsPath":"/x"}}`, "no linux": `{"hostname":"h"}`,
		"other case": `{"Linux":{"Seccomp":{"defaultAction":"SCMP_ACT_ALLOW"}}}`, "empty": `{}`, "no JSON": `{`,
		"bad profile": `{"linux":{"seccomp":[]}}`, "bad spec": `{"linux":[]}`,
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		want, wantErr := LoadSpec(dir)
		if _, err := cache.profile(known); err != nil {
			t.Fatal(err)
		}
		for _, round := range []string{"first", "again"} {
			got, err := cache.LoadSpec(dir)
			if (err == nil) != (wantErr == nil) || err == nil && !cmp.Equal(got, want) {
				t.Errorf("%s, %s: %v, %v; without a cache: %v", name, round, cmp.Diff(got, want), err, wantErr)
			}
		}
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "config.json"), with, 0o600); err != nil {
		t.Fatal(err)
	}
	a, _ := cache.parse(with, nil)
	b, _ := cache.LoadSpec(dir)
	fa, err := cache.filter(a.Linux.Seccomp)
	fb, _ := cache.filter(b.Linux.Seccomp)
	if a.Linux.Seccomp != b.Linux.Seccomp || fa != fb || err != nil || fa == nil {
		t.Errorf("profiles %p and %p, filters %p and %p, %v", a.Linux.Seccomp, b.Linux.Seccomp, fa, fb, err)
	}
	for i := range 2 * maxProfiles {
		if _, err := cache.profile(fmt.Sprintf(`{"defaultErrnoRet":%d}`, i)); err != nil {
			t.Error(err)
		}
	}
	if n := len(cache.profiles); n > maxProfiles {
		t.Errorf("%d profiles are remembered", n)
	}
	if f, err := cache.filter(&specs.LinuxSeccomp{DefaultAction: specs.ActAllow}); f == nil || err != nil || len(cache.filters) > 0 {
		t.Errorf("a profile of nobody: %v, %v, %d filters are remembered", f, err, len(cache.filters))
	}
}
