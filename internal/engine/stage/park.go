package stage

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Park makes the child wait at the unix socket path, which is made, for another process that goes on
// with it by Call. The conversation of s is over then; Close no longer ends the child. Nobody but who
// may search the socket's directory can reach it: keep that private.
func (s *Stage) Park(path string) error {
	l, err := listen(path)
	if err != nil {
		return fmt.Errorf("park child at %s: %w", path, err)
	}
	defer l.Close()
	var p Program
	defer p.release()
	socket, called := Cell{addr: dataBase}, Answered(0)
	p.Do("wait to be called", unix.SYS_ACCEPT4, p.File(l), Int(0), Int(0), Int(unix.SOCK_CLOEXEC)).Into(called)
	p.Do("take the new socket for the old one", unix.SYS_DUP3, called.Value(), socket.Value(), Int(unix.O_CLOEXEC))
	p.Do("close the new one", unix.SYS_CLOSE, called.Value())
	p.Do("close listener", unix.SYS_CLOSE, Cell{addr: fdsAddr}.Value())
	if err := s.send(&p); err != nil {
		os.Remove(path)
		return fmt.Errorf("park child at %s: %w", path, err)
	}
	return nil
}

// Call goes on with a child that was parked at path. The caller keeps pidfd.
func Call(path string, pid int, pidfd *os.File) (*Stage, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("stage: socket: %w", err)
	}
	err = atSocket(path, func(a unix.Sockaddr) error { return unix.Connect(fd, a) })
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("call parked child at %s: %w", path, err)
	}
	unix.SetNonblock(fd, true)
	// Cells below are its creator's; the first answer is that of the program which parked it.
	return &Stage{Pid: pid, PidFD: pidfd, sock: os.NewFile(uintptr(fd), "stage"), keep: keepCells / 2}, nil
}

func listen(path string) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	err = atSocket(path, func(a unix.Sockaddr) error { return unix.Bind(fd, a) })
	if err == nil {
		err = unix.Listen(fd, 1)
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "listener"), nil
}

// atSocket calls f with the address of path, which may be longer than the 107 bytes of an address.
func atSocket(path string, f func(unix.Sockaddr) error) error {
	dir, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	return f(&unix.SockaddrUnix{Name: fmt.Sprintf("/proc/self/fd/%d/%s", dir, filepath.Base(path))})
}

// IsExecutable tells whether the link /proc/PID/exe leads to the program of a stage.
func IsExecutable(link string) bool {
	return strings.TrimSuffix(link, " (deleted)") == "/memfd:berth-init"
}
