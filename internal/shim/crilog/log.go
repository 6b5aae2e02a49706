package crilog

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/11f9778f/berth/internal/sys"
)

// Log is one CRI log file. Its methods may be called from several goroutines.
type Log struct {
	path     string
	rotation Rotation
	now      func() time.Time

	mu   sync.Mutex
	file *os.File // guarded by mu; nil after Close
	lost int64    // bytes of records that could not be written since the last note about it
	err  error    // why
}

// Open opens the log file at path for appending; a missing one is made with mode 0640. The last element of the
// path may not be a link.
func Open(path string, rotation Rotation) (*Log, error) {
	f, err := openFile(path)
	if err != nil {
		return nil, err
	}
	return &Log{path: path, rotation: rotation, now: time.Now, file: f}, nil
}

func openFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0o640)
	if err != nil {
		return nil, fmt.Errorf("open container log: %w", err)
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() && st.Mode()&fs.ModeCharDevice == 0 {
		err = fmt.Errorf("%s is no regular file", path)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open container log: %w", err)
	}
	return f, nil
}

// Path is where the log is.
func (l *Log) Path() string { return l.path }

// Reopen opens the path anew: what is logged from now on goes there. If that fails, the old file stays in use. Nothing is
// written to the old one once the new one is there: who follows the log may leave the old one then.
func (l *Log) Reopen() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	f, err := openFile(l.path)
	if err != nil {
		return err
	}
	if l.file == nil {
		f.Close()
		return fmt.Errorf("reopen container log %s: %w", l.path, fs.ErrClosed)
	}
	l.file.Close()
	l.file = f
	return nil
}

// Close closes the file. Streams must have ended.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return nil
	}
	err := l.file.Close()
	l.file = nil
	return err
}

// write appends the records that encode makes of the time. intent is called before they are written, with the file's inode
// and size. All of it is under the lock that keeps other streams from writing in between, so that the stamps of a
// log's records follow each other.
func (l *Log) write(encode func(now time.Time) (records []byte), intent func(ino uint64, size int64)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file != nil && l.lost > 0 {
		l.noteLoss()
	}
	records := encode(l.now())
	if l.file == nil || len(records) == 0 {
		return
	}
	ino, size, err := sys.Inode(l.file)
	if err == nil && l.rotate(size, int64(len(records))) {
		ino, size, err = sys.Inode(l.file)
	}
	if err == nil {
		intent(ino, size)
		if _, err = l.file.Write(records); err != nil {
			l.file.Truncate(size) // no half record stays
		}
	}
	if err != nil {
		l.lost += int64(len(records))
		l.err = err
	}
}

// noteLoss tells the reader what is missing; as long as that can't be written either, the count goes on.
func (l *Log) noteLoss() {
	_, size, err := sys.Inode(l.file)
	if err != nil {
		return
	}
	text := fmt.Sprintf("berth: %d bytes of log could not be written here: %v\n", l.lost, l.err)
	note, _ := encode(nil, []byte(text), "stderr", l.now(), false, 1<<20)
	if _, err := l.file.Write(note); err != nil {
		l.file.Truncate(size)
		return
	}
	l.lost, l.err = 0, nil
}

// settle decides about an append that a killed writer had announced: true if all of it is in the log. If a
// part is, it is cut off.
func (l *Log) settle(p pending) (bool, error) {
	f, err := l.find(p.inode)
	if err != nil {
		// Rotated and removed meanwhile: nobody can read it any more, in whichever state it was.
		return errors.Is(err, fs.ErrNotExist), err
	}
	defer f.Close()
	_, size, err := sys.Inode(f)
	if err != nil {
		return false, err
	}
	if size >= p.size+p.length {
		return true, nil
	}
	if size > p.size {
		return false, f.Truncate(p.size)
	}
	return false, nil
}

// find opens the file that had the inode: the log itself, or a rotated one beside it.
func (l *Log) find(inode uint64) (*os.File, error) {
	dir := filepath.Dir(l.path)
	names := []string{l.path}
	for i := 0; i < len(names); i++ {
		if f, err := os.OpenFile(names[i], os.O_WRONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0); err == nil {
			if ino, _, err := sys.Inode(f); err == nil && ino == inode {
				return f, nil
			}
			f.Close()
		}
		if i > 0 {
			continue
		}
		entries, err := os.ReadDir(dir)
		if err != nil {
			return nil, fmt.Errorf("look for the rotated log of %s: %w", l.path, err)
		}
		for _, e := range entries {
			if e.Type().IsRegular() {
				names = append(names, filepath.Join(dir, e.Name()))
			}
		}
	}
	return nil, fmt.Errorf("look for the rotated log of %s: %w", l.path, fs.ErrNotExist)
}
