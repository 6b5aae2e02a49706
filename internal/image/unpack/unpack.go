package unpack

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"sync"

	"github.com/11f9778f/berth/internal/image/kind"
	"github.com/11f9778f/berth/internal/sys"
)

// Errors about what a layer holds wrap ErrLayer; errors of the disk do not.
var (
	// ErrLayer is a layer that is broken or hostile.
	ErrLayer = errors.New("bad layer")
	// ErrLimit is a layer beyond the limits. It is an ErrLayer too.
	ErrLimit = fmt.Errorf("%w: over the limit", ErrLayer)
)

// Stats is what one layer brought.
type Stats struct {
	Entries int64 // entries of the tar
	Bytes   int64 // sum of the sizes of regular files
	Inodes  int64 // inodes that are there now, with the directory itself
	// DiskBytes estimates what they take on a disk: a block for each entry, sizes rounded up to blocks.
	DiskBytes int64
}

const (
	whiteoutPrefix = ".wh."
	whiteoutMeta   = ".wh..wh."
	whiteoutOpaque = ".wh..wh..opq"

	xattrOpaque = "trusted.overlay.opaque"

	blockSize = 4096

	// maxMemory bounds the names that are kept while a layer is unpacked.
	maxMemory = 256 << 20
)

// Apply unpacks the tar in r into the directory dir. It reads r up to the end-of-archive mark; the
// caller drains the rest if it wants the stream's digest. After an error dir is of no use.
func Apply(ctx context.Context, dir string, r io.Reader, limits Limits) (Stats, error) {
	a, err := newApplier(ctx, dir, limits)
	if err != nil {
		return Stats{}, err
	}
	defer a.close()
	return a.apply(r)
}

func newApplier(ctx context.Context, dir string, limits Limits) (*applier, error) {
	root, err := sys.OpenFolder(dir)
	if err != nil {
		return nil, err
	}
	a := &applier{
		ctx:       ctx,
		root:      root,
		limits:    limits.withDefaults(),
		stats:     Stats{Inodes: 1},
		whiteouts: map[string]bool{},
	}
	a.dirs = dirCache{root: root, made: &a.stats.Inodes}
	return a, nil
}

func (a *applier) apply(r io.Reader) (Stats, error) {
	if err := a.run(tar.NewReader(&limitedReader{r: r, left: a.limits.Bytes})); err != nil {
		return a.stats, err
	}
	if a.replaced {
		var err error
		if _, a.stats.Inodes, err = a.root.DiskUsage(a.ctx); err != nil {
			return a.stats, err
		}
	}
	return a.stats, a.setDirTimes()
}

// applier is one run of Apply.
type applier struct {
	ctx    context.Context
	root   *sys.Folder
	limits Limits
	stats  Stats
	dirs   dirCache
	// times are the directories' modification times: set at the end, as every entry changes its
	// parent's.
	times []dirTime
	// whiteouts are the paths that a ".wh." entry has deleted: the same layer may still bring them.
	whiteouts map[string]bool
	// merging says that the lower layers are in the directory already, and what the layer deletes is gone.
	merging bool
	// replaced says that something was removed again, so that the inodes have to be counted.
	replaced bool
	// memory estimates what times and whiteouts take.
	memory int64
}

func (a *applier) close() {
	a.dirs.clear()
	a.root.Close()
}

func (a *applier) run(tr *tar.Reader) error {
	for {
		if err := a.ctx.Err(); err != nil {
			return err
		}
		hdr, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return tarError(err)
		}
		a.stats.Entries++
		a.stats.DiskBytes += blockSize
		if a.stats.Entries > a.limits.Entries {
			return kind.Errorf(ErrLimit, "it has more than %d entries", a.limits.Entries)
		}
		if err := a.entry(hdr, tr); err != nil {
			return fmt.Errorf("entry %q: %w", shorten(hdr.Name), err)
		}
	}
}

// tarError marks what the parser says about the stream, and leaves errors of the stream alone.
func tarError(err error) error {
	if errors.Is(err, tar.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, tar.ErrFieldTooLong) {
		return kind.Errorf(ErrLayer, "it is not a whole tar archive (%w)", err)
	}
	return err
}

// shorten keeps a hostile name from filling the message.
func shorten(name string) string {
	if len(name) > 200 {
		return name[:200] + "…"
	}
	return name
}

// entry applies one entry.
func (a *applier) entry(hdr *tar.Header, content io.Reader) error {
	switch hdr.Typeflag {
	case tar.TypeXGlobalHeader:
		return nil
	case tar.TypeReg, tar.TypeDir, tar.TypeSymlink, tar.TypeLink, tar.TypeChar, tar.TypeBlock, tar.TypeFifo, tar.TypeGNUSparse, tar.TypeCont:
	default:
		return kind.Errorf(ErrLayer, "its type %q is unknown", hdr.Typeflag)
	}
	name, err := a.clean(hdr.Name)
	if err != nil {
		return err
	}
	if err := checkOwner(hdr); err != nil {
		return err
	}
	if name == "." {
		if hdr.Typeflag != tar.TypeDir {
			return kind.Errorf(ErrLayer, "the root must be a directory")
		}
		return a.dirMeta(a.root, ".", hdr)
	}
	for try := 0; ; try++ {
		err := a.place(name, hdr, content)
		if err != errRetry || try == 2 {
			return err
		}
	}
}

// place resolves the entry's parent and makes the entry in it; errRetry where the parent has to be
// resolved again.
func (a *applier) place(name string, hdr *tar.Header, content io.Reader) error {
	dirName, base := path.Split(name)
	dirName = path.Clean(dirName)
	if a.merging && strings.HasPrefix(base, whiteoutPrefix) {
		return nil
	}
	parent, err := a.dirs.open(dirName)
	if err != nil {
		return layerPathError(err)
	}
	if strings.HasPrefix(base, whiteoutPrefix) {
		return a.whiteout(parent, dirName, base)
	}
	return a.node(parent, name, base, hdr, content)
}

// remember accounts for a name that has to be kept until the end.
func (a *applier) remember(name string) error {
	a.memory += int64(len(name)) + 64
	if a.memory > maxMemory {
		return kind.Errorf(ErrLimit, "the names of its directories are too long in sum")
	}
	return nil
}

// clean makes a name relative to the root. What would leave the root is refused even though the kernel
// would keep it inside: an honest layer has no such name.
func (a *applier) clean(name string) (string, error) {
	if strings.IndexByte(name, 0) >= 0 {
		return "", kind.Errorf(ErrLayer, "its name has a NUL byte")
	}
	clean := path.Clean(strings.TrimLeft(name, "/"))
	if clean == ".." || strings.HasPrefix(clean, "../") {
		return "", kind.Errorf(ErrLayer, "it would be outside of the image")
	}
	if depth := strings.Count(clean, "/") + 1; depth > a.limits.Depth {
		return "", kind.Errorf(ErrLimit, "it is %d directories deep, %d are allowed", depth, a.limits.Depth)
	}
	if len(clean) >= 4096 { // PATH_MAX
		return "", kind.Errorf(ErrLimit, "its name is too long")
	}
	return clean, nil
}

// checkOwner keeps an owner from wrapping around to root. The value 1<<32 - 1 means "leave as it is" to chown(2).
func checkOwner(hdr *tar.Header) error {
	const top = 1<<32 - 1
	if uint64(hdr.Uid) >= top || uint64(hdr.Gid) >= top {
		return kind.Errorf(ErrLayer, "its owner %d:%d does not exist on Linux", hdr.Uid, hdr.Gid)
	}
	return nil
}

// layerPathError tells what the layer did wrong from what the disk did.
func layerPathError(err error) error {
	switch {
	case errors.Is(err, sys.ErrNotDir):
		return kind.Errorf(ErrLayer, "its path goes through something that is no directory")
	case errors.Is(err, sys.ErrLoop):
		return kind.Errorf(ErrLayer, "its path goes through too many symbolic links")
	case errors.Is(err, sys.ErrTooLong):
		return kind.Errorf(ErrLimit, "its name is too long")
	}
	return err
}

// setDirTimes sets the directories' times, the last said of each.
func (a *applier) setDirTimes() error {
	for _, t := range a.times {
		d, err := a.root.Beneath(t.path)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, sys.ErrLoop) || errors.Is(err, sys.ErrNotDir) {
			continue // a later entry replaced it
		}
		if err != nil {
			return err
		}
		err = d.Utimes(t.mtime, t.mtime)
		d.Close()
		if err != nil {
			return fmt.Errorf("set the times of %s: %w", t.path, err)
		}
	}
	return nil
}

// limitedReader refuses to deliver more than left bytes.
type limitedReader struct {
	r    io.Reader
	left int64
}

func (l *limitedReader) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	l.left -= int64(n)
	if l.left < 0 {
		return 0, kind.Errorf(ErrLimit, "it is larger than allowed when unpacked")
	}
	return n, err
}

// buffers are for copying file contents.
var buffers = sync.Pool{New: func() any { b := make([]byte, 256<<10); return &b }}
