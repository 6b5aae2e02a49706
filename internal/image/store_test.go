package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/containerd/platforms"
	"github.com/google/go-containerregistry/pkg/name"
	ggcr "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("unpacking needs root: device nodes, owners, trusted attributes")
	}
}

// quick are retries that a test can wait for.
var quick = Retry{Attempts: 5, Base: time.Millisecond, Max: 5 * time.Millisecond, Stall: 5 * time.Second}

func openAt(t testing.TB, root string, change func(*Config)) *Store {
	t.Helper()
	needRoot(t)
	c := Config{Root: root, Retry: quick, Log: slog.New(slog.NewTextHandler(testWriter{t}, nil))}
	if change != nil {
		change(&c)
	}
	s, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func openStore(t testing.TB, change func(*Config)) *Store {
	t.Helper()
	s := openAt(t, t.TempDir(), change)
	t.Cleanup(func() { s.Close() })
	return s
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

// fake is a registry on loopback with a hook before it.
type fake struct {
	*httptest.Server
	// hook may answer a request itself: then it returns true.
	hook func(w http.ResponseWriter, r *http.Request) bool
	// write is the same for requests that change something.
	write func(w http.ResponseWriter, r *http.Request) bool
}

func newFake(t testing.TB) *fake {
	t.Helper()
	f := &fake{}
	h := ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)))
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if f.hook != nil && r.Method == http.MethodGet && f.hook(w, r) {
			return
		}
		if f.write != nil && r.Method != http.MethodGet && r.Method != http.MethodHead && f.write(w, r) {
			return
		}
		h.ServeHTTP(w, r)
	}))
	t.Cleanup(f.Close)
	return f
}

func (f *fake) host() string { return strings.TrimPrefix(f.URL, "http://") }

func (f *fake) push(t testing.TB, repo string, img v1.Image) string {
	t.Helper()
	ref := f.host() + "/" + repo
	r, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(r, img); err != nil {
		t.Fatal(err)
	}
	return ref
}

type file struct {
	name, body, link string
	typ              byte
	mode             int64
}

func layerTar(t testing.TB, files ...file) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, f := range files {
		if f.typ == 0 {
			f.typ = tar.TypeReg
		}
		if f.mode == 0 {
			f.mode = 0o755
		}
		if err := w.WriteHeader(&tar.Header{Name: f.name, Typeflag: f.typ, Linkname: f.link, Mode: f.mode, Size: int64(len(f.body)), ModTime: time.Unix(1e9, 0)}); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, f.body)
	}
	w.Close()
	return buf.Bytes()
}

func layer(t testing.TB, files ...file) v1.Layer {
	t.Helper()
	b := layerTar(t, files...)
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil })
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// build makes a linux/amd64 image (or another architecture's) from layers.
func build(t testing.TB, arch string, layers ...v1.Layer) v1.Image {
	t.Helper()
	img, err := mutate.AppendLayers(empty.Image, layers...)
	if err != nil {
		t.Fatal(err)
	}
	cf, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	cf = cf.DeepCopy()
	cf.OS, cf.Architecture = "linux", arch
	cf.Config.Env, cf.Config.Cmd = []string{"A=b"}, []string{"/bin/sh"}
	if img, err = mutate.ConfigFile(img, cf); err != nil {
		t.Fatal(err)
	}
	return img
}

func machine() string { return platforms.DefaultSpec().Architecture }

// simple is an image of three small layers with passwd, a whiteout and an opaque directory.
func simple(t testing.TB) v1.Image {
	return build(t, machine(),
		layer(t, file{name: "etc/", typ: tar.TypeDir}, file{name: "etc/passwd", body: "root:x:0:0::/:/bin/sh\n"},
			file{name: "gone", body: "1"}, file{name: "dir/", typ: tar.TypeDir}, file{name: "dir/below", body: "2"}),
		layer(t, file{name: ".wh.gone"}, file{name: "dir/", typ: tar.TypeDir}, file{name: "dir/.wh..wh..opq"}, file{name: "dir/above", body: "3"}),
		layer(t, file{name: "etc/group", body: "root:x:0:\n"}, file{name: "etc/link", typ: tar.TypeSymlink, link: "/dir/../etc/./passwd"}),
	)
}

// tree lists everything below a directory, for comparison.
func tree(t testing.TB, root string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(root, func(p string, d os.DirEntry, err error) error {
		if err != nil && !os.IsNotExist(err) {
			return err
		}
		if strings.HasPrefix(d.Name(), blankPrefix) { // kept for the next container
			return filepath.SkipDir
		}
		if rel, _ := filepath.Rel(root, p); rel != "." {
			names = append(names, rel)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	sort.Strings(names)
	return names
}

// settled closes a store, opens it and waits until the trash is empty; what is then below its root is
// what the store keeps.
func settled(t testing.TB, s *Store) []string {
	t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for {
		left := append(tree(t, s.trash), tree(t, s.snapTrash)...)
		left = append(left, tree(t, s.ingest)...)
		r, err := s.Fsck(context.Background(), FsckOptions{Verify: true})
		if err != nil {
			t.Fatal(err)
		}
		if len(left) == 0 && len(r.Problems()) == 0 {
			return tree(t, s.root)
		}
		if time.Now().After(deadline) {
			t.Fatalf("not settled: %v, %+v", left, r.Problems())
		}
		time.Sleep(time.Millisecond)
	}
}

// emptyStore is what a store without images has on the disk.
var emptyStore = []string{"images", "images/base", "images/base/dev", "images/base/etc", "images/base/etc/hostname", "images/base/etc/hosts", "images/base/etc/resolv.conf", "images/base/proc", "images/base/sys", "images/blobs", "images/blobs/sha256", "images/index.json", "images/ingest", "images/layers", "images/oci-layout", "images/signatures", "images/trash", "snapshots", "snapshots/.trash"}

// checkEmpty fails where something is left.
func checkEmpty(t testing.TB, s *Store) {
	t.Helper()
	var got []string
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if got = tree(t, s.root); strings.Join(got, " ") == strings.Join(emptyStore, " ") {
			return
		}
	}
	t.Errorf("left over: %v", got)
}

func TestPullAndUse(t *testing.T) {
	f, s := newFake(t), openStore(t, nil)
	ref := f.push(t, "team/app:1.0", simple(t))
	var last Progress
	img, err := s.Pull(context.Background(), ref, PullOptions{Progress: func(p Progress) { last = p }})
	if err != nil {
		t.Fatal(err)
	}
	if last.Phase != PhaseDone || len(last.Layers) != 3 || last.Layers[0].Downloaded != last.Layers[0].Size || last.Layers[0].Phase != PhaseDone {
		t.Errorf("last progress: %+v", last)
	}
	if len(img.RepoTags) != 1 || img.RepoTags[0] != ref || len(img.RepoDigests) != 1 || img.Config.Config.Env[0] != "A=b" {
		t.Errorf("%+v", img)
	}
	cfg, _ := simple(t).ConfigName()
	if img.ID.String() != cfg.String() {
		t.Errorf("ID %s, want %s", img.ID, cfg)
	}
	for _, q := range []string{ref, img.RepoDigests[0], img.ID.String(), img.ID.Encoded(), img.ID.Encoded()[:5], img.Manifest.String()} {
		if got, err := s.Get(q); err != nil || got.ID != img.ID {
			t.Errorf("Get(%s): %v", q, err)
		}
	}
	if b, err := s.ReadFile(context.Background(), img, "etc/link", 1000); err != nil || string(b) != "root:x:0:0::/:/bin/sh\n" {
		t.Errorf("ReadFile: %q, %v", b, err)
	}
	for _, p := range []string{"/gone", "/dir/below", "/nothing", "/etc/passwd/x"} {
		if _, err := s.ReadFile(context.Background(), img, p, 1000); !isNotExist(err) {
			t.Errorf("%s: %v", p, err)
		}
	}
	if _, err := s.ReadFile(context.Background(), img, "/etc/passwd", 3); err == nil {
		t.Error("the limit did not hold")
	}
	if err := s.Remove(context.Background(), ref); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(img.ID.String()); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	checkEmpty(t, s)
}

func TestReopen(t *testing.T) {
	f, root := newFake(t), t.TempDir()
	s := openAt(t, root, nil)
	ref := f.push(t, "app:1", simple(t))
	img, err := s.Pull(context.Background(), ref, PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Config{Root: root}); !errors.Is(err, ErrLocked) {
		t.Errorf("a second process: %v", err)
	}
	before := settled(t, s)
	s.Close()
	s = openAt(t, root, nil)
	defer s.Close()
	got, err := s.Get(ref)
	if err != nil || got.ID != img.ID || got.Size != img.Size || len(got.Layers) != 3 {
		t.Errorf("%+v, %v", got, err)
	}
	after := settled(t, s)
	if strings.Join(before, " ") != strings.Join(after, " ") && len(after) < len(before) {
		t.Errorf("lost: %v → %v", before, after)
	}
	if l := s.List(); len(l) != 1 || l[0].ID != img.ID {
		t.Errorf("List: %v", l)
	}
}

func TestTagMoves(t *testing.T) {
	f, s := newFake(t), openStore(t, nil)
	ctx := context.Background()
	ref := f.push(t, "app:1", build(t, machine(), layer(t, file{name: "a", body: "1"})))
	first, err := s.Pull(ctx, ref, PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	f.push(t, "app:1", build(t, machine(), layer(t, file{name: "a", body: "2"})))
	second, err := s.Pull(ctx, ref, PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if first, err = s.Get(first.ID.String()); err != nil || len(first.RepoTags) != 0 || len(first.RepoDigests) != 1 {
		t.Errorf("the old image: %+v, %v", first, err)
	}
	if got, _ := s.Get(ref); got.ID != second.ID {
		t.Error("the tag did not move")
	}
}

func TestPutReplacesLocalImage(t *testing.T) {
	s := openStore(t, nil)
	ctx := context.Background()
	for _, body := range []string{"1", "2", "2"} {
		img := build(t, machine(), layer(t, file{name: "a", body: body}))
		if _, err := s.Put(ctx, "berth.local/demo:latest", img); err != nil {
			t.Fatal(err)
		}
	}
	got, err := s.Get("berth.local/demo:latest")
	if err != nil || len(s.List()) != 1 {
		t.Fatalf("%d images, %v", len(s.List()), err)
	}
	if b, err := s.ReadFile(ctx, got, "/a", 10); err != nil || string(b) != "2" {
		t.Errorf("%q, %v", b, err)
	}
	settled(t, s)
	s.Remove(ctx, "berth.local/demo")
	checkEmpty(t, s)
}
