package engine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// inRoot is how every path that an image or a container can influence is opened: the root is a wall,
// symbolic links stay inside, and no magic link of procfs leads out.
var inRoot = unix.OpenHow{
	Flags:   openPath,
	Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
}

// openInRoot opens path below root.
func openInRoot(root *os.File, path string) (int, error) {
	how := inRoot
	return retryAgain(func() (int, error) { return unix.Openat2(int(root.Fd()), relative(path), &how) })
}

// retryAgain repeats an openat2 that lost a race against a rename (EAGAIN), within reason.
func retryAgain(f func() (int, error)) (fd int, err error) {
	for range 128 {
		if fd, err = f(); !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
	return fd, err
}

// relative makes a container's path one that openat2 accepts: never empty.
func relative(path string) string {
	if p := strings.TrimLeft(filepath.Clean(path), "/"); p != "" {
		return p
	}
	return "."
}

// ensureDestination makes sure that path exists below root, as a directory or as an (empty) file: what
// is missing is created, root-owned, 0755 and 0644.
func ensureDestination(root *os.File, path string, dir bool) error {
	fd, err := openInRoot(root, path)
	if err == nil {
		unix.Close(fd)
		return nil
	}
	if !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("mount destination %s: %w", path, err)
	}
	parts := strings.Split(relative(path), "/")
	for n := range parts {
		last := n == len(parts)-1
		if err := makeBelow(root, strings.Join(parts[:n], "/"), parts[n], dir || !last); err != nil {
			return fmt.Errorf("mount destination %s: create %s: %w", path, strings.Join(parts[:n+1], "/"), err)
		}
	}
	return nil
}

// makeBelow creates base in the directory parent, unless it is there.
func makeBelow(root *os.File, parent, base string, dir bool) error {
	at, err := openInRoot(root, parent)
	if err != nil {
		return err
	}
	defer unix.Close(at)
	if dir {
		err = unix.Mkdirat(at, base, 0o755)
	} else {
		err = unix.Mknodat(at, base, unix.S_IFREG|0o644, 0)
	}
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}
