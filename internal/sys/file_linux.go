package sys

import (
	"io"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// File is a file open for writing: an os.File without the poller's cost, for those who write many small
// ones. One goroutine uses it; the owner calls Close.
type File struct{ fd int }

// Write writes all of p.
func (f *File) Write(p []byte) (int, error) {
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
func (f *File) Close() error { return unix.Close(f.fd) }

// Chown changes the owner. The kernel clears the set-user-ID bit and file capabilities: set them after.
func (f *File) Chown(uid, gid int) error {
	return retry(func() error { return unix.Fchown(f.fd, uid, gid) })
}

// Chmod changes the mode; the bits are the kernel's, 07777.
func (f *File) Chmod(mode uint32) error {
	return retry(func() error { return unix.Fchmod(f.fd, mode) })
}

// Setxattr sets an extended attribute.
func (f *File) Setxattr(name string, value []byte) error { return fsetxattr(f.fd, name, value) }

// Utimes sets access and modification time.
func (f *File) Utimes(atime, mtime time.Time) error { return futimes(f.fd, atime, mtime) }

// Truncate sets the size; what grows is a hole.
func (f *File) Truncate(size int64) error {
	return retry(func() error { return unix.Ftruncate(f.fd, size) })
}

// utimensat with a null path changes the open file itself; the wrapper of x/sys cannot express it.
func utimensat(fd int, ts *[2]unix.Timespec) error {
	_, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), 0, uintptr(unsafe.Pointer(ts)), 0, 0, 0)
	runtime.KeepAlive(ts)
	if errno != 0 {
		return errno
	}
	return nil
}
