package engine

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// What is copied from the copy of a directory is what a path leads to, whatever lies there.
func TestSourcesOfOneDirectory(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	for name, text := range map[string]string{"a": "of a", "b": "hidden", "over": "of b"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("a", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "folder"), 0o700); err != nil {
		t.Fatal(err)
	}
	err := inPrivateMounts(func(*os.File) error {
		if err := unix.Mount(filepath.Join(dir, "over"), filepath.Join(dir, "b"), "", unix.MS_BIND, ""); err != nil {
			return err
		}
		s := sources{wanted: map[string]int{dir: 4}, dirs: map[string]*sourceDir{}}
		defer s.close()
		for name, want := range map[string]string{"a": "of a", "b": "of b", "link": "of a"} {
			tree, err := s.clone(filepath.Join(dir, name), true)
			if err != nil {
				return err
			}
			text, err := os.ReadFile(fmt.Sprintf("/proc/thread-self/fd/%d", tree.Fd()))
			tree.Close()
			if err != nil || string(text) != want {
				t.Errorf("%s: %q, %v; want %q", name, text, err, want)
			}
		}
		folder, err := s.clone(filepath.Join(dir, "folder"), true)
		if err != nil {
			return err
		}
		defer folder.Close()
		if is, err := isDir(folder); err != nil || !is {
			t.Errorf("folder: %v, %v", is, err)
		}
		if _, err := s.clone(filepath.Join(dir, "none"), true); !os.IsNotExist(err) {
			t.Errorf("a missing file: %v", err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
