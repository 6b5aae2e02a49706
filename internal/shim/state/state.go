// Package state reads and writes the small files in which a shim and the daemon remember what they did, so that
// the next process knows it.
//
// A file is written so that a process that is killed leaves the old content or the new one, whole: in place by one
// write of one page, which a SIGKILL does not cut; a larger one in a new file that is renamed. (In place, because a
// rename over a file makes ext4 start to write it out, which costs more than all else in a container's start.)
// A file that was just made may be empty: the writer was killed before it had said anything, and ErrEmpty tells so.
// Nothing is synced to the disk, since everything here dies with the boot. Reading trusts nothing: size is limited,
// unknown or missing versions are errors.
package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
)

// Version is that of all files; another one is an error.
const Version = 1

// maxSize bounds what is read.
const maxSize = 1 << 20

// pageSize is what one write replaces whole.
const pageSize = 4096

// ErrEmpty is wrapped by Load's error for a file that nobody has written yet. It is a fs.ErrNotExist, too: nothing was
// said.
var ErrEmpty error = emptyError{}

type emptyError struct{}

func (emptyError) Error() string        { return "the file is empty" }
func (emptyError) Is(target error) bool { return target == fs.ErrNotExist }

type envelope struct {
	Version int             `json:"version"`
	Data    json.RawMessage `json:"data"`
}

// Namespaces is the folder in a group's directory where a pod's own namespaces are bound, each to a file named as in
// /proc/PID/ns.
func Namespaces(group, sandbox string) string { return filepath.Join(group, "pods", sandbox, "ns") }

// Save writes v as JSON to path.
func Save(path string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("save %s: %w", path, err)
	}
	b, err := json.Marshal(envelope{Version: Version, Data: data})
	if err != nil {
		return fmt.Errorf("save %s: %w", path, err)
	}
	return Write(path, b)
}

// Write makes b, to which it may add spaces, the content of the file at path. There is one writer a file at a time.
func Write(path string, b []byte) error {
	if len(b) <= pageSize {
		done, err := overwrite(path, b)
		if err != nil {
			return fmt.Errorf("save: %w", err)
		}
		if done {
			return nil
		}
	}
	tmp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".new")
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return fmt.Errorf("save %s: %w", path, err)
	}
	if err := os.Rename(tmp, path); err != nil {
		os.Remove(tmp)
		return fmt.Errorf("save %s: %w", path, err)
	}
	return nil
}

// overwrite writes b, padded to a page, in place. It does nothing to a file that is longer than a page.
func overwrite(path string, b []byte) (done bool, err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return false, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil || st.Size() > pageSize {
		return false, err
	}
	page := pages.Get().(*[pageSize]byte)
	defer pages.Put(page)
	for i := copy(page[:], b); i < pageSize; i++ {
		page[i] = ' '
	}
	_, err = f.WriteAt(page[:], 0)
	return err == nil, err
}

var pages = sync.Pool{New: func() any { return new([pageSize]byte) }}

// Load reads the file at path into v. A missing one is fs.ErrNotExist.
func Load(path string, v any) error {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("load: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return fmt.Errorf("load %s: %w", path, err)
	}
	if len(b) == 0 {
		return fmt.Errorf("load %s: %w", path, ErrEmpty)
	}
	if err := Parse(b, v); err != nil {
		return fmt.Errorf("load %s: %w", path, err)
	}
	return nil
}

// Parse reads the content of a file into v.
func Parse(b []byte, v any) error {
	if len(b) > maxSize {
		return fmt.Errorf("longer than %d bytes", maxSize)
	}
	var e envelope
	if err := json.Unmarshal(b, &e); err != nil {
		return err
	}
	if e.Version != Version {
		return fmt.Errorf("version %d, not %d: written by another release", e.Version, Version)
	}
	return json.Unmarshal(e.Data, v)
}

// ErrBadID is wrapped by what ValidID returns.
var ErrBadID = errors.New("not a valid id")

// ValidID checks an id that becomes a file's name: up to 128 letters, digits, '.', '_' and '-', a letter or digit
// first.
func ValidID(id string) error {
	if id == "" || len(id) > 128 {
		return fmt.Errorf("%w: %q", ErrBadID, id[:min(len(id), 128)])
	}
	for i, r := range id {
		alnum := r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
		if !alnum && (i == 0 || !strings.ContainsRune("._-", r)) {
			return fmt.Errorf("%w: %q", ErrBadID, id)
		}
	}
	return nil
}

// Names lists the files in dir that end in ".json", without that ending. A missing folder has none.
func Names(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list: %w", err)
	}
	var names []string
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".json")
		if ok && ValidID(name) == nil {
			names = append(names, name)
		}
	}
	return names, nil
}
