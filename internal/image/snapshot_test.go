package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

func put(t testing.TB, s *Store, img v1.Image) *Image {
	t.Helper()
	i, err := s.Put(context.Background(), "berth.local/test:latest", img)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// mounted mounts a root filesystem as an engine would, until the test's end or the call of the function.
func mounted(t *testing.T, r Rootfs) (string, func()) {
	t.Helper()
	dir := t.TempDir()
	m := r.Mounts[0]
	if err := syscall.Mount(m.Source, dir, m.Type, 0, strings.Join(m.Options, ",")); err != nil {
		t.Fatalf("mount %v: %v", m.Options, err)
	}
	done := false
	umount := func() {
		if !done {
			done = true
			if err := syscall.Unmount(dir, 0); err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(umount)
	return dir, umount
}

func TestOverlay(t *testing.T) {
	s := openStore(t, nil)
	ctx := context.Background()
	img := put(t, s, simple(t))
	r, err := s.Prepare(ctx, "c1", img)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Lower) != 4 || r.Upper == "" || r.Work == "" {
		t.Errorf("%+v", r)
	}
	dir, umount := mounted(t, r)
	for name, want := range map[string]string{"etc/passwd": "root:x:0:0::/:/bin/sh\n", "etc/group": "root:x:0:\n", "dir/above": "3"} {
		if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(b) != want {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
	for _, name := range []string{"gone", "dir/below"} {
		if _, err := os.Lstat(filepath.Join(dir, name)); !os.IsNotExist(err) {
			t.Errorf("%s shows through its deletion: %v", name, err)
		}
	}
	if err := os.WriteFile(dir+"/etc/passwd", []byte(strings.Repeat("x", 100_000)), 0o644); err != nil {
		t.Fatal(err)
	}
	if u, err := s.Usage(ctx, "c1"); err != nil || u.Bytes < 100_000 || u.Bytes > 200_000 || u.Inodes != 3 {
		t.Errorf("%+v, %v", u, err)
	}
	// Again while it is mounted, and after a crash of whoever had it mounted.
	again, err := s.Prepare(ctx, "c1", img)
	if err != nil || fmt.Sprint(again) != fmt.Sprint(r) {
		t.Errorf("%+v, %v", again, err)
	}
	if err := os.WriteFile(dir+"/etc/group", []byte("copied up after Prepare"), 0o644); err != nil {
		t.Error(err)
	}
	umount()
	if _, err := s.Prepare(ctx, "c1", img); err != nil {
		t.Fatal(err)
	}
	dir, umount = mounted(t, r)
	if b, _ := os.ReadFile(dir + "/etc/group"); string(b) != "copied up after Prepare" {
		t.Errorf("lost: %q", b)
	}
	umount()
	if b, err := s.ReadFile(ctx, img, "/etc/passwd", 1000); err != nil || string(b) != "root:x:0:0::/:/bin/sh\n" {
		t.Errorf("the container changed the image: %q %v", b, err)
	}
	images, snaps, err := s.FSInfo(ctx)
	if err != nil || images.Used.Bytes == 0 || images.Capacity == 0 || snaps.Used.Bytes < 100_000 {
		t.Errorf("%+v %+v %v", images, snaps, err)
	}
}

// The image can go, its layers stay until the container has gone.
func TestLayersInUse(t *testing.T) {
	s := openStore(t, nil)
	ctx := context.Background()
	img := put(t, s, simple(t))
	r, err := s.Prepare(ctx, "c1", img)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(ctx, img.ID.String()); err != nil {
		t.Fatal(err)
	}
	if err := s.collect(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(r.Lower[0]); err != nil {
		t.Errorf("a layer in use was collected: %v", err)
	}
	if got := s.Rootfses(); len(got) != 1 || got[0] != "c1" {
		t.Errorf("%v", got)
	}
	for range 2 {
		if err := s.RemoveRootfs(ctx, "c1"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Usage(ctx, "c1"); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	checkEmpty(t, s)
}

func TestManyLayers(t *testing.T) {
	s := openStore(t, nil)
	var layers []v1.Layer
	for i := range 60 {
		layers = append(layers, layer(t, file{name: fmt.Sprint("f", i), body: fmt.Sprint(i)}, file{name: "top", body: fmt.Sprint(i)}))
	}
	img := put(t, s, build(t, machine(), layers...))
	r, err := s.Prepare(context.Background(), "c", img)
	if err != nil || len(r.Lower) != 61 || len(r.Mounts[0].Options[0]) < 4096 {
		t.Fatalf("%d lower directories, %v", len(r.Lower), err)
	}
	if b, err := s.ReadFile(context.Background(), img, "top", 10); err != nil || string(b) != "59" {
		t.Errorf("%q %v", b, err)
	}
	if b, err := os.ReadFile(r.Lower[0] + "/top"); err != nil || string(b) != "59" {
		t.Errorf("the topmost layer is not the first: %q %v", b, err)
	}
}

func TestPrepareErrors(t *testing.T) {
	s := openStore(t, nil)
	ctx := context.Background()
	img := put(t, s, simple(t))
	for _, key := range []string{"", "..", "a/b", ".hidden", "a\x00b", strings.Repeat("k", 300), "a:b"} {
		if _, err := s.Prepare(ctx, key, img); err == nil {
			t.Errorf("the key %q was taken", key)
		}
		if err := s.RemoveRootfs(ctx, key); err == nil {
			t.Errorf("the key %q was taken", key)
		}
	}
	if _, err := s.Prepare(ctx, "c", img); err != nil {
		t.Fatal(err)
	}
	other := put(t, s, build(t, machine(), layer(t, file{name: "x"})))
	if _, err := s.Prepare(ctx, "c", other); err == nil {
		t.Error("a key served two images")
	}
	gone := *other
	gone.Layers = []Layer{{Blob: img.Layers[0].Blob, DiffID: "sha256:" + "00" + img.ID[9:]}}
	gone.Layers[0].Blob.Digest = gone.Layers[0].DiffID
	if _, err := s.Prepare(ctx, "d", &gone); !errors.Is(err, ErrNotFound) {
		t.Errorf("a lost layer: %v", err)
	}
	if got := s.Rootfses(); len(got) != 1 {
		t.Errorf("%v", got)
	}
}

func TestNoOverlaySentence(t *testing.T) {
	if err := checkOverlay(); err != nil && !strings.Contains(err.Error(), "modprobe overlay") {
		t.Error(err)
	}
}

// A layer that a power cut (another boot) met before it was synced is unpacked again from its blob.
func TestLayersNotSynced(t *testing.T) {
	root := t.TempDir()
	s := openAt(t, root, nil)
	img := put(t, s, simple(t))
	if _, err := s.Prepare(context.Background(), "c", img); err != nil {
		t.Fatal(err)
	}
	upper := filepath.Join(s.snapshot("c"), "upper", "written")
	os.WriteFile(upper, []byte("x"), 0o600)
	s.Close()
	for i, l := range img.Layers {
		os.Remove(filepath.Join(s.layer(l.DiffID), syncedFileName))
		if i == 0 { // what ext4 may leave of a file that was not synced
			os.Truncate(filepath.Join(s.layer(l.DiffID), layerFileName), 0)
		}
	}
	c := Config{Root: root, Retry: quick}
	s, err := newStore(c)
	if err != nil {
		t.Fatal(err)
	}
	s.boot = "another boot"
	if err := s.load(); err != nil {
		t.Fatal(err)
	}
	s.workers.Go(s.sweeper)
	s.workers.Go(s.settler)
	defer s.Close()
	if len(s.layerRecs) != 0 {
		t.Errorf("%d layers were trusted", len(s.layerRecs))
	}
	img, err = s.Get(img.ID.String())
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.Prepare(context.Background(), "c", img)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(r.Lower[2] + "/etc/passwd"); err != nil || len(b) == 0 {
		t.Errorf("%q %v", b, err)
	}
	if exists(upper) {
		t.Error("the container's files of another boot are still there")
	}
	settled(t, s)
}

func TestIndexLost(t *testing.T) {
	for name, content := range map[string]string{"empty": "", "garbage": "{]"} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			s := openAt(t, root, nil)
			img := put(t, s, simple(t))
			s.Close()
			os.WriteFile(s.index(), []byte(content), 0o600)
			s = openAt(t, root, nil)
			defer s.Close()
			got, err := s.Get(img.ID.String())
			if err != nil || len(got.RepoTags) != 0 {
				t.Fatalf("%+v, %v", got, err)
			}
			if _, err := s.Prepare(context.Background(), "c", got); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestFsckFindsAndRepairs(t *testing.T) {
	root := t.TempDir()
	s := openAt(t, root, nil)
	defer s.Close()
	ctx := context.Background()
	img := put(t, s, simple(t))
	keep, err := s.Put(ctx, "berth.local/keep:1", build(t, machine(), layer(t, file{name: "k", body: "k"})))
	if err != nil {
		t.Fatal(err)
	}
	settled(t, s)
	os.WriteFile(filepath.Join(s.images, "stranger"), nil, 0o600)
	os.WriteFile(filepath.Join(s.blobs_(), strings.Repeat("ab", 32)), []byte("x"), 0o600)
	os.MkdirAll(filepath.Join(s.layout.snapshots, "orphan", "upper"), 0o700)
	os.WriteFile(filepath.Join(s.layerFS(keep.Layers[0].DiffID), "planted"), nil, 0o600)
	blob := s.blob(img.Layers[1].Blob.Digest)
	b, _ := os.ReadFile(blob)
	b[len(b)/2] ^= 1
	os.WriteFile(blob, b, 0o600)

	r, err := s.Fsck(ctx, FsckOptions{})
	if err != nil || len(r.Problems()) != 3 {
		t.Errorf("without reading: %+v, %v", r.Problems(), err)
	}
	r, err = s.Fsck(ctx, FsckOptions{Verify: true, Repair: true})
	if err != nil || len(r.Problems()) != 5 {
		t.Errorf("with reading: %+v, %v", r.Problems(), err)
	}
	settled(t, s)
	if _, err := s.Get(img.ID.String()); !errors.Is(err, ErrNotFound) {
		t.Errorf("the damaged image: %v", err)
	}
	if _, err := s.Prepare(ctx, "c", keep); err != nil {
		t.Errorf("the image with a damaged layer: %v", err)
	}
	if exists(filepath.Join(s.layerFS(keep.Layers[0].DiffID), "planted")) {
		t.Error("the layer was not unpacked again")
	}
}

// blobs_ is where the blobs are; the field of the same name hides the method.
func (s *Store) blobs_() string { return s.layout.blobs() }

func TestPermissions(t *testing.T) {
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	s := openStore(t, nil)
	img := put(t, s, simple(t))
	if _, err := s.Prepare(context.Background(), "c", img); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{s.images, s.layout.snapshots, s.layers(), s.ingest, s.snapshot("c")} {
		if fi, err := os.Stat(dir); err != nil || fi.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v %v", dir, fi.Mode(), err)
		}
	}
}

func archiveOf(t *testing.T, files map[string][]byte, order ...string) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, n := range order {
		w.WriteHeader(&tar.Header{Name: n, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(files[n]))})
		w.Write(files[n])
	}
	w.Close()
	return buf.Bytes()
}

func TestImportDocker(t *testing.T) {
	s := openStore(t, nil)
	img := simple(t)
	var buf bytes.Buffer
	tag, err := nameTag("docker.io/team/app:3")
	if err != nil {
		t.Fatal(err)
	}
	if err := tarball.Write(tag, img, &buf); err != nil {
		t.Fatal(err)
	}
	got, err := s.Import(context.Background(), &buf, ImportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	cfg, _ := img.ConfigName()
	if len(got) != 1 || got[0].ID.String() != cfg.String() || got[0].RepoTags[0] != "docker.io/team/app:3" {
		t.Errorf("%+v", got)
	}
	if b, err := s.ReadFile(context.Background(), got[0], "/etc/link", 100); err != nil || len(b) == 0 {
		t.Errorf("%q %v", b, err)
	}
	if left := tree(t, s.ingest); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func TestImportOCI(t *testing.T) {
	s := openStore(t, nil)
	// A store is an OCI image layout: pack it and import it elsewhere.
	img := put(t, s, simple(t))
	files, order := map[string][]byte{}, []string{}
	for _, n := range tree(t, s.images) {
		if b, err := os.ReadFile(filepath.Join(s.images, n)); err == nil && (strings.HasPrefix(n, "blobs/") || !strings.Contains(n, "/")) {
			files[n] = b
			order = append(order, n)
		}
	}
	packed := archiveOf(t, files, order...)
	other := openStore(t, nil)
	got, err := other.Import(context.Background(), bytes.NewReader(packed), ImportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 1 || got[0].ID != img.ID || got[0].RepoTags[0] != "berth.local/test:latest" {
		t.Errorf("%+v", got)
	}
	settled(t, other)
	other.Remove(context.Background(), got[0].ID.String())
	checkEmpty(t, other)

	for name, in := range map[string]io.Reader{
		"garbage":    strings.NewReader(strings.Repeat("garbage ", 1000)),
		"nothing":    bytes.NewReader(archiveOf(t, nil)),
		"cut":        bytes.NewReader(packed[:len(packed)/2]),
		"blob gone":  bytes.NewReader(archiveOf(t, files, "index.json")),
		"blob wrong": bytes.NewReader(archiveOf(t, map[string][]byte{"index.json": files["index.json"], "blobs/sha256/" + img.Manifest.Encoded(): []byte("{}")}, "index.json", "blobs/sha256/"+img.Manifest.Encoded())),
	} {
		if _, err := other.Import(context.Background(), in, ImportOptions{}); err == nil {
			t.Errorf("%s was imported", name)
		} else {
			t.Log(err)
		}
		checkEmpty(t, other)
	}
}

func nameTag(s string) (name.Tag, error) { return name.NewTag(s) }
