// Package state reads and writes the small files in which a shim and the daemon remember what they did, so that
// the next process knows it.
//
// A file is replaced by rename: a reader sees the old one or the new one, whole. Nothing is synced to the disk,
// since everything here dies with the boot. Reading trusts nothing: size is limited, unknown or missing
// versions are errors.
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
	"syscall"
)

// Version is that of all files; another one is an error.
const Version = 1

// maxSize bounds what is read.
const maxSize = 1 << 20

type envelope struct {
	Version int             `json:"version"`
	Data    json.RawMessage `json:"data"`
}

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
	// One writer a file: both sides guard theirs by a lock, so the name needs no random part.
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
