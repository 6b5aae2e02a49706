package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/11f9778f/berth/internal/failpoint"
	"github.com/11f9778f/berth/internal/image/kind"
	"github.com/11f9778f/berth/internal/image/unpack"
	"github.com/11f9778f/berth/internal/sys"
	"github.com/11f9778f/berth/internal/trace"
)

// snapshotFile is snapshots/<key>/snapshot.json. It is not synced: a container does not outlive its boot.
type snapshotFile struct {
	Namespace string          `json:"namespace,omitempty"` // of the image; "" is DefaultNamespace
	Image     digest.Digest   `json:"image"`
	Layers    []digest.Digest `json:"layers"` // the lowest first
	Boot      string          `json:"boot"`
	Copied    bool            `json:"copied,omitempty"` // upper/ holds all of the image
}

const snapshotFileName = "snapshot.json"

// checkOverlay says whether the kernel has overlayfs. Without it containers get copies.
func checkOverlay() error {
	err := failpoint.Here("image/overlay")
	if err == nil {
		err = sys.HasOverlay()
	}
	if err != nil {
		return kind.Errorf(ErrNoOverlay, "this kernel does not have it (%w); load the module with \"modprobe overlay\", or use a kernel with CONFIG_OVERLAY_FS", err)
	}
	return nil
}

// validKey keeps keys to one path component of harmless characters.
func validKey(key string) error {
	ok := key != "" && len(key) <= 200 && key[0] != '.' && strings.IndexFunc(key, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_.-", r))
	}) < 0
	if !ok {
		return fmt.Errorf("the snapshot key %q must have letters, digits, and after the first also _ . - only", key)
	}
	return nil
}

// Prepare makes the writable root filesystem called key, of this namespace, on top of img, and says how to mount it. Called
// again with the same key and image it returns the same. What was written survives until RemoveRootfs,
// and not the machine's restart: it is mounted "volatile".
func (s *Store) Prepare(ctx context.Context, key string, img *Image) (Rootfs, error) {
	return s.PrepareLimited(ctx, key, img, Limit{})
}

// PrepareLimited is Prepare with a limit of what may be written, beside Config.WritableLimit: the lower one counts. It is
// that of the first call; a limit that can't be held is ErrNoLimit.
func (s *Store) PrepareLimited(ctx context.Context, key string, img *Image, limit Limit) (Rootfs, error) {
	if err := s.gate.enter(); err != nil {
		return Rootfs{}, err
	}
	defer s.gate.calls.Done()
	defer trace.Start(ctx, "image.prepare")()
	if err := validKey(key); err != nil {
		return Rootfs{}, err
	}
	sn, err := s.claim(ctx, key, img)
	if err == nil {
		err = s.makeSnapshot(ctx, key, sn, img, limit)
	}
	if err != nil {
		s.unclaim(key, sn)
		return Rootfs{}, fmt.Errorf("prepare the root filesystem %s: %w", key, s.remedy(err))
	}
	project := s.project(s.snapshot(key))
	s.mu.Lock()
	sn.project = project
	s.mu.Unlock()
	s.touch(img.ID)
	return s.rootfs(key, sn), nil
}

// claim makes sure that img's layers are here and that key keeps them here.
func (s *Store) claim(ctx context.Context, key string, img *Image) (*snapshot, error) {
	sn := &snapshot{namespace: s.namespace, image: img.ID}
	for _, l := range img.Layers {
		sn.layers = append(sn.layers, l.DiffID)
	}
	s.mu.Lock()
	old, ok := s.snaps[key]
	if ok && old.image != "" && old.image != img.ID {
		s.mu.Unlock()
		return nil, fmt.Errorf("it is in use with the image %s", old.image)
	}
	if ok && old.namespace != s.namespace {
		s.mu.Unlock()
		return nil, fmt.Errorf("it is in use in the namespace %s", old.namespace)
	}
	s.snaps[key] = sn // from here on the layers stay
	var missing []Layer
	for _, l := range img.Layers {
		if _, here := s.layerRecs[l.DiffID]; !here {
			missing = append(missing, l)
		}
	}
	s.mu.Unlock()
	if len(missing) == 0 {
		return sn, nil
	}
	defer s.lease(img.digests()...)()
	return sn, s.ensureLayers(ctx, missing, nil, nil)
}

// unclaim forgets a key that has nothing on the disk, if it is still what claim has made of it: another call may have
// the key.
func (s *Store) unclaim(key string, sn *snapshot) {
	if exists(s.snapshot(key)) {
		return
	}
	s.mu.Lock()
	if s.snaps[key] == sn {
		delete(s.snaps, key)
	}
	s.mu.Unlock()
	wake(s.settle)
}

func (i *Image) digests() []digest.Digest {
	ds := []digest.Digest{i.ID, i.Manifest}
	for _, l := range i.Layers {
		ds = append(ds, l.Blob.Digest, l.DiffID)
	}
	return ds
}

// makeSnapshot makes the directories of key, or fits those that are there for another mount.
func (s *Store) makeSnapshot(ctx context.Context, key string, sn *snapshot, img *Image, limit Limit) error {
	path := s.snapshot(key)
	var f snapshotFile
	err := readJSON(filepath.Join(path, snapshotFileName), &f)
	switch {
	case err == nil && f.Boot == s.boot && f.Image == sn.image && f.Copied:
		sn.copied = true
		return nil
	case err == nil && f.Boot == s.boot && f.Image == sn.image:
		return s.reuse(path)
	case !isNotExist(err) || exists(path):
		// Of another boot, or cut off by a power loss: whatever was in it is gone.
		if err := s.discard(path, s.snapTrash); err != nil {
			return err
		}
		wake(s.sweep)
	}
	tmp := s.unique(s.snapshots, ".new-"+key)
	if err := s.fillSnapshot(ctx, tmp, sn, img, limit); err != nil {
		s.abandon(tmp)
		return err
	}
	if err := failpoint.Here("image/snapshot/before"); err != nil {
		s.abandon(tmp)
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		s.abandon(tmp)
		if exists(filepath.Join(path, snapshotFileName)) {
			return nil // another call of Prepare was faster
		}
		return err
	}
	return failpoint.Here("image/snapshot/after")
}

func (s *Store) abandon(tmp string) {
	if err := s.discard(tmp, s.snapTrash); err != nil {
		s.log.Warn("a half-made snapshot stays until the next start", "path", tmp, "err", err)
	}
	wake(s.sweep)
}

func (s *Store) fillSnapshot(ctx context.Context, tmp string, sn *snapshot, img *Image, limit Limit) error {
	sn.copied = s.overlay() != nil
	if sn.copied || !s.takeBlank(tmp) {
		if err := s.makeBlank(tmp); err != nil {
			return err
		}
	}
	if err := failpoint.Here("image/snapshot/dirs"); err != nil {
		return err
	}
	if sn.copied {
		if err := s.copyImage(ctx, filepath.Join(tmp, "upper"), img); err != nil {
			return err
		}
	}
	if err := s.confine(tmp, limit, sn.copied); err != nil {
		return err
	}
	if err := failpoint.Here("image/snapshot/limited"); err != nil {
		return err
	}
	b, err := json.Marshal(snapshotFile{Namespace: sn.namespace, Image: sn.image, Layers: sn.layers, Boot: s.boot, Copied: sn.copied})
	if err != nil {
		return err
	}
	return writeOver(filepath.Join(tmp, snapshotFileName), b)
}

// writeOver writes a file that may be there. It does not empty it first: ext4 would write such a file out to the disk
// when it is closed.
func writeOver(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Truncate(int64(len(b))), f.Close())
}

// reuse removes the mark that a volatile overlay leaves and that forbids the next mount: it is there for
// machines that went down, and this is still the same boot. An overlay that is mounted does not mind.
func (s *Store) reuse(path string) error {
	dir, err := sys.OpenFolder(filepath.Join(path, "work"))
	if err != nil {
		return err
	}
	defer dir.Close()
	incompat, err := dir.Beneath("work/incompat")
	if isNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer incompat.Close()
	return incompat.RemoveAll(s.life, "volatile")
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// rootfs says how to mount a snapshot.
func (s *Store) rootfs(key string, sn *snapshot) Rootfs {
	path := s.snapshot(key)
	r := Rootfs{Upper: filepath.Join(path, "upper"), Work: filepath.Join(path, "work")}
	if sn.copied {
		r.Lower = []string{r.Upper}
		r.Mounts = []Mount{{Type: "bind", Source: r.Upper, Options: []string{"rbind", "rw"}}}
		return r
	}
	for _, d := range slices.Backward(sn.layers) {
		// A layer that an image has twice counts where it is topmost; overlayfs refuses doubles.
		if fs := s.layerFS(d); !slices.Contains(r.Lower, fs) {
			r.Lower = append(r.Lower, fs)
		}
	}
	r.Lower = append(r.Lower, s.base())
	options := []string{"lowerdir=" + strings.Join(r.Lower, ":"), "upperdir=" + r.Upper, "workdir=" + r.Work, "index=off"}
	if sys.KernelAtLeast(5, 10) {
		options = append(options, "volatile")
	}
	r.Mounts = []Mount{{Type: "overlay", Source: "overlay", Options: options}}
	return r
}

// FillRootfs applies a layer, an uncompressed tar with whiteouts, to what Prepare made and nobody has mounted yet. The
// layer is taken for hostile, as those of images are. After an error the root filesystem is of no use.
func (s *Store) FillRootfs(ctx context.Context, key string, layer io.Reader) error {
	if err := s.gate.enter(); err != nil {
		return err
	}
	defer s.gate.calls.Done()
	if err := validKey(key); err != nil {
		return err
	}
	if _, err := unpack.Apply(ctx, filepath.Join(s.snapshot(key), "upper"), layer, s.cfg.Limits); err != nil {
		return fmt.Errorf("fill the root filesystem %s: %w", key, s.remedy(s.full(key, err)))
	}
	return nil
}

// RemoveRootfs removes what Prepare made. It must not be mounted any more. The files go in the
// background, over restarts of the process. What is not there is no error.
func (s *Store) RemoveRootfs(ctx context.Context, key string) error {
	if err := s.gate.enter(); err != nil {
		return err
	}
	defer s.gate.calls.Done()
	defer trace.Start(ctx, "image.remove-rootfs")()
	if err := validKey(key); err != nil {
		return err
	}
	if err := s.discard(s.snapshot(key), s.snapTrash); err != nil {
		return fmt.Errorf("remove the root filesystem %s: %w", key, s.remedy(err))
	}
	s.mu.Lock()
	_, ok := s.snaps[key]
	delete(s.snaps, key)
	s.mu.Unlock()
	if ok {
		wake(s.sweep)
		wake(s.settle)
	}
	return nil
}

// Rootfses returns the keys of all root filesystems, sorted.
func (s *Store) Rootfses() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.snaps))
}

func notHere(key string) error {
	return kind.Errorf(ErrNotFound, "there is no root filesystem %s", key)
}

// Usage is what a container has written into its root filesystem, measured now, file by file.
func (s *Store) Usage(ctx context.Context, key string) (Usage, error) {
	if err := validKey(key); err != nil {
		return Usage{}, err
	}
	d, err := sys.OpenFolder(filepath.Join(s.snapshot(key), "upper"))
	if isNotExist(err) {
		return Usage{}, notHere(key)
	}
	if err != nil {
		return Usage{}, err
	}
	defer d.Close()
	bytes, inodes, err := d.DiskUsage(ctx)
	if err != nil {
		return Usage{}, fmt.Errorf("measure the root filesystem %s: %w", key, err)
	}
	return Usage{Bytes: bytes, Inodes: inodes}, nil
}

// firstMeasure is how long FSInfo waits for layers that were never measured.
const firstMeasure = 250 * time.Millisecond

// FSInfo measures the filesystem of the images and that of the containers' writable layers, of which it
// sums what KnownUsage knows. What was removed counts until its bytes are gone.
func (s *Store) FSInfo(ctx context.Context) (images, snapshots FSInfo, err error) {
	if images, err = fsInfo(s.images); err != nil {
		return
	}
	if snapshots, err = fsInfo(s.snapshots); err != nil {
		return
	}
	s.mu.Lock()
	for _, size := range s.blobs {
		images.Used.Bytes += size
		images.Used.Inodes++
	}
	for _, l := range s.layerRecs {
		images.Used.add(l.usage)
	}
	images.Used.add(s.inTrash(s.trash))
	snapshots.Used.add(s.inTrash(s.snapTrash))
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, firstMeasure)
	defer cancel()
	for _, key := range s.Rootfses() {
		u, _, err := s.KnownUsage(ctx, key)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return images, snapshots, err
		}
		snapshots.Used.add(u)
	}
	return images, snapshots, nil
}

func fsInfo(path string) (FSInfo, error) {
	d, err := sys.OpenFolder(path)
	if err != nil {
		return FSInfo{}, err
	}
	defer d.Close()
	sp, err := d.Space()
	if err != nil {
		return FSInfo{}, fmt.Errorf("measure %s: %w", path, err)
	}
	return FSInfo{Path: path, Capacity: sp.Bytes, Available: sp.BytesFree, Inodes: sp.Inodes, InodesFree: sp.InodesFree, Time: time.Now()}, nil
}
