package trust

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/11f9778f/berth/internal/image/reference"
)

func ref(t *testing.T, s string) reference.Reference {
	t.Helper()
	r, err := reference.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// The most specific scope counts.
func TestScopes(t *testing.T) {
	accept, reject := `[{"type":"insecureAcceptAnything"}]`, `[{"type":"reject"}]`
	if _, err := Parse([]byte(`{"default":[{"type":"signedBy","keyType":"GPGKeys"}]}`)); err == nil {
		t.Error("an unknown key was taken")
	}
	p, err := Parse([]byte(`{"default":` + reject + `,"transports":{"docker":{
		"registry.example":` + reject + `, "registry.example/team":` + accept + `, "registry.example/team/secret":` + reject + `,
		"registry.example/team/secret:open":` + accept + `, "*.internal.example":` + accept + `, "docker.io/library":` + accept + `}}}`))
	if err != nil {
		t.Fatal(err)
	}
	for name, ok := range map[string]bool{
		"registry.example/app:1": false, "registry.example/team/app:1": true, "registry.example/team/secret:1": false,
		"registry.example/team/secret:open": true, "registry.example/teammate/app": false, "a.internal.example/x": true,
		"b.a.internal.example:5000/x": true, "internal.example/x": false, "busybox": true, "other/x": false, "elsewhere.example/x": false,
	} {
		err := p.Check(ref(t, name), nil, nil)
		if (err == nil) != ok || err != nil && !errors.Is(err, ErrRejected) {
			t.Errorf("%s: %v", name, err)
		}
	}
	var none Policy
	if err := none.Check(ref(t, "x"), nil, nil); !errors.Is(err, ErrRejected) {
		t.Errorf("the zero policy: %v", err)
	}
}

func TestParseSaysWhatIsWrong(t *testing.T) {
	for text, word := range map[string]string{
		``:                                   "EOF",
		`{}`:                                 "default",
		`{"default":[]}`:                     "default",
		`{"default":[{"type":"x"}]}`:         "type",
		`{"default":[{"type":"reject"}]} {}`: "follows",
		`{"default":[{"type":"reject","keyPath":"/x"}]}`:                      "takes no key",
		`{"default":[{"type":"sigstoreSigned"}]}`:                             "keyPath",
		`{"default":[{"type":"sigstoreSigned","keyPath":"/does/not/exist"}]}`: "/does/not/exist",
		`{"default":[{"type":"sigstoreSigned","keyData":"eA=="}]}`:            "PEM",
		`{"default":[{"type":"sigstoreSigned","fulcio":{}}]}`:                 "fulcio",
		`{"default":[{"type":"reject"}],"transports":{"docker":{"a":[{}]}}}`:  `"a"`,
	} {
		if _, err := Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%s: %v", text, err)
		}
	}
	if _, err := Load("/does/not/exist"); !errors.Is(err, ErrRejected) {
		t.Error(err)
	}
}

func TestIdentity(t *testing.T) {
	for _, c := range []struct {
		id          identity
		ref, signed string
		ok          bool
	}{
		{identity{how: matchExact}, "r.example/a:1", "r.example/a:1", true},
		{identity{how: matchExact}, "r.example/a:1", "r.example/a:2", false},
		{identity{how: matchExact}, "r.example/a", "r.example/a", false}, // the signature has no tag
		{identity{how: matchRepoDigestOrSame}, "r.example/a@sha256:" + strings.Repeat("a", 64), "r.example/a", true},
		{identity{how: matchRepoDigestOrSame}, "r.example/a:1", "r.example/a", false},
		{identity{how: matchRepository}, "busybox:1", "index.docker.io/library/busybox", true},
		{identity{how: matchRepository}, "r.example/a:1", "r.example/b", false},
		{identity{how: exactReference, exact: "r.example/a:1"}, "mirror/a:9", "r.example/a:1", true},
		{identity{how: exactRepository, exact: "r.example/a"}, "mirror/a:9", "r.example/b", false},
		{identity{how: remapIdentity, prefix: "mirror.example/x", signedAs: "r.example"}, "mirror.example/x/a:1", "r.example/a", true},
		{identity{how: remapIdentity, prefix: "mirror.example/x", signedAs: "r.example"}, "mirror.example/xy/a:1", "r.example/a", false},
		{identity{how: matchRepository}, "r.example/a:1", "", false},
	} {
		if err := c.id.allows(ref(t, c.ref), c.signed); (err == nil) != c.ok {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"default":[{"type":"reject"}],"transports":{"docker":{"a":[{"type":"sigstoreSigned","keyData":"eA=="}]}}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := Parse(b); err == nil && len(p.fallback) == 0 {
			t.Error("a policy without a default")
		}
	})
}

// Whatever a key has signed, an image is let in only by a document that names it.
func FuzzPayload(f *testing.F) {
	pub, priv, err := ed25519.GenerateKey(bytes.NewReader(make([]byte, 64)))
	if err != nil {
		f.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		f.Fatal(err)
	}
	key := base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	p, err := Parse([]byte(`{"default":[{"type":"sigstoreSigned","keyData":"` + key + `","signedIdentity":{"type":"matchRepository"}}]}`))
	if err != nil {
		f.Fatal(err)
	}
	image, err := reference.Parse("registry.example/app:1")
	if err != nil {
		f.Fatal(err)
	}
	d := digest.FromString("the image")
	good := `{"critical":{"identity":{"docker-reference":"registry.example/app"},"image":{"docker-manifest-digest":"` + d.String() + `"},"type":"` + payloadType + `"}}`
	if err := p.Check(image, []digest.Digest{d}, []Signature{{[]byte(good), ed25519.Sign(priv, []byte(good))}}); err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{good, `{}`, `[]`, `{"critical":null}`, `{"critical":{"image":{"docker-manifest-digest":"x"}}}`, strings.Repeat("[", 10_000)} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		err := p.Check(image, []digest.Digest{d}, []Signature{{b, ed25519.Sign(priv, b)}})
		if err == nil && !bytes.Contains(b, []byte(d.Encoded()[:8])) && !bytes.Contains(b, []byte("\\u")) {
			t.Errorf("let in by %q", b)
		}
		if err != nil && !errors.Is(err, ErrRejected) {
			t.Errorf("of no kind: %v", err)
		}
	})
}
