package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/11f9778f/berth/internal/sys"
)

// fileCache keeps small files of images, as /etc/passwd, which every container start asks for. The
// store's mu guards it.
type fileCache struct {
	m     map[fileKey]cachedFile
	bytes int
}

type fileKey struct {
	image digest.Digest
	path  string
}

type cachedFile struct {
	data []byte
	err  error // fs.ErrNotExist, which is worth remembering too
}

const (
	fileCacheFiles = 1024
	fileCacheBytes = 8 << 20
)

func (c *fileCache) put(k fileKey, f cachedFile) {
	if len(c.m) >= fileCacheFiles || c.bytes+len(f.data) > fileCacheBytes {
		c.m, c.bytes = nil, 0
	}
	if c.m == nil {
		c.m = map[fileKey]cachedFile{}
	}
	c.m[k] = f
	c.bytes += len(f.data)
}

// ReadFile reads a regular file as a container of img sees it at its start: through all layers, symbolic
// links resolved inside the image. fs.ErrNotExist where there is none; a file of more than limit bytes is
// an error. Small files are kept in memory.
func (s *Store) ReadFile(ctx context.Context, img *Image, name string, limit int64) ([]byte, error) {
	if err := s.gate.enter(); err != nil {
		return nil, err
	}
	defer s.gate.calls.Done()
	key := fileKey{img.ID, path.Clean("/" + name)}
	s.mu.Lock()
	f, ok := s.files.m[key]
	s.mu.Unlock()
	if !ok {
		f.data, f.err = s.readFile(ctx, img, key.path, limit)
		if f.err != nil && !isNotExist(f.err) {
			return nil, fmt.Errorf("read %s of image %s: %w", key.path, img.ID, f.err)
		}
		if len(f.data) <= 256<<10 {
			s.mu.Lock()
			s.files.put(key, f)
			s.mu.Unlock()
		}
	}
	if f.err == nil && int64(len(f.data)) > limit {
		return nil, fmt.Errorf("read %s of image %s: it has %d bytes, more than %d", key.path, img.ID, len(f.data), limit)
	}
	if f.err != nil {
		return nil, fmt.Errorf("read %s of image %s: %w", key.path, img.ID, f.err)
	}
	return bytes.Clone(f.data), nil
}

func (s *Store) readFile(ctx context.Context, img *Image, name string, limit int64) ([]byte, error) {
	defer s.lease(img.digests()...)()
	var missing []Layer
	for _, l := range img.Layers {
		if _, layer := s.have(l); !layer {
			missing = append(missing, l)
		}
	}
	if err := s.ensureLayers(ctx, missing, nil, nil); err != nil {
		return nil, err
	}
	v, err := s.openView(img)
	if err != nil {
		return nil, err
	}
	defer v.close()
	return v.read(name, limit)
}

// view walks the merged layers of an image as overlayfs would merge them.
type view struct {
	// path are the merged directories from the root to where the walk is. Each is the stack of the
	// layers' directories that make it up, the topmost first.
	path [][]*sys.Folder
}

func (s *Store) openView(img *Image) (*view, error) {
	var root []*sys.Folder
	v := &view{}
	for _, l := range slices.Backward(img.Layers) {
		d, err := sys.OpenFolder(s.layerFS(l.DiffID))
		if err != nil {
			v.path = [][]*sys.Folder{root}
			v.close()
			return nil, err
		}
		root = append(root, d)
		if isOpaque(d) {
			break
		}
	}
	v.path = [][]*sys.Folder{root}
	return v, nil
}

func (v *view) close() {
	for len(v.path) > 0 {
		v.up()
	}
}

// up leaves the last directory.
func (v *view) up() {
	last := len(v.path) - 1
	for _, d := range v.path[last] {
		d.Close()
	}
	v.path = v.path[:last]
}

func isOpaque(d *sys.Folder) bool {
	value, err := d.Getxattr("trusted.overlay.opaque")
	return err == nil && string(value) == "y"
}

// maxLinks is the kernel's bound on the symbolic links in one path.
const maxLinks = 40

// read reads the regular file at an absolute path.
func (v *view) read(name string, limit int64) ([]byte, error) {
	todo := strings.Split(name, "/")
	links := 0
	for len(todo) > 0 {
		c := todo[0]
		todo = todo[1:]
		switch c {
		case "", ".":
			continue
		case "..":
			if len(v.path) > 1 {
				v.up()
			}
			continue
		}
		dirs, in, err := v.look(c)
		if err != nil {
			return nil, err
		}
		if dirs != nil {
			v.path = append(v.path, dirs)
			continue
		}
		target, err := in.Readlink(c)
		if err != nil { // no link
			if slices.ContainsFunc(todo, func(s string) bool { return s != "" }) {
				return nil, fs.ErrNotExist
			}
			return readRegular(in, c, limit)
		}
		if links++; links > maxLinks {
			return nil, fmt.Errorf("%w: too many symbolic links", fs.ErrNotExist)
		}
		if path.IsAbs(target) {
			for len(v.path) > 1 {
				v.up()
			}
		}
		todo = append(strings.Split(target, "/"), todo...)
	}
	return nil, errors.New("it is a directory")
}

// look looks a name up in the merged directory. It returns the stack of a directory, or the layer's
// directory in which something else is.
func (v *view) look(name string) (dirs []*sys.Folder, in *sys.Folder, err error) {
	for _, d := range v.path[len(v.path)-1] {
		st, err := d.Lstat(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return dirs, nil, err
		}
		if !st.Mode.IsDir() {
			if dirs == nil && !st.IsWhiteout() {
				return nil, d, nil
			}
			break // what is below is hidden
		}
		sub, err := d.Sub(name)
		if err != nil {
			return dirs, nil, err
		}
		dirs = append(dirs, sub)
		if isOpaque(sub) {
			break
		}
	}
	if dirs == nil {
		return nil, nil, fs.ErrNotExist
	}
	return dirs, nil, nil
}

func readRegular(d *sys.Folder, name string, limit int64) ([]byte, error) {
	f, err := d.OpenRegular(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("it has more than %d bytes", limit)
	}
	return b, err
}
