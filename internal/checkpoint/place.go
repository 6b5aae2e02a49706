package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/11f9778f/berth/internal/sys"
)

// CheckLocation refuses a place where no archive can be put, before anything is done for one.
func CheckLocation(location string) error {
	if !filepath.IsAbs(location) {
		return fmt.Errorf("location %q is no absolute path", location)
	}
	if st, err := os.Stat(filepath.Dir(location)); err != nil {
		return fmt.Errorf("location %q: %w", location, err)
	} else if !st.IsDir() {
		return fmt.Errorf("location %q: its parent is no folder", location)
	}
	st, err := os.Lstat(location)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("location %q: %w", location, err)
	case !st.Mode().IsRegular():
		return fmt.Errorf("location %q is there, and is no file that could be replaced", location)
	}
	return nil
}

// Place makes the file at location from what write writes, whole or not at all: until it is complete and on disk, it
// has no name, so that a crash leaves nothing of it. Its mode is 0600.
func Place(ctx context.Context, location string, write func(io.Writer) error) (err error) {
	f, err := sys.OpenUnnamed(filepath.Dir(location), 0o600)
	if err != nil {
		return fmt.Errorf("make archive %s: %w", location, err)
	}
	defer f.Close()
	if err := write(f); err != nil {
		return fmt.Errorf("write archive %s: %w", location, err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("write archive %s: %w", location, err)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := sys.NameFile(f, location); err != nil {
		return fmt.Errorf("name archive %s: %w", location, err)
	}
	return syncFolder(filepath.Dir(location))
}

func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
