package images

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// file is an entry of a layer.
type file struct {
	kind byte // as in package tar
	mode int64
	data []byte
	link string
}

// tree is a layer in the making, by path without a leading slash. The same tree gives the same bytes.
type tree map[string]file

func (t tree) dir(mode int64, names ...string) {
	for _, n := range names {
		t[n] = file{kind: tar.TypeDir, mode: mode}
	}
}

func (t tree) add(name string, mode int64, data string) {
	t[name] = file{kind: tar.TypeReg, mode: mode, data: []byte(data)}
}

func (t tree) hardLink(name, to string) { t[name] = file{kind: tar.TypeLink, mode: 0o755, link: to} }

// program adds a file of the machine.
func (t tree) program(name, from string, mode int64) error {
	b, err := os.ReadFile(from)
	t[name] = file{kind: tar.TypeReg, mode: mode, data: b}
	return err
}

// layer packs the tree; times and owners are all zero.
func (t tree) layer() (v1.Layer, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	// Hard links come last: their targets must be there before them.
	names := slices.SortedFunc(maps.Keys(t), func(a, b string) int {
		if la, lb := t[a].kind == tar.TypeLink, t[b].kind == tar.TypeLink; la != lb {
			if la {
				return 1
			}
			return -1
		}
		return strings.Compare(a, b)
	})
	for _, name := range names {
		f := t[name]
		h := &tar.Header{Name: name, Typeflag: f.kind, Mode: f.mode, Linkname: f.link, Size: int64(len(f.data)), ModTime: time.Unix(0, 0), Format: tar.FormatGNU}
		if f.kind == tar.TypeDir {
			h.Name += "/"
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, fmt.Errorf("pack %s: %w", name, err)
		}
		if _, err := w.Write(f.data); err != nil {
			return nil, fmt.Errorf("pack %s: %w", name, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(buf.Bytes())), nil })
}

// readDeb unpacks a Debian package into memory, by path without a leading slash.
func readDeb(deb string) (tree, error) {
	cmd := exec.Command("dpkg-deb", "--fsys-tarfile", deb)
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("unpack %s: %w: %s", deb, err, errs.String())
	}
	t := tree{}
	for r := tar.NewReader(bytes.NewReader(out)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return t, nil
		}
		if err != nil {
			return nil, fmt.Errorf("unpack %s: %w", deb, err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			return nil, fmt.Errorf("unpack %s: %w", deb, err)
		}
		t[strings.Trim(path.Clean(h.Name), "/")] = file{kind: h.Typeflag, mode: h.Mode & 0o7777, data: b, link: h.Linkname}
	}
}

// find returns a program or library of any of the packages by its base name, its links followed within
// them.
func find(pkgs []tree, base string) (file, error) {
	for _, t := range pkgs {
		for _, name := range slices.Sorted(maps.Keys(t)) {
			f, dir := t[name], path.Dir(name)
			if path.Base(name) != base || (!strings.Contains(dir, "lib") && !strings.HasSuffix(dir, "bin")) || strings.Contains(dir, "share") {
				continue
			}
			if f.kind == tar.TypeSymlink {
				return find(pkgs, path.Base(f.link))
			}
			if f.kind == tar.TypeReg {
				return f, nil
			}
		}
	}
	return file{}, fmt.Errorf("no package has a file %s", base)
}

// libraries adds the shared libraries that an ELF program wants, from the packages, all into /lib64 and
// the multiarch directory, where its loader looks.
func (t tree) libraries(pkgs []tree, multiarch, loader string, names ...string) error {
	t.dir(0o755, "lib", "lib/"+multiarch, "lib64")
	for _, n := range names {
		f, err := find(pkgs, n)
		if err != nil {
			return err
		}
		f.mode = 0o755
		t["lib/"+multiarch+"/"+n] = f
	}
	f, err := find(pkgs, path.Base(loader))
	if err != nil {
		return err
	}
	f.mode = 0o755
	t[strings.TrimPrefix(loader, "/")] = f
	return nil
}
