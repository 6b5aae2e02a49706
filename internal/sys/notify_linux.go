package sys

import (
	"encoding/binary"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// EventFD makes an eventfd(2) whose reads wait in the runtime's poller, not in a thread. A read gives
// eight bytes; Close ends a waiting one.
func EventFD() (*os.File, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	return os.NewFile(uintptr(fd), "eventfd"), nil
}

// Watch tells of changes of files.
type Watch struct {
	f   *os.File
	buf [4096]byte
}

// WatchModified watches files for being modified, as kernel file systems report events, and for
// being deleted.
func WatchModified(paths ...string) (*Watch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("inotify_init1: %w", err)
	}
	w := &Watch{f: os.NewFile(uintptr(fd), "inotify")}
	for _, path := range paths {
		if err := w.add(path, unix.IN_MODIFY|unix.IN_DELETE_SELF); err != nil {
			w.Close()
			return nil, err
		}
	}
	return w, nil
}

// AddRemovals watches a directory for entries that are removed from it. Kernel file systems tell of the end of a
// directory there only.
func (w *Watch) AddRemovals(dir string) error { return w.add(dir, unix.IN_DELETE|unix.IN_ONLYDIR) }

func (w *Watch) add(path string, mask uint32) error {
	raw, err := w.f.SyscallConn() // Fd would take the file out of the poller
	if err != nil {
		return err
	}
	var add error
	if err := raw.Control(func(fd uintptr) { _, add = unix.InotifyAddWatch(int(fd), path, mask) }); err != nil {
		return err
	}
	if add != nil {
		return fmt.Errorf("watch %s: %w", path, add)
	}
	return nil
}

// Wait waits for a change. It tells whether a watched file has gone.
func (w *Watch) Wait() (gone bool, err error) {
	n, err := w.f.Read(w.buf[:])
	if err != nil {
		return false, err
	}
	const head = int(unsafe.Sizeof(unix.InotifyEvent{}))
	for b := w.buf[:n]; len(b) >= head; {
		mask := binary.NativeEndian.Uint32(b[4:])
		gone = gone || mask&(unix.IN_DELETE_SELF|unix.IN_IGNORED) != 0
		b = b[min(len(b), head+int(binary.NativeEndian.Uint32(b[12:]))):]
	}
	return gone, nil
}

// Close ends the watch and a Wait under way.
func (w *Watch) Close() error { return w.f.Close() }
