package sys

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// KernDir is an open directory below which names are resolved. It is made for kernel file systems
// (cgroup, proc, sysfs), where each file takes or gives a short text in one system call and a path
// look-up from the root is a good part of the cost. It follows symbolic links, so it is not for trees
// that a container can change.
//
// Errors are *fs.PathError with the whole path. Close ends the use of a KernDir; other methods may be
// called from several goroutines.
type KernDir struct {
	fd   int
	path string
}

// OpenKernDir opens a directory as a KernDir.
func OpenKernDir(path string) (*KernDir, error) {
	fd, err := kernOpenat(unix.AT_FDCWD, path, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return &KernDir{fd: fd, path: path}, nil
}

// Close closes the directory.
func (d *KernDir) Close() error { return unix.Close(d.fd) }

// Path is the directory's path joined with name.
func (d *KernDir) Path(name string) string {
	if name == "" {
		return d.path
	}
	return strings.TrimSuffix(d.path, "/") + "/" + name
}

func (d *KernDir) fail(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: d.Path(name), Err: err}
}

// Mkdir makes one directory; its parent exists.
func (d *KernDir) Mkdir(name string, mode uint32) error {
	return d.fail("mkdir", name, kernRetry(func() error { return unix.Mkdirat(d.fd, name, mode) }))
}

// Rmdir removes one directory.
func (d *KernDir) Rmdir(name string) error {
	return d.fail("rmdir", name, kernRetry(func() error { return unix.Unlinkat(d.fd, name, unix.AT_REMOVEDIR) }))
}

// Exists tells whether there is something of this name.
func (d *KernDir) Exists(name string) bool {
	return kernRetry(func() error { return unix.Faccessat(d.fd, name, unix.F_OK, 0) }) == nil
}

// Write opens an existing file and writes each value with one write(2). It tells how many values
// were taken.
func (d *KernDir) Write(name string, values ...string) (int, error) {
	fd, err := kernOpenat(d.fd, name, unix.O_WRONLY)
	if err != nil {
		return 0, d.fail("open", name, err)
	}
	defer unix.Close(fd)
	for i, value := range values {
		// A signal may interrupt a write while the kernel reclaims memory for it.
		err := kernRetry(func() error { _, err := unix.Write(fd, []byte(value)); return err })
		if err != nil {
			return i, d.fail("write", name, err)
		}
	}
	return len(values), nil
}

// Read returns a whole file. It uses buf's space if that suffices.
func (d *KernDir) Read(name string, buf []byte) ([]byte, error) {
	fd, err := kernOpenat(d.fd, name, unix.O_RDONLY)
	if err != nil {
		return nil, d.fail("open", name, err)
	}
	defer unix.Close(fd)
	buf = buf[:0]
	for {
		buf = slices.Grow(buf, 512)
		var n int
		err := kernRetry(func() (err error) { n, err = unix.Read(fd, buf[len(buf):cap(buf)]); return err })
		if err != nil {
			return nil, d.fail("read", name, err)
		}
		if n == 0 {
			return buf, nil
		}
		buf = buf[:len(buf)+n]
	}
}

// Open opens a file or directory as an *os.File; the caller closes it.
func (d *KernDir) Open(name string, flags int) (*os.File, error) {
	fd, err := kernOpenat(d.fd, name, flags)
	if err != nil {
		return nil, d.fail("open", name, err)
	}
	return os.NewFile(uintptr(fd), d.Path(name)), nil
}

// KernFile is a short text of a kernel file system that is kept open, to be read again and again. The zero value is none.
// Two methods of one must not be called at once.
type KernFile struct {
	fd int32 // the descriptor and one, so that zero is none
}

// Keep opens a file to be read again and again.
func (d *KernDir) Keep(name string) (KernFile, error) {
	fd, err := kernOpenat(d.fd, name, unix.O_RDONLY)
	if err != nil {
		return KernFile{}, d.fail("open", name, err)
	}
	return KernFile{fd: int32(fd) + 1}, nil
}

// IsOpen tells whether it is a file.
func (f KernFile) IsOpen() bool { return f.fd != 0 }

// Read makes the kernel write the text anew, and returns how much of it has fitted into buf. Its error is a bare syscall.Errno.
func (f KernFile) Read(buf []byte) (n int, err error) {
	err = kernRetry(func() (err error) { n, err = unix.Pread(int(f.fd)-1, buf, 0); return err })
	return max(n, 0), err
}

// Close closes the file, if it is one.
func (f *KernFile) Close() {
	if f.IsOpen() {
		unix.Close(int(f.fd) - 1)
	}
	f.fd = 0
}

// Subdirs lists the names of the directories in the directory called name, sorted.
func (d *KernDir) Subdirs(name string) ([]string, error) {
	if name == "" {
		name = "."
	}
	var st unix.Stat_t
	err := kernRetry(func() error { return unix.Fstatat(d.fd, name, &st, 0) })
	if err != nil {
		return nil, d.fail("stat", name, err)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR && st.Nlink == 2 { // itself and its name: each directory in it is a link more
		return nil, nil
	}
	f, err := d.Open(name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	entries, err := f.ReadDir(-1)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	return names, nil
}

func kernOpenat(dir int, name string, flags int) (fd int, err error) {
	err = kernRetry(func() error { fd, err = unix.Openat(dir, name, flags|unix.O_CLOEXEC, 0); return err })
	return fd, err
}

func kernRetry(f func() error) error {
	for {
		if err := f(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
