package sys

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// OpenUnnamed makes a file in a directory, open for writing, that has no name yet and goes with its last descriptor
// (O_TMPFILE, open(2)). Few filesystems lack that: ErrNotSup.
func OpenUnnamed(dir string, mode uint32) (*os.File, error) {
	fd := -1
	err := uninterrupted(func() (err error) {
		fd, err = unix.Open(dir, unix.O_WRONLY|unix.O_TMPFILE|unix.O_CLOEXEC, mode)
		return
	})
	if err != nil {
		return nil, &os.PathError{Op: "open unnamed file in", Path: dir, Err: err}
	}
	return os.NewFile(uintptr(fd), dir), nil
}

// NameFile gives a file of OpenUnnamed its name, in place of a file that has it.
func NameFile(f *os.File, path string) error {
	from := descriptorPath(f)
	link := func(to string) error {
		return uninterrupted(func() error { return unix.Linkat(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.AT_SYMLINK_FOLLOW) })
	}
	err := link(path)
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	aside := path + ".new"
	if err := link(aside); err != nil {
		return err
	}
	if err := os.Rename(aside, path); err != nil {
		return errors.Join(err, os.Remove(aside))
	}
	return nil
}
