// Package archive reads the tar archives that images travel in (an OCI image layout, or the output of
// "docker save") into a directory, without trusting them: no name in the archive becomes a name on the
// disk, sizes and numbers are bounded, and a file's digest is what its bytes have, not what it is called.
package archive

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/11f9778f/berth/internal/image/decompress"
	"github.com/11f9778f/berth/internal/image/kind"
)

// ErrArchive is an archive that can't be read or is over the limits.
var ErrArchive = errors.New("bad archive")

const (
	maxFiles = 100_000
	// MaxDocument bounds what is read into memory: indexes, manifests, configurations.
	MaxDocument = 4 << 20
)

// File is one regular file of an archive, spooled to the disk.
type File struct {
	Path   string // where it is now
	Size   int64
	Digest digest.Digest // of its bytes
}

// Archive is an archive's files by their clean names.
type Archive struct {
	files    map[string]*File
	links    map[string]string // names that mean other names
	byDigest map[digest.Digest]*File
}

// Read spools the archive in r, compressed or not, into the existing directory dir. limit bounds the
// sum of what it writes. The caller removes dir, also after an error.
func Read(ctx context.Context, r io.Reader, dir string, limit int64) (*Archive, error) {
	z, err := decompress.Reader(r)
	if err != nil {
		return nil, kind.Errorf(ErrArchive, "%w", err)
	}
	defer z.Close()
	a := &Archive{files: map[string]*File{}, links: map[string]string{}, byDigest: map[digest.Digest]*File{}}
	tr := tar.NewReader(z)
	for n := 0; ; n++ {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		hdr, err := tr.Next()
		if err == io.EOF {
			return a, nil
		}
		if err != nil {
			return nil, kind.Errorf(ErrArchive, "it is not a whole tar archive: %w", err)
		}
		if n >= maxFiles {
			return nil, kind.Errorf(ErrArchive, "it has more than %d files", maxFiles)
		}
		name := clean(hdr.Name)
		switch hdr.Typeflag {
		case tar.TypeSymlink:
			a.links[name] = clean(path.Join(path.Dir(name), hdr.Linkname))
		case tar.TypeLink:
			a.links[name] = clean(hdr.Linkname)
		case tar.TypeReg:
			if hdr.Size > limit {
				return nil, kind.Errorf(ErrArchive, "it is larger than allowed")
			}
			limit -= hdr.Size
			if err := a.spool(ctx, tr, name, filepath.Join(dir, strconv.Itoa(n))); err != nil {
				return nil, err
			}
		}
	}
}

// clean makes a name relative to the archive's root.
func clean(name string) string { return strings.TrimPrefix(path.Clean("/"+name), "/") }

func (a *Archive) spool(ctx context.Context, r io.Reader, name, to string) error {
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.CopyBuffer(struct{ io.Writer }{io.MultiWriter(f, h)}, &ctxReader{ctx, r}, make([]byte, 256<<10))
	var pe *os.PathError
	switch {
	case errors.As(err, &pe): // the disk
		return err
	case err != nil && ctx.Err() == nil:
		return kind.Errorf(ErrArchive, "the file %q in it is cut off: %w", name, err)
	case err != nil:
		return err
	}
	file := &File{Path: to, Size: n, Digest: digest.NewDigest(digest.SHA256, h)}
	a.files[name], a.byDigest[file.Digest] = file, file
	return nil
}

type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

// Read implements io.Reader.
func (c *ctxReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// Lookup returns the file called name, through the archive's own links.
func (a *Archive) Lookup(name string) (*File, bool) {
	name = clean(name)
	for range 8 {
		if f, ok := a.files[name]; ok {
			return f, true
		}
		to, ok := a.links[name]
		if !ok {
			return nil, false
		}
		name = to
	}
	return nil, false
}

// ByDigest returns a file whose bytes have the digest.
func (a *Archive) ByDigest(d digest.Digest) (*File, bool) {
	f, ok := a.byDigest[d]
	return f, ok
}

// Bytes reads a document.
func (f *File) Bytes() ([]byte, error) {
	if f.Size > MaxDocument {
		return nil, kind.Errorf(ErrArchive, "a document in it has %d bytes, at most %d are expected", f.Size, MaxDocument)
	}
	return os.ReadFile(f.Path)
}

// JSON reads a document into v.
func (f *File) JSON(v any) error {
	b, err := f.Bytes()
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return kind.Errorf(ErrArchive, "a document in it is not valid JSON: %w", err)
	}
	return nil
}
