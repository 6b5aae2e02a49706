package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

const (
	pullLayers    = 8
	pullLayerSize = 76 << 20 // of tar
)

// pullRegistry serves one image from files.
type pullRegistry struct {
	dir      string
	tool     string // that the layers are packed with: gzip or zstd
	listener net.Listener
	server   *http.Server
	layers   []ispec.Descriptor
	manifest []byte

	packed, unpacked int64
}

func newPullRegistry(dir, tool string) (*pullRegistry, error) {
	r := &pullRegistry{dir: dir, tool: tool, layers: make([]ispec.Descriptor, pullLayers)}
	diffIDs := make([]digest.Digest, pullLayers)
	var g errgroup.Group
	g.SetLimit(runtime.NumCPU())
	for n := range pullLayers {
		g.Go(func() (err error) {
			r.layers[n], diffIDs[n], err = r.writeLayer(n)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	for _, l := range r.layers {
		r.packed += l.Size
	}
	r.unpacked = pullLayers * pullLayerSize
	config, err := json.Marshal(ispec.Image{
		Platform: ispec.Platform{OS: "linux", Architecture: runtime.GOARCH}, RootFS: ispec.RootFS{Type: "layers", DiffIDs: diffIDs},
	})
	if err != nil {
		return nil, err
	}
	desc := ispec.Descriptor{MediaType: ispec.MediaTypeImageConfig, Digest: digest.FromBytes(config), Size: int64(len(config))}
	if err := os.WriteFile(r.path(desc.Digest), config, 0o600); err != nil {
		return nil, err
	}
	if r.manifest, err = json.Marshal(ispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ispec.MediaTypeImageManifest, Config: desc, Layers: r.layers,
	}); err != nil {
		return nil, err
	}
	if r.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return nil, err
	}
	r.server = &http.Server{Handler: r, ReadHeaderTimeout: time.Minute}
	go r.server.Serve(r.listener)
	return r, nil
}

func (r *pullRegistry) close() { r.server.Close() }

func (r *pullRegistry) name() string { return r.listener.Addr().String() + "/bench:1" }

func (r *pullRegistry) path(d digest.Digest) string { return filepath.Join(r.dir, d.Encoded()) }

// urls are those of the layers.
func (r *pullRegistry) urls() []string {
	var urls []string
	for _, l := range r.layers {
		urls = append(urls, fmt.Sprintf("http://%s/v2/bench/blobs/%s", r.listener.Addr(), l.Digest))
	}
	return urls
}

// ServeHTTP implements http.Handler.
func (r *pullRegistry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	switch kind, id := filepath.Split(req.URL.Path); kind {
	case "/v2/":
	case "/v2/bench/manifests/":
		w.Header().Set("Content-Type", ispec.MediaTypeImageManifest)
		w.Header().Set("Docker-Content-Digest", digest.FromBytes(r.manifest).String())
		http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(r.manifest))
	case "/v2/bench/blobs/":
		w.Header().Set("Content-Type", "application/octet-stream")
		http.ServeFile(w, req, filepath.Join(r.dir, filepath.Base(strings.TrimPrefix(id, "sha256:"))))
	default:
		http.NotFound(w, req)
	}
}

// packer packs what is written to it into w.
func (r *pullRegistry) packer(w io.Writer) (io.WriteCloser, error) {
	if r.tool == "zstd" {
		return zstd.NewWriter(w)
	}
	return gzip.NewWriter(w), nil
}

// writeLayer makes one layer of files from 1 to 200 KiB whose words compress to about a third.
func (r *pullRegistry) writeLayer(n int) (desc ispec.Descriptor, diffID digest.Digest, err error) {
	f, err := os.CreateTemp(r.dir, "layer-")
	if err != nil {
		return desc, "", err
	}
	defer f.Close()
	packed, unpacked := sha256.New(), sha256.New()
	z, err := r.packer(io.MultiWriter(f, packed))
	if err != nil {
		return desc, "", err
	}
	tw := tar.NewWriter(io.MultiWriter(z, unpacked))
	rnd := rand.New(rand.NewPCG(uint64(n), 1))
	words := make([]string, 4096)
	for i := range words {
		b := make([]byte, 3+rnd.IntN(12))
		for j := range b {
			b[j] = byte('a' + rnd.IntN(26))
		}
		words[i] = string(b)
	}
	var body bytes.Buffer
	for left, i := pullLayerSize, 0; left > 0; i++ {
		body.Reset()
		for size := 1<<10 + rnd.IntN(200<<10); body.Len() < size; {
			body.WriteString(words[rnd.IntN(len(words))])
		}
		left -= body.Len() + 1024
		if err := tw.WriteHeader(&tar.Header{Name: fmt.Sprintf("layer%d/dir%d/file%d", n, i/20, i), Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(body.Len())}); err != nil {
			return desc, "", err
		}
		if _, err := tw.Write(body.Bytes()); err != nil {
			return desc, "", err
		}
	}
	if err := tw.Close(); err != nil {
		return desc, "", err
	}
	if err := z.Close(); err != nil {
		return desc, "", err
	}
	fi, err := f.Stat()
	if err != nil {
		return desc, "", err
	}
	d := digest.NewDigest(digest.SHA256, packed)
	desc = ispec.Descriptor{MediaType: ispec.MediaTypeImageLayer + "+" + r.tool, Digest: d, Size: fi.Size()}
	return desc, digest.NewDigest(digest.SHA256, unpacked), os.Rename(f.Name(), r.path(d))
}
