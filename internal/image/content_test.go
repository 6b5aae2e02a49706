package image

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/platforms"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestLies(t *testing.T) {
	f, s := newFake(t), openStore(t, nil)
	img := randomImage(t, 1000, 2)
	ref := f.push(t, "app:1", img)
	layers, _ := img.Layers()
	victim, _ := layers[1].Digest()
	config, _ := img.ConfigName()
	whole := blobsOf(t, img)[victim.String()]
	lie := func(path string, b []byte) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasSuffix(r.URL.Path, path) {
				return false
			}
			w.Write(b)
			return true
		}
	}
	flipped := bytes.Clone(whole)
	flipped[len(flipped)/2] ^= 1
	for name, c := range map[string]struct {
		hook func(http.ResponseWriter, *http.Request) bool
		word string
	}{
		"layer bit":    {lie(victim.String(), flipped), victim.String()},
		"layer zeros":  {lie(victim.String(), make([]byte, len(whole))), victim.String()},
		"layer longer": {lie(victim.String(), append(bytes.Clone(whole), 0)), "more bytes"},
		"config":       {lie(config.String(), []byte(strings.Repeat("x", 10))), "registry"},
	} {
		t.Run(name, func(t *testing.T) {
			f.hook = c.hook
			kind := ErrCorrupt
			if name == "config" { // it is shorter than promised
				kind = ErrUnavailable
			}
			mustFail(t, s, ref, kind, c.word)
		})
	}
	t.Run("manifest by digest", func(t *testing.T) {
		d, _ := img.Digest()
		other, _ := randomImage(t, 10, 1).RawManifest()
		f.hook = lie(d.String(), other)
		mustFail(t, s, f.host()+"/app@"+d.String(), ErrCorrupt, d.String(), "do not trust")
	})
	t.Run("both image and index", func(t *testing.T) {
		raw, _ := img.RawManifest()
		var m map[string]any
		json.Unmarshal(raw, &m)
		m["manifests"] = []any{}
		both, _ := json.Marshal(m)
		f.hook = lie("/manifests/1", both)
		mustFail(t, s, ref, ErrCorrupt, "ambiguous")
	})
}

// A mirror whose layers have other bytes than they should is found out, named and passed over.
func TestMirrorThatLies(t *testing.T) {
	f := newFake(t)
	img := randomImage(t, 200_000, 3)
	ref := f.push(t, "app:1", img)
	layers, _ := img.Layers()
	victim, _ := layers[1].Digest()
	whole := blobsOf(t, img)[victim.String()]
	flipped := bytes.Clone(whole)
	flipped[len(flipped)/2] ^= 1
	for name, lie := range map[string][]byte{"a bit": flipped, "all zeros": make([]byte, len(whole)), "too long": append(bytes.Clone(whole), 0)} {
		t.Run(name, func(t *testing.T) {
			mirror := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if strings.HasSuffix(r.URL.Path, victim.String()) {
					w.Write(lie)
					return
				}
				f.Config.Handler.ServeHTTP(w, r)
			}))
			defer mirror.Close()
			dir := filepath.Join(t.TempDir(), strings.Replace(f.host(), ":", "_", 1)+"_")
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "hosts.toml"), fmt.Appendf(nil, "[host.%q]\n", mirror.URL), 0o600); err != nil {
				t.Fatal(err)
			}
			var log bytes.Buffer
			s := openStore(t, func(c *Config) {
				c.RegistryDirs = []string{filepath.Dir(dir)}
				c.Log = slog.New(slog.NewTextHandler(&log, nil))
			})
			if _, err := s.Pull(context.Background(), ref, PullOptions{}); err != nil {
				t.Fatal(err)
			}
			settled(t, s)
			s.Close() // it logs no more
			if said := "the mirror " + strings.TrimPrefix(mirror.URL, "http://") + " sent another blob"; name != "too long" && !strings.Contains(log.String(), said) {
				t.Errorf("the log does not say %q:\n%s", said, &log)
			}
		})
	}
}

// Images that were pushed like this: every digest is right.
func TestBadImages(t *testing.T) {
	f, s := newFake(t), openStore(t, nil)
	img := randomImage(t, 1000, 2)
	t.Run("diff ID", func(t *testing.T) {
		cf, _ := img.ConfigFile()
		cf = cf.DeepCopy()
		cf.RootFS.DiffIDs[0] = v1.Hash{Algorithm: "sha256", Hex: strings.Repeat("ab", 32)}
		liar, err := mutate.ConfigFile(img, cf)
		if err != nil {
			t.Fatal(err)
		}
		mustFail(t, s, f.push(t, "liar:1", liar), ErrCorrupt, "abababab")
	})
	t.Run("hostile layer", func(t *testing.T) {
		evil := build(t, machine(), layer(t, file{name: "ok", body: "1"}, file{name: "../x", body: "evil"}))
		mustFail(t, s, f.push(t, "evil:1", evil), ErrCorrupt, `"../x"`, "outside")
	})
	t.Run("layer is no tar", func(t *testing.T) {
		mustFail(t, s, f.push(t, "text:1", build(t, machine(), static.NewLayer(bytes.Repeat([]byte("text"), 1000), types.DockerLayer))), ErrCorrupt, "tar")
	})
	t.Run("no image", func(t *testing.T) {
		chart := mutate.ConfigMediaType(simple(t), "application/vnd.cncf.helm.config.v1+json")
		mustFail(t, s, f.push(t, "chart:1", chart), ErrCorrupt, "helm")
	})
}

func TestPlatforms(t *testing.T) {
	f, s := newFake(t), openStore(t, nil)
	other := "arm64"
	if machine() == other {
		other = "amd64"
	}
	mustFail(t, s, f.push(t, "other:1", build(t, other, layer(t, file{name: "a"}))), ErrPlatform, "it is for linux/"+other, "this machine is linux/"+machine())

	index := func(archs ...string) v1.ImageIndex {
		idx := mutate.IndexMediaType(v1.ImageIndex(empty.Index), types.DockerManifestList)
		for _, a := range archs {
			img := build(t, a, layer(t, file{name: "arch", body: a}))
			idx = mutate.AppendManifests(idx, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: a}}})
		}
		return mutate.AppendManifests(idx, mutate.IndexAddendum{Add: build(t, "unknown", layer(t, file{name: "attest"})), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "unknown", Architecture: "unknown"}}})
	}
	push := func(repo string, idx v1.ImageIndex) string {
		r, err := name.ParseReference(f.host() + "/" + repo)
		if err != nil {
			t.Fatal(err)
		}
		if err := remote.WriteIndex(r, idx); err != nil {
			t.Fatal(err)
		}
		return f.host() + "/" + repo
	}
	mustFail(t, s, push("others:1", index(other, "s390x")), ErrPlatform, "linux/"+other, "linux/s390x", "this machine is")

	idx := index("s390x", machine(), other)
	ref := push("multi:1", idx)
	img, err := s.Pull(context.Background(), ref, PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if b, _ := s.ReadFile(context.Background(), img, "/arch", 100); string(b) != machine() {
		t.Errorf("chose %q", b)
	}
	d, _ := idx.Digest()
	if len(img.RepoDigests) != 1 || !strings.HasSuffix(img.RepoDigests[0], "multi@"+d.String()) {
		t.Errorf("RepoDigests %v, want the index's %s", img.RepoDigests, d)
	}
	img, err = s.Pull(context.Background(), ref, PullOptions{Platform: &ispec.Platform{OS: "linux", Architecture: other}})
	if err != nil {
		t.Fatal(err)
	}
	if b, _ := s.ReadFile(context.Background(), img, "/arch", 100); string(b) != other {
		t.Errorf("chose %q", b)
	}
}

// Of an index with variants the best goes that the machine can run; an OCI index and OCI manifests do as well as Docker's.
func TestPlatformVariants(t *testing.T) {
	f, s := newFake(t), openStore(t, nil)
	idx := mutate.IndexMediaType(v1.ImageIndex(empty.Index), types.OCIImageIndex)
	for _, p := range []v1.Platform{{Architecture: "amd64"}, {Architecture: "arm", Variant: "v5"}, {Architecture: "arm", Variant: "v6"}, {Architecture: "arm", Variant: "v7"}, {Architecture: "arm64", Variant: "v8"}} {
		p.OS = "linux"
		img := mutate.MediaType(mutate.ConfigMediaType(build(t, p.Architecture, layer(t, file{name: "variant", body: p.Architecture + p.Variant})), types.OCIConfigJSON), types.OCIManifestSchema1)
		cf, err := img.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		cf = cf.DeepCopy()
		cf.Variant = p.Variant
		if img, err = mutate.ConfigFile(img, cf); err != nil {
			t.Fatal(err)
		}
		idx = mutate.AppendManifests(idx, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &p}})
	}
	r, err := name.ParseReference(f.host() + "/variants:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(r, idx); err != nil {
		t.Fatal(err)
	}
	for want, got := range map[string]string{"linux/arm/v7": "armv7", "linux/arm/v6": "armv6", "linux/arm/v5": "armv5", "linux/arm": "armv7", "linux/arm64": "arm64v8", "linux/amd64": "amd64"} {
		p, err := platforms.Parse(want)
		if err != nil {
			t.Fatal(err)
		}
		img, err := s.Pull(context.Background(), f.host()+"/variants:1", PullOptions{Platform: &p})
		if err != nil {
			t.Errorf("%s: %v", want, err)
			continue
		}
		if b, err := s.ReadFile(context.Background(), img, "variant", 100); string(b) != got {
			t.Errorf("for %s it chose %q, %v", want, b, err)
		}
	}
	if s.Received() == 0 {
		t.Error("nobody has counted what came")
	}
}

func TestLayerForms(t *testing.T) {
	f, s := newFake(t), openStore(t, nil)
	plain := layerTar(t, file{name: "plain", body: "p"})
	zs := layerTar(t, file{name: "zstd", body: "z"})
	enc, _ := zstd.NewWriter(nil)
	packed := enc.EncodeAll(zs, nil)
	same := layer(t, file{name: "same", body: "s"})
	img := build(t, machine(), same, same)
	img, err := mutate.Append(img,
		mutate.Addendum{Layer: static.NewLayer(plain, types.OCIUncompressedLayer)},
		mutate.Addendum{Layer: static.NewLayer(packed, types.OCILayerZStd)})
	if err != nil {
		t.Fatal(err)
	}
	cf, _ := img.ConfigFile()
	cf = cf.DeepCopy()
	cf.RootFS.DiffIDs[3] = v1.Hash{Algorithm: "sha256", Hex: digest.FromBytes(zs).Encoded()} // static layers know no compression
	if img, err = mutate.ConfigFile(img, cf); err != nil {
		t.Fatal(err)
	}
	got, err := s.Pull(context.Background(), f.push(t, "forms:1", img), PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for p, want := range map[string]string{"plain": "p", "zstd": "z", "same": "s"} {
		if b, err := s.ReadFile(context.Background(), got, p, 100); err != nil || string(b) != want {
			t.Errorf("%s: %q, %v", p, b, err)
		}
	}
	none, err := s.Pull(context.Background(), f.push(t, "none:1", build(t, machine())), PullOptions{})
	if err != nil || len(none.Layers) != 0 {
		t.Errorf("an image without layers: %v", err)
	}
}

func TestBusybox(t *testing.T) {
	b, err := os.ReadFile("/usr/bin/busybox")
	if err != nil {
		t.Skip("busybox-static is not installed")
	}
	f, s := newFake(t), openStore(t, nil)
	img := build(t, machine(), layer(t, file{name: "bin/busybox", body: string(b)}, file{name: "bin/sh", typ: tar.TypeLink, link: "bin/busybox"}))
	got, err := s.Pull(context.Background(), f.push(t, "busybox:latest", img), PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	sh, err := s.ReadFile(context.Background(), got, "/bin/sh", 10<<20)
	if err != nil || !bytes.Equal(sh, b) {
		t.Errorf("%d bytes, %v", len(sh), err)
	}
}
