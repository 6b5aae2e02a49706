package sys

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Splice moves at most n bytes from the pipe in to offset off of the regular file out, without waiting.
// The move is whole in the eyes of a SIGKILL: each byte is either still in the pipe or in the file. It
// returns 0 at the end of the pipe's data when no writer is left, and EAGAIN (std syscall's) when there is
// nothing yet.
func Splice(in uintptr, out *os.File, off int64, n int) (int, error) {
	conn, err := out.SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("splice into %s: %w", out.Name(), err)
	}
	var moved int64
	var serr error
	err = conn.Control(func(fd uintptr) {
		for {
			moved, serr = unix.Splice(int(in), nil, int(fd), &off, n, unix.SPLICE_F_NONBLOCK)
			if serr != unix.EINTR {
				return
			}
		}
	})
	return int(max(moved, 0)), errors.Join(err, serr)
}

// ReadFD reads from a non-blocking descriptor that somebody else owns; for use inside a RawConn's callback.
func ReadFD(fd uintptr, p []byte) (int, error) {
	for {
		n, err := unix.Read(int(fd), p)
		if err != unix.EINTR {
			return max(n, 0), err
		}
	}
}

// MakeFIFO makes a FIFO at path for the user and group. One that is there already is taken as it is; anything else
// there is an error.
func MakeFIFO(path string, mode fs.FileMode, uid, gid int) error {
	err := unix.Mkfifo(path, uint32(mode.Perm()))
	if err != nil && err != unix.EEXIST {
		return fmt.Errorf("make FIFO %s: %w", path, err)
	}
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return fmt.Errorf("make FIFO %s: %w", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFIFO {
		return fmt.Errorf("make FIFO %s: something that is no FIFO is there: %w", path, unix.EEXIST)
	}
	if int(st.Uid) == uid && int(st.Gid) == gid {
		return nil
	}
	if err := unix.Lchown(path, uid, gid); err != nil {
		return fmt.Errorf("make FIFO %s: %w", path, err)
	}
	return nil
}

// OpenFIFO opens the FIFO at path and never waits for the other side. flag is O_RDONLY, O_WRONLY or O_RDWR,
// with O_NONBLOCK for a file that goroutines wait on, without it for one that is given to a process
// (which is then O_RDWR, or the other side is held open already, lest the open blocks).
func OpenFIFO(path string, flag int) (*os.File, error) {
	// What is there is looked at before it is opened. The container's own descriptor must not have O_NOFOLLOW: CRIU opens
	// a standard output as it was, through a link in /proc.
	look, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open FIFO", Path: path, Err: err}
	}
	defer unix.Close(look)
	var st unix.Stat_t
	if err := unix.Fstat(look, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFIFO {
		return nil, &fs.PathError{Op: "open FIFO", Path: path, Err: errors.Join(err, errors.New("not a FIFO"))}
	}
	// The descriptor is made here and not by os.OpenFile, which would set O_NONBLOCK by itself: a container
	// must find its standard output blocking.
	fd, err := unix.Open("/proc/self/fd/"+strconv.Itoa(look), flag|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open FIFO", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// OpenFIFOReader opens the FIFO at path for a program that will read it, without waiting for a writer. Unlike a FIFO that
// was opened while somebody had it open for writing, it tells by HungUp that a writer has come and gone.
func OpenFIFOReader(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open FIFO", Path: path, Err: err}
	}
	var st unix.Stat_t
	err = unix.Fstat(fd, &st)
	if err == nil && st.Mode&unix.S_IFMT != unix.S_IFIFO {
		err = errors.New("not a FIFO")
	}
	if err == nil {
		err = unix.SetNonblock(fd, false)
	}
	if err != nil {
		unix.Close(fd)
		return nil, &fs.PathError{Op: "open FIFO", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// HandOverFIFO closes f, a FIFO that is open for reading and writing, once another has it open for reading: who opened it
// later would find nothing in it, and wait for a writer for ever. It no longer waits when giveUp is closed.
func HandOverFIFO(f *os.File, giveUp <-chan struct{}) {
	w, err := os.OpenFile(descriptorPath(f), os.O_WRONLY|unix.O_NONBLOCK, 0) // keeps what is in it
	f.Close()
	if err != nil {
		return
	}
	defer w.Close()
	reserve, err := Dup(w) // giving up takes a descriptor, and there may be no other
	if err != nil {
		return
	}
	defer reserve.Close()
	path := descriptorPath(w)
	came := make(chan struct{})
	go func() {
		defer close(came)
		if f, err := os.OpenFile(path, os.O_WRONLY, 0); err == nil { // as soon as there is a reader
			f.Close()
		}
	}()
	select {
	case <-came:
		return
	case <-giveUp:
	}
	reserve.Close()
	for pause := time.Millisecond; ; pause = min(2*pause, time.Second) {
		f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // lets the other one go on
		if err == nil {
			<-came
			f.Close()
			return
		}
		select { // somebody else has got the reserve
		case <-came:
			return
		case <-time.After(pause):
		}
	}
}

// descriptorPath is a path to an open file, whatever has become of its own.
func descriptorPath(f *os.File) string { return "/proc/self/fd/" + strconv.Itoa(int(f.Fd())) }

// HungUp tells whether nobody will write to the FIFO or pipe that f reads, and somebody has had it open for that.
func HungUp(f *os.File) bool {
	conn, err := f.SyscallConn()
	if err != nil {
		return false
	}
	hup := false
	_ = conn.Control(func(fd uintptr) { _, hup = Readable(fd) })
	return hup
}

// Readable tells whether something can be read from a descriptor, and whether the last one who could write to it has gone.
func Readable(fd uintptr) (data, end bool) {
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(poll, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return false, false
		}
		return poll[0].Revents&unix.POLLIN != 0, poll[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
	}
}

// IsFIFO tells whether a FIFO is at path.
func IsFIFO(path string) (bool, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return false, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	return st.Mode&unix.S_IFMT == unix.S_IFIFO, nil
}

// SetNonblock makes the file's description non-blocking and returns a file that goroutines can wait on.
// f must not be used afterwards.
func SetNonblock(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, fmt.Errorf("duplicate %s: %w", f.Name(), err)
	}
	name := f.Name()
	f.Close()
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("set %s non-blocking: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// Inode returns the inode number and the size of an open file.
func Inode(f *os.File) (ino uint64, size int64, err error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return 0, 0, fmt.Errorf("stat %s: %w", f.Name(), err)
	}
	var st unix.Stat_t
	var serr error
	if err := conn.Control(func(fd uintptr) { serr = unix.Fstat(int(fd), &st) }); err != nil {
		return 0, 0, fmt.Errorf("stat %s: %w", f.Name(), err)
	}
	if serr != nil {
		return 0, 0, fmt.Errorf("stat %s: %w", f.Name(), serr)
	}
	return st.Ino, st.Size, nil
}

// Pipe makes a pipe for a process's output: goroutines can wait on its reading end, the writing end blocks
// and belongs to the user, who may open it again as /dev/stdout.
func Pipe(uid, gid int) (r, w *os.File, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, fmt.Errorf("make pipe: %w", err)
	}
	if uid != 0 || gid != 0 {
		err = unix.Fchown(fds[1], uid, gid)
	}
	if err = errors.Join(err, unix.SetNonblock(fds[0], true)); err != nil {
		unix.Close(fds[0])
		unix.Close(fds[1])
		return nil, nil, fmt.Errorf("make pipe: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "pipe"), os.NewFile(uintptr(fds[1]), "pipe"), nil
}

// Dup returns another file for the description of f, which stays as it is. Goroutines can wait on it if the description is
// non-blocking.
func Dup(f *os.File) (*os.File, error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("duplicate %s: %w", f.Name(), err)
	}
	var dup int
	var derr error
	err = conn.Control(func(fd uintptr) { dup, derr = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 3) })
	if err := errors.Join(err, derr); err != nil {
		return nil, fmt.Errorf("duplicate %s: %w", f.Name(), err)
	}
	return os.NewFile(uintptr(dup), f.Name()), nil
}

// DupInheritable returns the number of another descriptor for the description of f, which a program that is executed will
// have, too.
func DupInheritable(f *os.File) (int, error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("duplicate %s: %w", f.Name(), err)
	}
	var dup int
	var derr error
	err = conn.Control(func(fd uintptr) { dup, derr = unix.FcntlInt(fd, unix.F_DUPFD, 4) })
	if err := errors.Join(err, derr); err != nil {
		return 0, fmt.Errorf("duplicate %s: %w", f.Name(), err)
	}
	return dup, nil
}

// Inheritable lets a program that is executed have the descriptor.
func Inheritable(fd int) error {
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0); err != nil {
		return fmt.Errorf("make descriptor %d inheritable: %w", fd, err)
	}
	return nil
}

// SetWindowSize sets the size of a terminal, in characters, through its master.
func SetWindowSize(master *os.File, width, height uint16) error {
	conn, err := master.SyscallConn()
	if err != nil {
		return fmt.Errorf("resize terminal: %w", err)
	}
	var rerr error
	err = conn.Control(func(fd uintptr) {
		rerr = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: height, Col: width})
	})
	if err := errors.Join(err, rerr); err != nil {
		return fmt.Errorf("resize terminal: %w", err)
	}
	return nil
}
