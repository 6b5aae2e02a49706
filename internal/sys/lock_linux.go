package sys

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// ErrLocked says that another open file holds the lock.
var ErrLocked = errors.New("locked by another process")

// LockFile opens the file path, which is made if it is missing, and locks it until it is closed or the process
// dies. It does not wait: the error wraps ErrLocked where somebody else has it.
func LockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil && !stillThere(f, path) {
		err = unix.EWOULDBLOCK // whoever had it has removed it: it was the last owner's
	}
	if err == nil {
		return f, nil
	}
	f.Close()
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = ErrLocked
	}
	return nil, &os.PathError{Op: "lock", Path: path, Err: err}
}

// stillThere tells whether path is still the name of f. A file that is removed by its owner may be opened by others just
// before, and its lock is worth nothing then.
func stillThere(f *os.File, path string) bool {
	mine, err := f.Stat()
	if err != nil {
		return false
	}
	named, err := os.Stat(path)
	return err == nil && os.SameFile(mine, named)
}
