package unpack

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	"github.com/11f9778f/berth/internal/image/kind"
	"github.com/11f9778f/berth/internal/sys"
)

// node makes what hdr describes as base in parent; name is its whole path.
func (a *applier) node(parent *sys.Folder, name, base string, hdr *tar.Header, content io.Reader) error {
	opaque := false
	if a.whiteouts[name] {
		// The whiteout meant the lower layers. A new directory would merge with theirs: hide it.
		delete(a.whiteouts, name)
		opaque = hdr.Typeflag == tar.TypeDir
		a.replaced = true
		if err := parent.Unlink(base); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if hdr.Typeflag == tar.TypeDir {
		return a.directory(parent, name, base, hdr, opaque)
	}
	create := func() error { return a.makeNode(parent, base, hdr, content) }
	if hdr.Typeflag == tar.TypeLink {
		create = func() error { return a.hardlink(parent, name, base, hdr) }
	}
	err := create()
	if errors.Is(err, fs.ErrExist) { // a later entry replaces an earlier one
		if err := a.replace(parent, base); err != nil {
			return err
		}
		err = create()
	}
	if err == nil && hdr.Typeflag != tar.TypeLink {
		a.stats.Inodes++
	}
	return layerPathError(err)
}

// replace removes what an earlier entry made. errRetry says that parent may be closed by that.
func (a *applier) replace(parent *sys.Folder, base string) error {
	a.replaced = true
	st, err := parent.Lstat(base)
	if err != nil {
		return err
	}
	if err := parent.RemoveAll(a.ctx, base); err != nil {
		return err
	}
	if st.Mode.IsDir() || st.Mode.Type() == fs.ModeSymlink {
		a.dirs.clear() // paths may lead elsewhere now
		return errRetry
	}
	return nil
}

// errRetry asks for the entry to be resolved again.
var errRetry = errors.New("resolve again")

// makeNode makes a file, link, device or FIFO that is not there yet; fs.ErrExist where it is, and then
// nothing of content has been read.
func (a *applier) makeNode(parent *sys.Folder, base string, hdr *tar.Header, content io.Reader) error {
	mode := uint32(hdr.Mode & 0o7777)
	switch hdr.Typeflag {
	case tar.TypeSymlink:
		if err := parent.Symlink(hdr.Linkname, base); err != nil {
			return err
		}
		return nodeMeta(parent, base, hdr, nil)
	case tar.TypeChar:
		return a.device(parent, base, sys.NodeChar, mode, hdr)
	case tar.TypeBlock:
		return a.device(parent, base, sys.NodeBlock, mode, hdr)
	case tar.TypeFifo:
		return a.device(parent, base, sys.NodeFifo, mode, hdr)
	default:
		return a.file(parent, base, hdr, content)
	}
}

func (a *applier) device(parent *sys.Folder, base string, node, mode uint32, hdr *tar.Header) error {
	var major, minor uint32
	if node != sys.NodeFifo {
		if hdr.Devmajor < 0 || hdr.Devmajor >= 1<<12 || hdr.Devminor < 0 || hdr.Devminor >= 1<<20 {
			return kind.Errorf(ErrLayer, "there is no device %d:%d", hdr.Devmajor, hdr.Devminor)
		}
		major, minor = uint32(hdr.Devmajor), uint32(hdr.Devminor)
	}
	if err := parent.Mknod(base, node, major, minor); err != nil {
		return err
	}
	return nodeMeta(parent, base, hdr, &mode)
}

// nodeMeta sets what is set by name: of links (mode nil), devices and FIFOs.
func nodeMeta(parent *sys.Folder, base string, hdr *tar.Header, mode *uint32) error {
	if err := parent.Lchown(base, hdr.Uid, hdr.Gid); err != nil {
		return err
	}
	if mode != nil {
		if err := parent.Lchmod(base, *mode); err != nil {
			return err
		}
	}
	return parent.Lutimes(base, hdr.ModTime, hdr.ModTime)
}

func (a *applier) file(parent *sys.Folder, base string, hdr *tar.Header, content io.Reader) error {
	if hdr.Size < 0 || hdr.Size > a.limits.Bytes-a.stats.Bytes {
		return kind.Errorf(ErrLimit, "the layer's files are larger than %d bytes", a.limits.Bytes)
	}
	f, err := parent.Create(base)
	if err != nil {
		return err
	}
	if err := a.fill(f, hdr, content); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

func (a *applier) fill(f *sys.FileWriter, hdr *tar.Header, content io.Reader) error {
	if hdr.Size > 0 {
		buf := buffers.Get().(*[]byte)
		defer buffers.Put(buf)
		n, err := copyFile(f, content, *buf, a.ctx.Err)
		a.stats.Bytes += n
		a.stats.DiskBytes += n / blockSize * blockSize
		if err != nil {
			return tarError(err)
		}
	}
	if err := f.Chown(hdr.Uid, hdr.Gid); err != nil { // first: it clears set-ID bits and capabilities
		return err
	}
	if err := f.Chmod(uint32(hdr.Mode & 0o7777)); err != nil {
		return err
	}
	if err := setXattrs(f, hdr); err != nil {
		return err
	}
	return f.Utimes(hdr.ModTime, hdr.ModTime)
}

// copyFile copies to the end of r; it asks alive now and then whether to go on.
func copyFile(w io.Writer, r io.Reader, buf []byte, alive func() error) (int64, error) {
	var done int64
	for {
		n, err := r.Read(buf)
		if n > 0 {
			if _, werr := w.Write(buf[:n]); werr != nil {
				return done, werr
			}
			done += int64(n)
		}
		if err == io.EOF {
			return done, nil
		}
		if err == nil {
			err = alive()
		}
		if err != nil {
			return done, err
		}
	}
}

// mkdir makes a directory, or leaves the one that is there.
func (a *applier) mkdir(parent *sys.Folder, base string) error {
	err := parent.Mkdir(base, 0o700)
	if err == nil {
		a.stats.Inodes++
	}
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	st, err := parent.Lstat(base)
	if err != nil || st.Mode.IsDir() {
		return err
	}
	if err := a.replace(parent, base); err != nil {
		return err
	}
	return parent.Mkdir(base, 0o700)
}

// directory makes a directory, or gives the one that is there the new metadata.
func (a *applier) directory(parent *sys.Folder, name, base string, hdr *tar.Header, opaque bool) error {
	if err := a.mkdir(parent, base); err != nil {
		return layerPathError(err)
	}
	d, err := parent.Sub(base)
	if err != nil {
		return err
	}
	defer d.Close()
	if opaque {
		if err := d.Setxattr(xattrOpaque, []byte("y")); err != nil {
			return opaqueError(err)
		}
	}
	return a.dirMeta(d, name, hdr)
}

func (a *applier) dirMeta(d *sys.Folder, name string, hdr *tar.Header) error {
	if err := d.Chown(hdr.Uid, hdr.Gid); err != nil {
		return err
	}
	if err := d.Chmod(uint32(hdr.Mode & 0o7777)); err != nil {
		return err
	}
	if err := setXattrs(d, hdr); err != nil {
		return err
	}
	a.times = append(a.times, dirTime{name, hdr.ModTime})
	return a.remember(name)
}

// hardlink links base to what an earlier entry of this layer made. A symbolic link is linked itself.
func (a *applier) hardlink(parent *sys.Folder, name, base string, hdr *tar.Header) error {
	target, err := a.clean(hdr.Linkname)
	if err != nil {
		return fmt.Errorf("hard link to %q: %w", shorten(hdr.Linkname), err)
	}
	if target == name {
		return nil
	}
	missing := kind.Errorf(ErrLayer, "it is a hard link to %q, which this layer does not have", shorten(hdr.Linkname))
	if a.whiteouts[target] {
		return missing
	}
	dirName, oldBase := path.Split(target)
	old, err := a.root.InRoot(path.Clean("./" + dirName))
	if errors.Is(err, fs.ErrNotExist) {
		return missing
	}
	if err != nil {
		return layerPathError(err)
	}
	defer old.Close()
	st, err := old.Lstat(oldBase)
	if errors.Is(err, fs.ErrNotExist) {
		return missing
	}
	if err != nil {
		return err
	}
	if st.Mode.IsDir() {
		return kind.Errorf(ErrLayer, "it is a hard link to the directory %q", shorten(hdr.Linkname))
	}
	return parent.Link(old, oldBase, base)
}

// whiteout applies "dir/.wh.name" and its kin.
func (a *applier) whiteout(parent *sys.Folder, dirName, base string) error {
	if base == whiteoutOpaque {
		return opaqueError(parent.Setxattr(xattrOpaque, []byte("y")))
	}
	if strings.HasPrefix(base, whiteoutMeta) {
		return nil // AUFS kept books in such files; they mean nothing to anybody else
	}
	victim := strings.TrimPrefix(base, whiteoutPrefix)
	if victim == "" || victim == "." || victim == ".." {
		return kind.Errorf(ErrLayer, "it deletes %q", victim)
	}
	name := path.Join(dirName, victim)
	err := parent.Mknod(victim, sys.NodeChar, 0, 0)
	if errors.Is(err, fs.ErrExist) {
		return a.whiteoutOwn(parent, victim)
	}
	if err != nil {
		return layerPathError(err)
	}
	a.stats.Inodes++
	a.whiteouts[name] = true
	return a.remember(name)
}

// whiteoutOwn is a whiteout of a name that this layer has brought already: that stays. A file hides what
// is below anyway; a directory must be told to.
func (a *applier) whiteoutOwn(parent *sys.Folder, victim string) error {
	st, err := parent.Lstat(victim)
	if err != nil || !st.Mode.IsDir() {
		return err
	}
	d, err := parent.Sub(victim)
	if err != nil {
		return err
	}
	defer d.Close()
	return opaqueError(d.Setxattr(xattrOpaque, []byte("y")))
}

func opaqueError(err error) error {
	if errors.Is(err, sys.ErrNotSup) {
		return fmt.Errorf("the filesystem has no trusted extended attributes, which overlayfs needs; put the root directory on ext4, xfs or btrfs: %w", err)
	}
	return err
}

type xattrSetter interface {
	Setxattr(name string, value []byte) error
}

// setXattrs sets the attributes that a layer may have.
func setXattrs(x xattrSetter, hdr *tar.Header) error {
	for key, value := range hdr.PAXRecords {
		name, ok := strings.CutPrefix(key, "SCHILY.xattr.")
		if !ok || !allowedXattr(name) {
			continue
		}
		err := x.Setxattr(name, []byte(value))
		if errors.Is(err, sys.ErrNotSup) {
			continue // this filesystem has no such attributes, as tmpfs has no user.* on old kernels
		}
		if err != nil {
			return fmt.Errorf("set the attribute %s: %w", shorten(name), err)
		}
	}
	return nil
}

func allowedXattr(name string) bool {
	switch name {
	case "security.capability", "system.posix_acl_access", "system.posix_acl_default":
		return true
	}
	return strings.HasPrefix(name, "user.") && !strings.HasPrefix(name, "user.overlay.")
}
