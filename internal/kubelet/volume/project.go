package volume

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strconv"
	"strings"

	"github.com/11f9778f/berth/internal/failpoint"
)

// file is one file of a configMap or secret volume.
type file struct {
	data []byte
	mode fs.FileMode
}

// dataLink is the link whose target is the present content. Replacing it replaces all files at once.
const dataLink = "..data"

// project makes dir show files, by their path. Content that is already there and right stays; other
// content is replaced in one step, so that a reader sees all of the old or all of the new.
func project(dir string, files map[string]file, group *int64) error {
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	old, _ := root.Readlink(dataLink)
	if old != "" && same(root, old, files) {
		return links(root, files)
	}
	if err := failpoint.Here("kubelet/project/before"); err != nil {
		return err
	}
	generation := nextGeneration(root, old)
	if err := root.RemoveAll(generation); err != nil {
		return err
	}
	if err := fill(root, generation, files, group); err != nil {
		return err
	}
	if err := swap(root, generation); err != nil {
		return err
	}
	if err := failpoint.Here("kubelet/project/after"); err != nil {
		return err
	}
	if err := links(root, files); err != nil {
		return err
	}
	if old != "" && old != generation {
		return root.RemoveAll(old)
	}
	return nil
}

// nextGeneration names a new content directory.
func nextGeneration(root *os.Root, old string) string {
	n, _ := strconv.Atoi(strings.TrimPrefix(old, ".."))
	return ".." + strconv.Itoa(n+1)
}

func fill(root *os.Root, generation string, files map[string]file, group *int64) error {
	if err := root.Mkdir(generation, 0o755); err != nil {
		return err
	}
	if err := root.Chmod(generation, 0o755); err != nil {
		return err
	}
	for name, f := range files {
		to := path.Join(generation, name)
		if err := root.MkdirAll(path.Dir(to), 0o755); err != nil {
			return err
		}
		if err := root.WriteFile(to, f.data, 0o600); err != nil {
			return err
		}
		mode := f.mode
		if group != nil {
			if err := root.Lchown(to, -1, int(*group)); err != nil {
				return err
			}
			mode |= 0o440 // the group's members shall read it
		}
		if err := root.Chmod(to, mode); err != nil {
			return err
		}
	}
	return nil
}

// swap makes dataLink point at generation, atomically.
func swap(root *os.Root, generation string) error {
	const next = "..data_next"
	if err := root.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := root.Symlink(generation, next); err != nil {
		return err
	}
	return root.Rename(next, dataLink)
}

// links makes a link for each top-level name and removes those that are no more.
func links(root *os.Root, files map[string]file) error {
	want := map[string]bool{}
	for name := range files {
		top, _, _ := strings.Cut(name, "/")
		want[top] = true
	}
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), "..") && !want[e.Name()] {
			if err := root.RemoveAll(e.Name()); err != nil {
				return err
			}
		}
	}
	names := make([]string, 0, len(want))
	for name := range want {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		target := path.Join(dataLink, name)
		if got, err := root.Readlink(name); err == nil && got == target {
			continue
		}
		if err := root.RemoveAll(name); err != nil {
			return err
		}
		if err := root.Symlink(target, name); err != nil {
			return fmt.Errorf("link %s: %w", name, err)
		}
	}
	return nil
}

// same tells whether a content directory holds exactly files.
func same(root *os.Root, generation string, files map[string]file) bool {
	n := 0
	err := fs.WalkDir(root.FS(), generation, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(generation, p)
		if err != nil {
			return err
		}
		data, err := root.ReadFile(p)
		if err != nil {
			return err
		}
		if f, there := files[rel]; !there || !bytes.Equal(f.data, data) {
			return fs.ErrInvalid
		}
		n++
		return nil
	})
	return err == nil && n == len(files)
}
