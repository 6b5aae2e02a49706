package node

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
)

// maxSocket is the kernel's limit for the path of a unix socket.
const maxSocket = 107

// listenUnix makes a socket that only its owner may use. A folder that is missing is made, for its owner
// alone; a socket that nobody answers on any more is replaced; one that somebody answers on, or a file
// that is none, is an error.
//
// The socket is made under a private folder and then moved to its place, so that there is no moment at
// which others could connect to it, whatever the mode of its folder.
func listenUnix(path string) (*socket, error) {
	if len(path) > maxSocket {
		return nil, fmt.Errorf("the path of the socket %s is too long: %d bytes are the kernel's limit", path, maxSocket)
	}
	dir := filepath.Dir(path)
	if err := socketFolder(dir); err != nil {
		return nil, err
	}
	if err := vacant(path); err != nil {
		return nil, err
	}
	private := filepath.Join(dir, "."+filepath.Base(path)+".new")
	if err := os.RemoveAll(private); err != nil { // of one that died right here
		return nil, fmt.Errorf("make the socket %s: %w", path, err)
	}
	if err := os.Mkdir(private, 0o700); err != nil {
		return nil, fmt.Errorf("make the socket %s: %w", path, err)
	}
	defer os.RemoveAll(private)
	l, err := bind(private, path)
	if err != nil {
		return nil, fmt.Errorf("make the socket %s: %w", path, err)
	}
	return &socket{Listener: l, path: path}, nil
}

// socket is where a node listens.
type socket struct {
	net.Listener
	path string
	gone sync.Once
}

// Addr is the name that the socket got after it was made.
func (s *socket) Addr() net.Addr { return &net.UnixAddr{Name: s.path, Net: "unix"} }

// remove closes the socket and takes its name away. Only the first call does something: a successor may
// have the name after that.
func (s *socket) remove() {
	s.gone.Do(func() {
		os.Remove(s.path)
		s.Close()
	})
}

// bind makes the socket in the private folder and moves it to path.
func bind(private, path string) (net.Listener, error) {
	d, err := os.Open(private)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	// By the descriptor: the folder's own path may be longer than a socket's may be.
	short := fmt.Sprintf("/proc/self/fd/%d/s", d.Fd())
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: short, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // it has another name then
	if err = os.Chmod(short, 0o600); err == nil {
		err = os.Rename(filepath.Join(private, "s"), path)
	}
	if err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// socketFolder makes the folder, or checks that nobody else may put something in the socket's place.
func socketFolder(dir string) error {
	info, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("make the socket's folder: %w", err)
		}
		return nil
	}
	switch {
	case err != nil:
		return fmt.Errorf("look at the socket's folder: %w", err)
	case !info.IsDir():
		return fmt.Errorf("the socket's folder %s is no folder", dir)
	case info.Mode().Perm()&0o022 != 0:
		return fmt.Errorf("the socket's folder %s has mode %#o, so others could put a socket of theirs in the place of this one: choose another, or take their right to write away", dir, info.Mode().Perm())
	}
	return nil
}

// vacant tells why path can't be taken, if so.
func vacant(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("look at the socket's place: %w", err)
	case info.Mode()&os.ModeSocket == 0:
		return fmt.Errorf("%s is there and is no socket: remove it, or choose another path", path)
	}
	conn, err := net.Dial("unix", path)
	switch {
	case err == nil:
		conn.Close()
		return fmt.Errorf("another program answers on the socket %s: end it, or choose another path", path)
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, fs.ErrNotExist):
		return nil // left by one that died
	}
	return fmt.Errorf("look who is on the socket %s: %w", path, err)
}
