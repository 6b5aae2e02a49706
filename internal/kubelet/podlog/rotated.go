package podlog

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// stamp ends the name of a rotated log: "0.log.20261121-113800" is a kubelet's, "0.log.20261121-113800.123456789" a shim's
// of Berth's. A kubelet compresses the older ones, and calls them otherwise.
var stamp = regexp.MustCompile(`^[0-9]{8}-[0-9]{6}(\.[0-9]+)?$`)

// successor opens the file that took the place of the one that mine is of: a rotated one, or the log at path. If mine has been
// removed since, it is the oldest that is left, for they are removed from the oldest on. It is nil while there is none.
func successor(ctx context.Context, path string, mine fs.FileInfo) (*os.File, error) {
	for ctx.Err() == nil {
		name, err := following(path, mine)
		if err != nil {
			return nil, err
		}
		f, err := os.Open(name)
		if errors.Is(err, fs.ErrNotExist) {
			if name == path {
				return nil, nil
			}
			continue // removed just now
		}
		if err != nil {
			return nil, err
		}
		// Between the look and the opening the log may have been rotated again: then path is another file's.
		again, err := following(path, mine)
		if err == nil && same(f, again) {
			return f, nil
		}
		f.Close()
		if err != nil {
			return nil, err
		}
	}
	return nil, ctx.Err()
}

func same(f *os.File, path string) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Stat(path)
	return err == nil && os.SameFile(a, b)
}

// following is the name of the file that was begun after mine, as things are now.
func following(path string, mine fs.FileInfo) (string, error) {
	entries, err := os.ReadDir(filepath.Dir(path)) // sorted by name, and so by age
	if err != nil {
		return "", err
	}
	var names []string
	var files []fs.FileInfo
	for _, e := range entries {
		name := filepath.Join(filepath.Dir(path), e.Name())
		if s, ok := strings.CutPrefix(e.Name(), filepath.Base(path)+"."); !ok || !stamp.MatchString(s) {
			continue
		}
		if st, err := os.Stat(name); err == nil { // a link that leads nowhere is none
			names, files = append(names, name), append(files, st)
		}
	}
	names = append(names, path)
	at := slices.IndexFunc(files, func(f fs.FileInfo) bool { return os.SameFile(f, mine) }) + 1
	if at == 0 {
		at = slices.IndexFunc(files, func(f fs.FileInfo) bool { return !f.ModTime().Before(mine.ModTime()) })
	}
	if at < 0 {
		return path, nil
	}
	return names[at], nil
}
