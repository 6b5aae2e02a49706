package engine

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// copiedUp makes a tmpfs that begins with what the root filesystem has at the destination, owners and modes
// included (option tmpcopyup). What earlier mounts show there can't be seen from here.
func (u *setup) copiedUp(m specs.Mount, opts mountOptions, earlier []specs.Mount) (*os.File, error) {
	for _, e := range earlier {
		if strings.HasPrefix(relative(m.Destination)+"/", relative(e.Destination)+"/") {
			return nil, fmt.Errorf("tmpcopyup: the destination is below the mount at %s, not in the root filesystem", e.Destination)
		}
	}
	plain := opts
	plain.attr.Attr_set &^= unix.MOUNT_ATTR_RDONLY
	plain.rattr.Attr_set &^= unix.MOUNT_ATTR_RDONLY
	tree, err := newFilesystem(m.Type, m.Source, plain)
	if err != nil {
		return nil, err
	}
	fd, err := openInRoot(u.root, m.Destination)
	if err == nil {
		err = copyTree(fd, int(tree.Fd()))
		unix.Close(fd)
	}
	if err != nil && !errors.Is(err, unix.ENOENT) {
		tree.Close()
		return nil, fmt.Errorf("tmpcopyup: %w", err)
	}
	set := (opts.attr.Attr_set | opts.rattr.Attr_set) & unix.MOUNT_ATTR_RDONLY
	if err := setAttr(tree, unix.MountAttr{Attr_set: set}, false); err != nil {
		tree.Close()
		return nil, err
	}
	return tree, nil
}

// copyTree copies what is in the directory from into the directory to. Nothing is followed: each entry is looked
// at by its own descriptor.
func copyTree(from, to int) error {
	fd, err := unix.Openat(from, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	dir := os.NewFile(uintptr(fd), "directory")
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := copyEntry(fd, to, name); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func copyEntry(from, to int, name string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(from, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	var err error
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		err = copyDirectory(from, to, name)
	case unix.S_IFREG:
		err = copyFile(from, to, name)
	case unix.S_IFLNK:
		buf := make([]byte, unix.PathMax)
		var n int
		if n, err = unix.Readlinkat(from, name, buf); err == nil {
			err = unix.Symlinkat(string(buf[:n]), to, name)
		}
	default:
		err = unix.Mknodat(to, name, st.Mode, int(st.Rdev))
	}
	if err != nil {
		return err
	}
	if err := unix.Fchownat(to, name, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return nil
	}
	return unix.Fchmodat(to, name, st.Mode&0o7777, 0)
}

func copyDirectory(from, to int, name string) error {
	if err := unix.Mkdirat(to, name, 0o700); err != nil {
		return err
	}
	const flags = unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	in, err := unix.Openat(from, name, flags, 0)
	if err != nil {
		return err
	}
	defer unix.Close(in)
	out, err := unix.Openat(to, name, flags, 0)
	if err != nil {
		return err
	}
	defer unix.Close(out)
	return copyTree(in, out)
}

func copyFile(from, to int, name string) error {
	in, err := unix.Openat(from, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	r := os.NewFile(uintptr(in), name)
	defer r.Close()
	out, err := unix.Openat(to, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	w := os.NewFile(uintptr(out), name)
	_, err = io.Copy(w, r)
	return errors.Join(err, w.Close())
}
