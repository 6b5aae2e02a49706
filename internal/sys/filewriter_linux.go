package sys

import (
	"io"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// FileWriter is a file open for writing: an os.File without the poller's cost, for those who write many
// small ones. One goroutine uses it; the owner calls Close.
type FileWriter struct{ fd int }

// Create makes the new file called name and opens it for writing.
func (d *Folder) Create(name string) (*FileWriter, error) {
	const flags = unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd := -1
	err := uninterrupted(func() (err error) { fd, err = unix.Openat(d.fd, name, flags, 0o600); return })
	if err != nil {
		return nil, err
	}
	return &FileWriter{fd}, nil
}

// Write writes all of p.
func (f *FileWriter) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		n, err := unix.Write(f.fd, p[done:])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return done, err
		}
		if n == 0 {
			return done, io.ErrShortWrite
		}
		done += n
	}
	return done, nil
}

// Close closes the file.
func (f *FileWriter) Close() error { return unix.Close(f.fd) }

// Chown changes the owner. The kernel clears the set-user-ID bit and file capabilities: set them after.
func (f *FileWriter) Chown(uid, gid int) error {
	return uninterrupted(func() error { return unix.Fchown(f.fd, uid, gid) })
}

// Chmod changes the mode; the bits are the kernel's, 07777.
func (f *FileWriter) Chmod(mode uint32) error {
	return uninterrupted(func() error { return unix.Fchmod(f.fd, mode) })
}

// Setxattr sets an extended attribute.
func (f *FileWriter) Setxattr(name string, value []byte) error { return fsetxattr(f.fd, name, value) }

// Utimes sets access and modification time.
func (f *FileWriter) Utimes(atime, mtime time.Time) error { return futimes(f.fd, atime, mtime) }

func timespec(t time.Time) unix.Timespec {
	return unix.Timespec{Sec: t.Unix(), Nsec: int64(t.Nanosecond())}
}

// futimes is utimensat(2) with a null path, which changes the open file itself; the wrapper of x/sys
// cannot express it.
func futimes(fd int, atime, mtime time.Time) error {
	ts := [2]unix.Timespec{timespec(atime), timespec(mtime)}
	return uninterrupted(func() error {
		_, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), 0, uintptr(unsafe.Pointer(&ts)), 0, 0, 0)
		runtime.KeepAlive(&ts)
		if errno != 0 {
			return errno
		}
		return nil
	})
}
