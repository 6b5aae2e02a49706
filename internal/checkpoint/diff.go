package checkpoint

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
)

// What overlayfs keeps in a writable layer (kernel: Documentation/filesystems/overlayfs.rst), and what an image's
// layer says instead (image-spec layer.md, Whiteouts).
const (
	overlayAttributes = "trusted.overlay."
	overlayOpaque     = overlayAttributes + "opaque"
	whiteout          = ".wh."
	whiteoutOpaque    = ".wh..wh..opq"
)

// maxAttributes bounds the names, and the value, of a file's extended attributes in bytes, as the kernel does.
const maxAttributes = 64 << 10

// Diff writes the writable layer of an overlay mount as a layer of an image. Sockets are left out, for nothing could
// listen to them. Nobody should change the layer meanwhile: a file that shrinks ends it with an error.
func Diff(ctx context.Context, w io.Writer, upper string) error {
	root, err := os.OpenRoot(upper)
	if err != nil {
		return fmt.Errorf("open writable layer: %w", err)
	}
	defer root.Close()
	d := &differ{ctx: ctx, root: root, tw: tar.NewWriter(w), links: map[[2]uint64]string{}}
	if err := d.folder("."); err != nil {
		return fmt.Errorf("write writable layer: %w", err)
	}
	return d.tw.Close()
}

type differ struct {
	ctx   context.Context
	root  *os.Root
	tw    *tar.Writer
	links map[[2]uint64]string // where a file of several names was written
}

// folder writes what is in a folder.
func (d *differ) folder(name string) error {
	f, err := d.root.Open(name)
	if err != nil {
		return err
	}
	entries, err := f.ReadDir(-1)
	f.Close()
	if err != nil {
		return err
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	for _, e := range entries {
		if err := d.ctx.Err(); err != nil {
			return err
		}
		if err := d.node(path.Join(name, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

func (d *differ) node(name string) error {
	info, err := d.root.Lstat(name)
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("%s: no Linux file", name)
	}
	if info.Mode()&fs.ModeCharDevice != 0 && st.Rdev == 0 {
		return d.tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: path.Join(path.Dir(name), whiteout+path.Base(name))})
	}
	if info.Mode()&fs.ModeSocket != 0 {
		return nil
	}
	link := ""
	if info.Mode()&fs.ModeSymlink != 0 {
		if link, err = d.root.Readlink(name); err != nil {
			return err
		}
	}
	hdr, err := tar.FileInfoHeader(info, link)
	if err != nil {
		return err
	}
	// Names of users are the host's; access times are nobody's.
	hdr.Name, hdr.Uname, hdr.Gname, hdr.AccessTime, hdr.ChangeTime, hdr.Format = name, "", "", hdr.ModTime, hdr.ModTime, tar.FormatPAX
	if info.IsDir() {
		return d.subfolder(hdr)
	}
	key := [2]uint64{st.Dev, st.Ino}
	if first, ok := d.links[key]; ok {
		hdr.Typeflag, hdr.Linkname, hdr.Size = tar.TypeLink, first, 0
		return d.tw.WriteHeader(hdr)
	}
	if st.Nlink > 1 {
		d.links[key] = name
	}
	if info.Mode().IsRegular() {
		return d.file(hdr)
	}
	return d.tw.WriteHeader(hdr)
}

func (d *differ) subfolder(hdr *tar.Header) error {
	f, err := d.root.Open(hdr.Name)
	if err != nil {
		return err
	}
	opaque, err := attributes(f, hdr)
	f.Close()
	if err != nil {
		return err
	}
	name := hdr.Name
	hdr.Name += "/"
	if err := d.tw.WriteHeader(hdr); err != nil {
		return err
	}
	if opaque {
		if err := d.tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: path.Join(name, whiteoutOpaque)}); err != nil {
			return err
		}
	}
	return d.folder(name)
}

func (d *differ) file(hdr *tar.Header) error {
	f, err := d.root.OpenFile(hdr.Name, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := attributes(f, hdr); err != nil {
		return err
	}
	if err := d.tw.WriteHeader(hdr); err != nil {
		return err
	}
	if _, err := io.CopyN(d.tw, reader{d.ctx, f}, hdr.Size); err != nil {
		return fmt.Errorf("%s: %w", hdr.Name, err)
	}
	return nil
}

// attributes takes over a file's extended attributes but overlayfs's own, which it interprets.
func attributes(f *os.File, hdr *tar.Header) (opaque bool, err error) {
	proc := fmt.Sprintf("/proc/self/fd/%d", f.Fd())
	names := make([]byte, maxAttributes)
	n, err := syscall.Listxattr(proc, names)
	if err == syscall.ENOTSUP {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("%s: list extended attributes: %w", hdr.Name, err)
	}
	value := make([]byte, maxAttributes)
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names[:n]), "\x00"), "\x00") {
		if name == "" {
			continue
		}
		n, err := syscall.Getxattr(proc, name, value)
		if err != nil {
			return false, fmt.Errorf("%s: read extended attribute %s: %w", hdr.Name, name, err)
		}
		if name == overlayOpaque {
			opaque = string(value[:n]) == "y"
		}
		if strings.HasPrefix(name, overlayAttributes) {
			continue
		}
		if hdr.PAXRecords == nil {
			hdr.PAXRecords = map[string]string{}
		}
		hdr.PAXRecords["SCHILY.xattr."+name] = string(value[:n])
	}
	return opaque, nil
}

// reader ends a copy with its context.
type reader struct {
	ctx context.Context
	r   io.Reader
}

func (r reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}
