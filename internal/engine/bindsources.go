package engine

import (
	"os"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// sources copies what a container's binds show. For each copy the kernel looks through all mounts that hang on the source's one, and
// on the run directory's there are four for each pod of the node. So files that lie in one directory, as those of a pod's /etc, are
// copied from a detached copy of the directory, on which nothing hangs.
type sources struct {
	wanted map[string]int        // how many binds have their source in a directory
	dirs   map[string]*sourceDir // nil where there can be no copy
}

// sourceDir is a directory with sources in it.
type sourceDir struct {
	copy  *os.File
	mount uint64 // that the directory is on
}

func newSources(o CreateOptions) sources {
	s := sources{wanted: map[string]int{}, dirs: map[string]*sourceDir{}}
	for _, m := range o.Spec.Mounts {
		if isBind(m.Type, m.Options) {
			s.wanted[filepath.Dir(o.bindSource(m))]++
		}
	}
	return s
}

// bindSource is the absolute path of a bind's source.
func (o CreateOptions) bindSource(m specs.Mount) string {
	if filepath.IsAbs(m.Source) {
		return m.Source
	}
	return filepath.Join(o.Bundle, m.Source)
}

func (s *sources) close() {
	for _, d := range s.dirs {
		if d != nil {
			d.copy.Close()
		}
	}
}

// clone is cloneTree.
func (s *sources) clone(path string, recursive bool) (*os.File, error) {
	fd, err := unix.Open(path, openPath, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	if dir := filepath.Dir(path); s.wanted[dir] > 1 {
		if tree := s.fromCopy(fd, dir, path); tree != nil {
			return tree, nil
		}
	}
	return cloneTreeFD(fd, path, recursive)
}

// fromCopy copies the file fd from the copy of its directory. It returns nil where that is not the same: for a directory, something
// mounted there, a symbolic link; or where the kernel does not copy detached mounts (before 6.15).
func (s *sources) fromCopy(fd int, dir, path string) *os.File {
	var file, copied unix.Statx_t
	if !stat(fd, &file) || file.Mode&unix.S_IFMT == unix.S_IFDIR {
		return nil
	}
	d, known := s.dirs[dir]
	if !known {
		d = copyDir(dir)
		s.dirs[dir] = d
	}
	if d == nil || d.mount != file.Mnt_id {
		return nil
	}
	again, err := unix.Openat(int(d.copy.Fd()), filepath.Base(path), openPath|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(again)
	if !stat(again, &copied) || copied.Ino != file.Ino || copied.Dev_major != file.Dev_major || copied.Dev_minor != file.Dev_minor {
		return nil
	}
	tree, err := cloneTreeFD(again, path, false)
	if err != nil {
		s.dirs[dir] = nil
		d.copy.Close()
		return nil
	}
	return tree
}

func copyDir(dir string) *sourceDir {
	fd, err := unix.Open(dir, openPath|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	var st unix.Statx_t
	if !stat(fd, &st) {
		return nil
	}
	tree, err := cloneTreeFD(fd, dir, false)
	if err != nil {
		return nil
	}
	return &sourceDir{copy: tree, mount: st.Mnt_id}
}

const statxMask = unix.STATX_TYPE | unix.STATX_INO | unix.STATX_MNT_ID

// stat tells what is open, if this kernel says on which mount (since 5.8).
func stat(fd int, st *unix.Statx_t) bool {
	return unix.Statx(fd, "", unix.AT_EMPTY_PATH, statxMask, st) == nil && st.Mask&statxMask == statxMask
}
