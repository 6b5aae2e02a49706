package image

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A configuration is taken or refused with a kind of error that a caller can tell; what is taken fits its manifest, and
// can be listed, copied and recorded.
func FuzzConfig(f *testing.F) {
	id := digest.FromString("layer").String()
	for _, seed := range []string{
		`{"os":"linux","architecture":"` + machine() + `","rootfs":{"type":"layers","diff_ids":["` + id + `"]},"config":{"Env":["A=b"],"Volumes":{"/v":{}},"Labels":{"a":"b"}}}`,
		`{"os":"linux","architecture":"` + machine() + `","rootfs":{"diff_ids":["sha512:ab"]}}`, `{"rootfs":{"diff_ids":null}}`, `[]`, `{"config":{"ExposedPorts":{"x":1}}}`,
	} {
		f.Add([]byte(seed), 1)
	}
	f.Fuzz(func(t *testing.T, config []byte, layers int) {
		d := document{SchemaVersion: 2, Config: &ispec.Descriptor{MediaType: ispec.MediaTypeImageConfig, Digest: digestOf(config), Size: int64(len(config))}}
		for range min(max(layers, 0), 8) {
			d.Layers = append(d.Layers, ispec.Descriptor{MediaType: ispec.MediaTypeImageLayer, Digest: digest.FromString("blob"), Size: 1})
		}
		raw, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		c, err := contentsOf(raw, ispec.MediaTypeImageManifest, config, withDefaultPlatform())
		if err != nil {
			if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrPlatform) {
				t.Errorf("of no kind: %v", err)
			}
			return
		}
		if len(c.layers) != len(d.Layers) {
			t.Errorf("%d layers of %d", len(c.layers), len(d.Layers))
		}
		for _, l := range c.layers {
			if _, ok := parseHex(l.DiffID.Encoded()); !ok || l.DiffID.Algorithm() != digest.SHA256 {
				t.Errorf("the diff ID %q would be a path", l.DiffID)
			}
		}
		cloneConfig(c.image)
	})
}
