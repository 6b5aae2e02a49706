// Package images makes the images that critest asks for, from Debian's packages and a small program of
// our own (../toolbox), and puts them into a registry. The same inputs give the same digests.
//
// What each has to have is known from critest's specs: the comments say which.
package images

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// packages are Debian's that the images are made from. They are downloaded, never installed.
var packages = []string{"busybox-static", "busybox", "libc6", "nginx", "nginx-common", "libpcre2-8-0", "libssl3", "zlib1g", "libcrypt1"}

const pathEnv = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Image is one image under all its names, without the registry.
type Image struct {
	Names []string
	Image v1.Image
}

// Set is all that critest wants.
type Set struct {
	Images []Image
	// Digest is that of the image which one spec pulls by digest.
	Digest v1.Hash
}

// Make builds the images. Packages are kept in dir, and not downloaded twice. toolbox is the program of
// that name.
func Make(ctx context.Context, dir, toolbox string) (*Set, error) {
	debs, err := download(ctx, dir)
	if err != nil {
		return nil, err
	}
	m := &maker{toolbox: toolbox, debs: map[string]tree{}}
	for name, path := range debs {
		if m.debs[name], err = readDeb(path); err != nil {
			return nil, err
		}
	}
	for _, step := range []func() error{m.busybox, m.pause, m.noNewPrivs, m.nginx, m.httpd, m.users, m.plain} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return &m.set, nil
}

// Push puts the images into a registry that is spoken to without TLS.
func (s *Set) Push(ctx context.Context, registry string) error {
	for _, img := range s.Images {
		for _, n := range img.Names {
			ref, err := name.ParseReference(registry+"/"+n, name.Insecure)
			if err != nil {
				return err
			}
			if err := remote.Write(ref, img.Image, remote.WithContext(ctx)); err != nil {
				return fmt.Errorf("push %s: %w", n, err)
			}
		}
	}
	return nil
}

// download fetches the packages that are not in dir and returns their files by name.
func download(ctx context.Context, dir string) (map[string]string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, p := range packages {
		if out[p] = have(dir, p); out[p] != "" {
			continue
		}
		if err := apt(ctx, dir, "download", "-q", p); err != nil {
			if uerr := apt(ctx, dir, "update", "-q"); uerr != nil {
				return nil, uerr
			}
			if err := apt(ctx, dir, "download", "-q", p); err != nil {
				return nil, err
			}
		}
		if out[p] = have(dir, p); out[p] == "" {
			return nil, fmt.Errorf("apt-get download %s left no file in %s", p, dir)
		}
	}
	return out, nil
}

func have(dir, pkg string) string {
	found, _ := filepath.Glob(filepath.Join(dir, pkg+"_*.deb"))
	if len(found) == 0 {
		return ""
	}
	return found[len(found)-1]
}

func apt(ctx context.Context, dir string, args ...string) error {
	cmd := exec.CommandContext(ctx, "apt-get", args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("apt-get %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// maker collects.
type maker struct {
	toolbox string
	debs    map[string]tree
	set     Set
	base    v1.Layer // busybox
}

// multiarch and loader are where a dynamic program of this machine's kind finds its libraries.
func multiarch() (dir, loader string) {
	if runtime.GOARCH == "arm64" {
		return "aarch64-linux-gnu", "/lib/ld-linux-aarch64.so.1"
	}
	return "x86_64-linux-gnu", "/lib64/ld-linux-x86-64.so.2"
}

// image adds one image of the given layers.
func (m *maker) image(cfg v1.Config, layers []v1.Layer, names ...string) error {
	img, err := mutate.AppendLayers(empty.Image, layers...)
	if err != nil {
		return err
	}
	f, err := img.ConfigFile()
	if err != nil {
		return err
	}
	f = f.DeepCopy()
	f.OS, f.Architecture, f.Config = "linux", runtime.GOARCH, cfg
	if img, err = mutate.ConfigFile(img, f); err != nil {
		return err
	}
	m.set.Images = append(m.set.Images, Image{Names: names, Image: img})
	return nil
}

// onBusybox is an image of busybox and more on top of it.
func (m *maker) onBusybox(cfg v1.Config, more tree, names ...string) error {
	layers := []v1.Layer{m.base}
	if more != nil {
		l, err := more.layer()
		if err != nil {
			return err
		}
		layers = append(layers, l)
	}
	cfg.Env = append(cfg.Env, pathEnv)
	return m.image(cfg, layers, names...)
}
