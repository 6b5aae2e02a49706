package engine

import (
	"encoding/json"
	"testing"
)

// FuzzSpec feeds hostile configurations to everything that looks at one before a process exists: no
// panic, and nothing is made.
func FuzzSpec(f *testing.F) {
	b, err := json.Marshal(DefaultSpec())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"process":{"args":["x"],"cwd":"/"},"root":{"path":"r"},"linux":{"namespaces":[{"type":"mount"}],"sysctl":{"net.x":"1"}},"mounts":[{"destination":"/a/../..","options":["r","rr","bind","=",""]}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		spec, err := ParseSpec(b)
		if err != nil {
			return
		}
		if validate(CreateOptions{ID: "fuzz", Bundle: "/nonexistent", Spec: spec}) != nil {
			return
		}
		for _, m := range spec.Mounts {
			parseMountOptions(m.Options)
			splitLayers(m.Source)
		}
	})
}
