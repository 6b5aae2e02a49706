package unpack

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	"github.com/11f9778f/berth/internal/sys"
)

// Merge unpacks a layer over the layers below it, which are in dir already: for kernels that can't lay them
// over each other. open begins the tar; it is read twice, first for what the layer deletes below, as it may
// name that after what it brings itself. After an error dir is of no use.
func Merge(ctx context.Context, dir string, open func() (io.ReadCloser, error), limits Limits) error {
	a, err := newApplier(ctx, dir, limits)
	if err != nil {
		return err
	}
	defer a.close()
	a.merging = true
	for _, pass := range []func(io.Reader) error{a.erase, func(r io.Reader) error { _, err := a.apply(r); return err }} {
		r, err := open()
		if err != nil {
			return err
		}
		err = pass(r)
		r.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// erase removes what the whiteouts of the layer name.
func (a *applier) erase(r io.Reader) error {
	tr := tar.NewReader(&limitedReader{r: r, left: a.limits.Bytes})
	for n := int64(0); ; n++ {
		if err := a.ctx.Err(); err != nil {
			return err
		}
		hdr, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return tarError(err)
		}
		if n >= a.limits.Entries {
			return nil // apply says it
		}
		name, err := a.clean(hdr.Name)
		if err != nil || !strings.HasPrefix(path.Base(name), whiteoutPrefix) {
			continue // apply says it
		}
		if err := a.eraseOne(path.Dir(name), path.Base(name)); err != nil {
			return fmt.Errorf("entry %q: %w", shorten(hdr.Name), layerPathError(err))
		}
	}
}

func (a *applier) eraseOne(dirName, base string) error {
	dir, err := a.root.InRoot(dirName)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, sys.ErrNotDir) {
		return nil
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	victims := []string{strings.TrimPrefix(base, whiteoutPrefix)}
	switch {
	case base == whiteoutOpaque:
		if victims, err = dir.Names(0); err != nil {
			return err
		}
	case strings.HasPrefix(base, whiteoutMeta):
		return nil
	case victims[0] == "" || victims[0] == "." || victims[0] == "..":
		return fmt.Errorf("%w: it deletes %q", ErrLayer, victims[0])
	}
	for _, v := range victims {
		if err := dir.RemoveAll(a.ctx, v); err != nil {
			return err
		}
	}
	return nil
}
