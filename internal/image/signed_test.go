package image

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// signer makes signatures as cosign sign --key does.
type signer struct {
	key  crypto.Signer
	path string // of the public key
}

func newSigner(t *testing.T, key crypto.Signer) signer {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "cosign.pub")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return signer{key, path}
}

func ecdsaSigner(t *testing.T) signer {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return newSigner(t, key)
}

// sign returns the layer that holds the signature of a payload.
func (s signer) sign(t *testing.T, payload string) mutate.Addendum {
	t.Helper()
	sum := sha256.Sum256([]byte(payload))
	message, opts := sum[:], crypto.SignerOpts(crypto.SHA256)
	if _, ok := s.key.(ed25519.PrivateKey); ok {
		message, opts = []byte(payload), crypto.Hash(0)
	}
	sig, err := s.key.Sign(rand.Reader, message, opts)
	if err != nil {
		t.Fatal(err)
	}
	return mutate.Addendum{
		Layer:       static.NewLayer([]byte(payload), "application/vnd.dev.cosign.simplesigning.v1+json"),
		Annotations: map[string]string{cosignSignature: base64.StdEncoding.EncodeToString(sig)},
	}
}

func payloadFor(ref, digest string) string {
	return fmt.Sprintf(`{"critical":{"identity":{"docker-reference":%q},"image":{"docker-manifest-digest":%q},"type":"cosign container image signature"},"optional":null}`, ref, digest)
}

// pushSignatures puts them where cosign does.
func (f *fake) pushSignatures(t *testing.T, repo string, img v1.Image, layers ...mutate.Addendum) {
	t.Helper()
	sigs, err := mutate.Append(mutate.MediaType(empty.Image, types.OCIManifestSchema1), layers...)
	if err != nil {
		t.Fatal(err)
	}
	d, _ := img.Digest()
	f.push(t, repo+":sha256-"+d.Hex+".sig", mutate.ConfigMediaType(sigs, types.OCIConfigJSON))
}

func TestPolicy(t *testing.T) {
	ctx := context.Background()
	f := newFake(t)
	path := filepath.Join(t.TempDir(), "policy.json")
	s := openStore(t, func(c *Config) { c.Policy = path })
	good, other := ecdsaSigner(t), ecdsaSigner(t)
	require := func(identity string) {
		t.Helper()
		text := fmt.Sprintf(`{"default":[{"type":"reject"}],"transports":{"docker":{
			%q:[{"type":"sigstoreSigned","keyPath":%q%s}], %q:[{"type":"insecureAcceptAnything"}]}}}`, f.host()+"/signed", good.path, identity, f.host()+"/free")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const byRepository = `,"signedIdentity":{"type":"matchRepository"}`
	img := simple(t)
	d, _ := img.Digest()
	name := f.host() + "/signed/app"
	ref := f.push(t, "signed/app:1", img)
	free := f.push(t, "free/app:1", img)
	rejected := func(ref string, words ...string) {
		t.Helper()
		mustFail(t, s, ref, ErrRejected, words...)
	}
	rejected(ref, "can't be read", "no image may be used")
	require(byRepository)
	rejected(f.push(t, "unknown:1", img), "rejects")
	rejected(ref, "has none")
	for what, c := range map[string]struct {
		layer mutate.Addendum
		word  string
	}{
		"other key":   {other.sign(t, payloadFor(name, d.String())), "none of its signatures"},
		"other image": {good.sign(t, payloadFor(name, "sha256:"+strings.Repeat("0", 64))), "another image"},
		"other name":  {good.sign(t, payloadFor(f.host()+"/signed/other", d.String())), "signed/other"},
		"other thing": {good.sign(t, strings.Replace(payloadFor(name, d.String()), "cosign container", "my", 1)), "something else"},
		"no JSON":     {good.sign(t, "yes"), "JSON"},
	} {
		f.pushSignatures(t, "signed/app", img, c.layer)
		t.Run(what, func(t *testing.T) { mustFail(t, s, ref, ErrRejected, c.word) })
	}
	f.pushSignatures(t, "signed/app", img, other.sign(t, payloadFor(name, d.String())), good.sign(t, payloadFor(name, d.String())))
	// The same image under another name is none that is signed.
	got, err := s.Pull(ctx, free, PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Tag(ctx, free, ref); err != nil {
		t.Fatal(err)
	}
	if err := s.Allowed(got.ID.String(), ref); !errors.Is(err, ErrRejected) || !strings.Contains(err.Error(), "has none") {
		t.Error(err)
	}
	if err := s.Allowed(got.ID.String(), free); err != nil {
		t.Error(err)
	}
	if _, err := s.Pull(ctx, ref, PullOptions{}); err != nil {
		t.Fatal(err)
	}
	f.Close() // from here on nobody can be asked
	if err := s.Allowed(ref, ref); err != nil {
		t.Error(err)
	}
	require("")
	if err := s.Allowed(ref, ref); !errors.Is(err, ErrRejected) || !strings.Contains(err.Error(), "matchRepository") {
		t.Errorf("a signature without a tag was taken for the tag: %v", err)
	}
	e, err := s.Explain(ctx, ref, PullOptions{})
	if err != nil || !strings.Contains(e.Policy, good.path) || e.Refused == "" {
		t.Errorf("%+v, %v", e, err)
	}
	os.WriteFile(path, []byte("{"), 0o600)
	if err := s.Allowed(free, free); !errors.Is(err, ErrRejected) {
		t.Errorf("with a broken policy: %v", err)
	}
	if err := s.Remove(ctx, got.ID.String()); err != nil {
		t.Fatal(err)
	}
	checkEmpty(t, s)
}

// What cosign signs is the index; other kinds of keys do as well.
func TestPolicyOnIndexAndKeys(t *testing.T) {
	f := newFake(t)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for what, key := range map[string]crypto.Signer{"rsa": rsaKey, "ed25519": edKey} {
		t.Run(what, func(t *testing.T) {
			sig := newSigner(t, key)
			path := filepath.Join(t.TempDir(), "policy.json")
			pub, _ := os.ReadFile(sig.path)
			text := fmt.Sprintf(`{"default":[{"type":"sigstoreSigned","keyData":%q,"signedIdentity":{"type":"exactRepository","dockerRepository":"signed.example/app"}}]}`,
				base64.StdEncoding.EncodeToString(pub))
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			img := build(t, machine(), layer(t, file{name: what}))
			ref := f.push(t, what+":1", img)
			d, _ := img.Digest()
			f.pushSignatures(t, what, img, sig.sign(t, payloadFor("signed.example/app", d.String())))
			s := openStore(t, func(c *Config) { c.Policy = path })
			got, err := s.Pull(context.Background(), ref, PullOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Allowed(got.ID.String(), ""); err != nil {
				t.Error(err)
			}
		})
	}
}
