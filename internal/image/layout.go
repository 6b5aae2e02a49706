package image

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/11f9778f/berth/internal/failpoint"
	"github.com/11f9778f/berth/internal/sys"
)

// layout knows where things are, and how a thing gets to its final name.
type layout struct {
	root      string // Config.Root
	images    string
	ingest    string
	trash     string
	snapshots string
	snapTrash string // on the filesystem of the snapshots
	seq       *atomic.Int64
}

func newLayout(root string) layout {
	images, snapshots := filepath.Join(root, "images"), filepath.Join(root, "snapshots")
	return layout{
		root: root, images: images, snapshots: snapshots,
		ingest: filepath.Join(images, "ingest"), trash: filepath.Join(images, "trash"),
		snapTrash: filepath.Join(snapshots, ".trash"), seq: new(atomic.Int64),
	}
}

func (l layout) blobs() string               { return filepath.Join(l.images, "blobs", "sha256") }
func (l layout) blob(d digest.Digest) string { return filepath.Join(l.blobs(), d.Encoded()) }
func (l layout) layers() string              { return filepath.Join(l.images, "layers") }
func (l layout) layer(diffID digest.Digest) string {
	return filepath.Join(l.layers(), diffID.Encoded())
}
func (l layout) layerFS(d digest.Digest) string { return filepath.Join(l.layer(d), "fs") }
func (l layout) index() string                  { return filepath.Join(l.images, "index.json") }
func (l layout) base() string                   { return filepath.Join(l.images, "base") }
func (l layout) snapshot(key string) string     { return filepath.Join(l.snapshots, key) }

// makeDirs makes the directories of the layout, all 0700: layers hold set-user-ID programs of strangers.
func (l layout) makeDirs() error {
	if err := os.MkdirAll(l.root, 0o700); err != nil {
		return err
	}
	for _, dir := range []string{l.images, filepath.Dir(l.blobs()), l.blobs(), l.layers(), l.signatures(), l.ingest, l.trash, l.snapshots, l.snapTrash} {
		if err := makeDir(dir, 0o700); err != nil {
			return err
		}
	}
	for _, dir := range []string{l.snapshots, l.ingest} { // where snapshots and layers are made
		if err := spread(dir); err != nil {
			return err
		}
	}
	if err := l.makeBase(); err != nil {
		return err
	}
	if exists(filepath.Join(l.images, ispec.ImageLayoutFile)) {
		return nil // this is not the first start, and has been done
	}
	for _, dir := range []string{filepath.Dir(l.blobs()), l.images, l.root, filepath.Dir(l.root)} {
		if err := syncDir(dir); err != nil {
			return err
		}
		if err := failpoint.Here("image/layout/synced"); err != nil {
			return err
		}
	}
	return nil
}

// spread lets the directories in dir lie apart from each other, where the filesystem can do that.
func spread(dir string) error {
	d, err := sys.OpenFolder(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	_ = d.SpreadSubdirs() // it is a wish
	return nil
}

// makeBase makes the layer that lies below those of every image: the places where every container has something
// mounted. An engine would make what an image lacks of them in each container's own layer, at an inode each.
func (l layout) makeBase() error {
	for _, dir := range []string{"", "dev", "etc", "proc", "sys"} {
		if err := makeDir(filepath.Join(l.base(), dir), 0o755); err != nil {
			return err
		}
	}
	for _, file := range []string{"hostname", "hosts", "resolv.conf"} {
		path := filepath.Join(l.base(), "etc", file)
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			return err
		}
		if err := os.Chmod(path, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// makeDir makes a directory with exactly this mode, or leaves the one that is there.
func makeDir(path string, mode os.FileMode) error {
	err := os.Mkdir(path, mode)
	if os.IsExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	return os.Chmod(path, mode)
}

// unique is a name in dir that no other call of this process returns.
func (l layout) unique(dir, prefix string) string {
	return filepath.Join(dir, prefix+"-"+strconv.Itoa(os.Getpid())+"-"+strconv.FormatInt(l.seq.Add(1), 10))
}

// place gives what is at from (whole, and synced as far as it matters) its final name, durably. point
// names the failpoints around it.
func place(from, to, point string) error {
	if err := failpoint.Here(point + "/before"); err != nil {
		return err
	}
	if err := os.Rename(from, to); err != nil {
		return err
	}
	if err := failpoint.Here(point + "/renamed"); err != nil {
		return err
	}
	if err := syncDir(filepath.Dir(to)); err != nil {
		return err
	}
	return failpoint.Here(point + "/after")
}

func syncDir(path string) error {
	d, err := sys.OpenFolder(path)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", path, err)
	}
	return nil
}

// writeFile replaces the file at path by data as a whole: the old or the new content is there, whenever
// the power goes.
func (l layout) writeFile(path string, data []byte, point string) error {
	tmp := l.unique(l.ingest, filepath.Base(path))
	if err := writeSynced(tmp, data); err != nil {
		os.Remove(tmp)
		return err
	}
	if err := place(tmp, path, point); err != nil {
		os.Remove(tmp)
		return err
	}
	return nil
}

func writeSynced(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(data[:len(data)/2]); err != nil {
		return err
	}
	if err := failpoint.Here("image/write/half"); err != nil {
		return err
	}
	if _, err := f.Write(data[len(data)/2:]); err != nil {
		return err
	}
	if err := failpoint.Here("image/write/unsynced"); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return failpoint.Here("image/write/synced")
}

// readJSON reads a file of our own making.
func readJSON(path string, v any) error {
	b, err := readLimited(path, 64<<20)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}

// readLimited reads a file of at most limit bytes.
func readLimited(path string, limit int64) ([]byte, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if fi.Size() > limit {
		return nil, fmt.Errorf("read %s: it has %d bytes, more than %d", path, fi.Size(), limit)
	}
	return os.ReadFile(path)
}

// bootID tells this boot of the machine from others.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return string(b[:max(0, len(b)-1)])
}
