package sys

import (
	"errors"
	"io/fs"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Folder is an open directory of a tree that is not trusted. Its methods work on names in it (single
// components, never followed when they are symbolic links), except InRoot and Beneath. So a tree that
// somebody hostile has made can be walked and changed without leaving it. The owner calls Close.
//
// Errors are bare errno values, to be wrapped with what the caller knows. (Dir is the same for the
// kernel's own filesystems.)
type Folder struct{ fd int }

// Errors that callers compare with errors.Is.
const (
	ErrLoop     = unix.ELOOP        // a symbolic link where none may be, or too many of them
	ErrNotDir   = unix.ENOTDIR      // a path goes through something that is no directory
	ErrNoSpace  = unix.ENOSPC       // the disk is full
	ErrQuota    = unix.EDQUOT       // the quota is used up
	ErrReadOnly = unix.EROFS        // the filesystem is read-only
	ErrNoXattr  = unix.ENODATA      // no extended attribute of that name
	ErrNotSup   = unix.EOPNOTSUPP   // the filesystem does not do that
	ErrTooLong  = unix.ENAMETOOLONG // a name or path is too long
)

const folderFlags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC

// uninterrupted repeats f while a signal interrupts it.
func uninterrupted(f func() error) error {
	for {
		if err := f(); err != unix.EINTR {
			return err
		}
	}
}

func openFolderAt(dir int, name string, flags int) (*Folder, error) {
	fd := -1
	err := uninterrupted(func() (err error) { fd, err = unix.Openat(dir, name, folderFlags|flags, 0); return })
	if err != nil {
		return nil, err
	}
	return &Folder{fd}, nil
}

// OpenFolder opens the directory at path, which the caller trusts.
func OpenFolder(path string) (*Folder, error) {
	d, err := openFolderAt(unix.AT_FDCWD, path, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return d, nil
}

// Close closes the directory.
func (d *Folder) Close() error { return unix.Close(d.fd) }

// Path is a path to the directory that is good while it is open, for functions that take only paths.
func (d *Folder) Path() string { return "/proc/self/fd/" + strconv.Itoa(d.fd) }

// InRoot opens the directory at path with d as the root: "..", absolute paths and symbolic links on the
// way stay below d (openat2(2), RESOLVE_IN_ROOT).
func (d *Folder) InRoot(path string) (*Folder, error) {
	return d.openat2(path, &unix.OpenHow{Flags: folderFlags, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS})
}

// Beneath opens the directory at path without following a single symbolic link.
func (d *Folder) Beneath(path string) (*Folder, error) {
	return d.openat2(path, &unix.OpenHow{Flags: folderFlags, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS})
}

func (d *Folder) openat2(path string, how *unix.OpenHow) (*Folder, error) {
	for try := 0; ; try++ {
		fd, err := unix.Openat2(d.fd, path, how)
		switch {
		case err == nil:
			return &Folder{fd}, nil
		case err == unix.EINTR, err == unix.EAGAIN && try < 100: // somebody renames meanwhile
			continue
		default:
			return nil, err
		}
	}
}

// Sub opens the directory called name.
func (d *Folder) Sub(name string) (*Folder, error) { return openFolderAt(d.fd, name, unix.O_NOFOLLOW) }

// OpenRegular opens the regular file called name for reading. What is no regular file is an error, and
// opening it has no effect on it.
func (d *Folder) OpenRegular(name string) (*os.File, error) {
	fd := -1
	err := uninterrupted(func() (err error) {
		fd, err = unix.Openat(d.fd, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
		return
	})
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		unix.Close(fd)
		return nil, errors.New("not a regular file")
	}
	return os.NewFile(uintptr(fd), name), nil
}

// Mkdir makes a directory.
func (d *Folder) Mkdir(name string, mode uint32) error {
	return uninterrupted(func() error { return unix.Mkdirat(d.fd, name, mode) })
}

// Symlink makes a symbolic link called name.
func (d *Folder) Symlink(target, name string) error {
	return uninterrupted(func() error { return unix.Symlinkat(target, d.fd, name) })
}

// Link makes name a further name of oldName in old; a symbolic link is linked itself.
func (d *Folder) Link(old *Folder, oldName, name string) error {
	return uninterrupted(func() error { return unix.Linkat(old.fd, oldName, d.fd, name, 0) })
}

// Kinds of node that Mknod makes.
const (
	NodeChar  = unix.S_IFCHR
	NodeBlock = unix.S_IFBLK
	NodeFifo  = unix.S_IFIFO
)

// Mknod makes a device or FIFO of mode 0600 (less the umask).
func (d *Folder) Mknod(name string, kind, major, minor uint32) error {
	return uninterrupted(func() error { return unix.Mknodat(d.fd, name, kind|0o600, int(unix.Mkdev(major, minor))) })
}

// Unlink removes what is no directory.
func (d *Folder) Unlink(name string) error {
	return uninterrupted(func() error { return unix.Unlinkat(d.fd, name, 0) })
}

// Rmdir removes an empty directory.
func (d *Folder) Rmdir(name string) error {
	return uninterrupted(func() error { return unix.Unlinkat(d.fd, name, unix.AT_REMOVEDIR) })
}

// Rename moves name to newName in to.
func (d *Folder) Rename(name string, to *Folder, newName string) error {
	return uninterrupted(func() error { return unix.Renameat(d.fd, name, to.fd, newName) })
}

// Readlink reads a symbolic link.
func (d *Folder) Readlink(name string) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(d.fd, name, buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

// Lchown changes the owner of name.
func (d *Folder) Lchown(name string, uid, gid int) error {
	return uninterrupted(func() error { return unix.Fchownat(d.fd, name, uid, gid, unix.AT_SYMLINK_NOFOLLOW) })
}

// Lchmod changes the mode of name, which must not be a symbolic link (it would be followed): the caller
// has just made it and nobody else can reach it.
func (d *Folder) Lchmod(name string, mode uint32) error {
	return uninterrupted(func() error { return unix.Fchmodat(d.fd, name, mode, 0) })
}

// Lutimes sets access and modification time of name.
func (d *Folder) Lutimes(name string, atime, mtime time.Time) error {
	ts := []unix.Timespec{timespec(atime), timespec(mtime)}
	return uninterrupted(func() error { return unix.UtimesNanoAt(d.fd, name, ts, unix.AT_SYMLINK_NOFOLLOW) })
}

// FileStat describes an inode.
type FileStat struct {
	Dev, Ino uint64
	Nlink    uint64
	Mode     fs.FileMode // permission and type
	Size     int64
	Blocks   int64 // of 512 bytes
	Rdev     uint64
}

// IsWhiteout says whether it is what overlayfs takes for a deletion: the character device 0:0.
func (s FileStat) IsWhiteout() bool {
	return s.Mode.Type() == fs.ModeDevice|fs.ModeCharDevice && s.Rdev == 0
}

// Lstat describes name.
func (d *Folder) Lstat(name string) (FileStat, error) {
	var st unix.Stat_t
	err := uninterrupted(func() error { return unix.Fstatat(d.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW) })
	if err != nil {
		return FileStat{}, err
	}
	return makeStat(&st), nil
}

// Stat describes the directory itself.
func (d *Folder) Stat() (FileStat, error) {
	var st unix.Stat_t
	if err := uninterrupted(func() error { return unix.Fstat(d.fd, &st) }); err != nil {
		return FileStat{}, err
	}
	return makeStat(&st), nil
}

func makeStat(st *unix.Stat_t) FileStat {
	mode := fs.FileMode(st.Mode & 0o777)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		mode |= fs.ModeDir
	case unix.S_IFLNK:
		mode |= fs.ModeSymlink
	case unix.S_IFCHR:
		mode |= fs.ModeDevice | fs.ModeCharDevice
	case unix.S_IFBLK:
		mode |= fs.ModeDevice
	case unix.S_IFIFO:
		mode |= fs.ModeNamedPipe
	case unix.S_IFSOCK:
		mode |= fs.ModeSocket
	}
	// The conversions are needed on architectures where the fields are narrower.
	return FileStat{
		Dev: uint64(st.Dev), Ino: st.Ino, Nlink: uint64(st.Nlink), Mode: mode,
		Size: st.Size, Blocks: st.Blocks, Rdev: uint64(st.Rdev),
	}
}

// Names returns up to n names in the directory, or all for n <= 0, from the beginning.
func (d *Folder) Names(n int) ([]string, error) {
	fd := -1
	err := uninterrupted(func() (err error) { fd, err = unix.Openat(d.fd, ".", folderFlags, 0); return })
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), ".")
	defer f.Close()
	return f.Readdirnames(n)
}

// Setxattr sets an extended attribute of the directory.
func (d *Folder) Setxattr(name string, value []byte) error { return fsetxattr(d.fd, name, value) }

// Getxattr reads an extended attribute of the directory, of at most 64 KiB.
func (d *Folder) Getxattr(name string) ([]byte, error) { return fgetxattr(d.fd, name) }

// Xattrs returns the names of the directory's extended attributes.
func (d *Folder) Xattrs() ([]string, error) { return flistxattr(d.fd) }

// RemoveXattr removes an extended attribute of the directory.
func (d *Folder) RemoveXattr(name string) error {
	return uninterrupted(func() error { return unix.Fremovexattr(d.fd, name) })
}

// Chown changes the directory's owner.
func (d *Folder) Chown(uid, gid int) error {
	return uninterrupted(func() error { return unix.Fchown(d.fd, uid, gid) })
}

// Chmod changes the directory's mode; the bits are the kernel's, 07777.
func (d *Folder) Chmod(mode uint32) error {
	return uninterrupted(func() error { return unix.Fchmod(d.fd, mode) })
}

// Utimes sets the directory's access and modification time.
func (d *Folder) Utimes(atime, mtime time.Time) error { return futimes(d.fd, atime, mtime) }

// Sync writes the directory's entries to the disk.
func (d *Folder) Sync() error { return uninterrupted(func() error { return unix.Fsync(d.fd) }) }

// Syncfs writes the whole filesystem that the directory is on to the disk.
func (d *Folder) Syncfs() error { return uninterrupted(func() error { return unix.Syncfs(d.fd) }) }

// TryLock takes the directory's exclusive flock(2), or returns false where somebody else has it. Close,
// and the death of the process, give it back.
func (d *Folder) TryLock() (bool, error) {
	err := uninterrupted(func() error { return unix.Flock(d.fd, unix.LOCK_EX|unix.LOCK_NB) })
	if err == unix.EWOULDBLOCK {
		return false, nil
	}
	return err == nil, err
}

// FSSpace is the room on a filesystem.
type FSSpace struct {
	Bytes, BytesFree   int64 // BytesFree is what is left for root
	Inodes, InodesFree int64
}

// Space asks for the room on the directory's filesystem.
func (d *Folder) Space() (FSSpace, error) {
	var st unix.Statfs_t
	if err := uninterrupted(func() error { return unix.Fstatfs(d.fd, &st) }); err != nil {
		return FSSpace{}, err
	}
	size := int64(st.Bsize) // narrower on some architectures
	return FSSpace{
		Bytes: int64(st.Blocks) * size, BytesFree: int64(st.Bfree) * size,
		Inodes: int64(st.Files), InodesFree: int64(st.Ffree),
	}, nil
}
