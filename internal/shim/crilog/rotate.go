package crilog

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Rotation says when a log's file is put aside and a new one begun: before a record that would make it larger than Size
// bytes. A log has at most Files files then, with the one that is written. The zero Rotation rotates nothing: that is the
// kubelet's business then.
type Rotation struct {
	Size  int64
	Files int
}

// rotatedStamp ends the name of a file that was put aside ("0.log.20261121-113800.123456789"): like the kubelet's, and such
// that names sort by age.
const rotatedStamp = "20060102-150405.000000000"

// rotate puts the file aside if n more bytes make it too large, and tells whether it did; size is its size. The caller holds
// mu. What can't be put aside grows on, for no record may be lost.
func (l *Log) rotate(size, n int64) bool {
	if l.rotation.Size <= 0 || size == 0 || size+n <= l.rotation.Size {
		return false
	}
	st, err := l.file.Stat()
	if err != nil || !st.Mode().IsRegular() {
		return false
	}
	// Where somebody else has rotated, and has not said so yet (Reopen), the path is another file's.
	if there, err := os.Lstat(l.path); err != nil || !os.SameFile(st, there) {
		return false
	}
	aside := l.path + "." + l.now().UTC().Format(rotatedStamp)
	if _, err := os.Lstat(aside); !errors.Is(err, fs.ErrNotExist) { // the clock went back: later, then
		return false
	}
	if os.Rename(l.path, aside) != nil {
		return false
	}
	f, err := openFile(l.path)
	if err != nil {
		_ = os.Rename(aside, l.path) // if not even that works, the file has a wrong name and every record
		return false
	}
	l.file.Close()
	l.file = f
	l.removeOldest()
	return true
}

// removeOldest removes files that rotate has put aside, where there are too many. What it can't remove it tries again at the
// next rotation.
func (l *Log) removeOldest() {
	entries, err := os.ReadDir(filepath.Dir(l.path)) // sorted by name, which is by age
	if err != nil {
		return
	}
	var rotated []string
	for _, e := range entries {
		stamp, ok := strings.CutPrefix(e.Name(), filepath.Base(l.path)+".")
		if _, err := time.Parse(rotatedStamp, stamp); ok && err == nil && len(stamp) == len(rotatedStamp) {
			rotated = append(rotated, filepath.Join(filepath.Dir(l.path), e.Name()))
		}
	}
	for i := range len(rotated) - (max(l.rotation.Files, 1) - 1) {
		os.Remove(rotated[i])
	}
}
