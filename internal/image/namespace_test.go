package image

import (
	"context"
	"errors"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
)

func in(t *testing.T, s *Store, namespace string) *Store {
	t.Helper()
	other, err := s.In(namespace)
	if err != nil {
		t.Fatal(err)
	}
	return other
}

// Two namespaces have one name for two images, and one image under two names: each sees its own, and the bytes
// are there once and as long as one of them wants them.
func TestNamespaces(t *testing.T) {
	ctx, root := context.Background(), t.TempDir()
	f := newFake(t)
	var fetched atomic.Int32
	f.hook = func(_ http.ResponseWriter, r *http.Request) bool {
		if isBlob(r) {
			fetched.Add(1)
		}
		return false
	}
	first, second := simple(t), build(t, machine(), layer(t, file{name: "second", body: "2"}))
	ref := f.push(t, "app:1", first)
	s := openAt(t, root, nil)
	moby := in(t, s, "moby")
	img, err := s.Pull(ctx, ref, PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := moby.Get(ref); !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "namespace moby") {
		t.Errorf("another namespace's image is seen: %v", err)
	}
	before := fetched.Load()
	same, err := moby.Pull(ctx, ref, PullOptions{})
	if err != nil || same.ID != img.ID || same.Namespace != "moby" {
		t.Fatalf("%+v, %v", same, err)
	}
	if n := fetched.Load() - before; n != 0 {
		t.Errorf("%d blobs were fetched that are here", n)
	}
	f.push(t, "app:1", second)
	moved, err := moby.Pull(ctx, ref, PullOptions{})
	if err != nil || moved.ID == img.ID {
		t.Fatalf("%+v, %v", moved, err)
	}
	if _, err := moby.Tag(ctx, ref, "mine:1"); err != nil {
		t.Fatal(err)
	}
	if _, err := moby.Pin(ctx, "mine:1", true); err != nil {
		t.Fatal(err)
	}
	if _, err := moby.Prepare(ctx, "c1", moved); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Prepare(ctx, "c1", moved); err == nil || !strings.Contains(err.Error(), "namespace moby") {
		t.Errorf("a root filesystem of another namespace was given out: %v", err)
	}
	check := func(s *Store) {
		t.Helper()
		moby := in(t, s, "moby")
		if got, err := s.Get(ref); err != nil || got.ID != img.ID || got.Pinned || len(s.Users(got.ID)) != 0 {
			t.Errorf("%+v, %v", got, err)
		}
		if got, err := moby.Get(ref); err != nil || got.ID != moved.ID || !got.Pinned || !slices.Equal(moby.Users(got.ID), []string{"c1"}) || len(s.Users(got.ID)) != 0 {
			t.Errorf("%+v, %v", got, err)
		}
		if len(s.List()) != 1 || len(moby.List()) != 2 || !slices.Equal(s.Namespaces(), []string{"k8s.io", "moby"}) {
			t.Errorf("%+v, %+v, %v", s.List(), moby.List(), s.Namespaces())
		}
	}
	check(s)
	s.Close()
	if _, err := moby.Pull(ctx, ref, PullOptions{}); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	s = openAt(t, root, nil)
	defer s.Close()
	check(s)
	settled(t, s)
}

// What one namespace removes or prunes the others keep; what nobody has any more goes.
func TestNamespacesCollect(t *testing.T) {
	ctx := context.Background()
	f, s := newFake(t), openStore(t, nil)
	ref := f.push(t, "app:1", simple(t))
	moby := in(t, s, "moby")
	for _, s := range []*Store{s, moby} {
		if _, err := s.Pull(ctx, ref, PullOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	p, err := moby.Prune(ctx, PruneOptions{DryRun: true})
	if err != nil || len(p.Images) != 1 || p.Bytes != 0 {
		t.Errorf("nothing becomes free while another namespace has it: %+v, %v", p, err)
	}
	if err := moby.Remove(ctx, ref); err != nil {
		t.Fatal(err)
	}
	if err := moby.Remove(ctx, ref); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	if got := s.Namespaces(); !slices.Equal(got, []string{"k8s.io"}) {
		t.Error(got)
	}
	settled(t, s)
	img, err := s.Get(ref)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Prepare(ctx, "c", img); err != nil {
		t.Fatal(err)
	}
	if p, err := in(t, s, "default").Prune(ctx, PruneOptions{}); err != nil || len(p.Images) != 0 {
		t.Errorf("%+v, %v", p, err)
	}
	if err := s.RemoveRootfs(ctx, "c"); err != nil {
		t.Fatal(err)
	}
	if p, err := s.Prune(ctx, PruneOptions{}); err != nil || len(p.Images) != 1 || p.Bytes == 0 {
		t.Errorf("%+v, %v", p, err)
	}
	checkEmpty(t, s)
}

// A blob that is damaged takes along the images of all namespaces that need it.
func TestNamespacesRepair(t *testing.T) {
	ctx := context.Background()
	f, s := newFake(t), openStore(t, nil)
	ref := f.push(t, "app:1", simple(t))
	moby := in(t, s, "moby")
	for _, s := range []*Store{s, moby} {
		if _, err := s.Pull(ctx, ref, PullOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	img, err := s.Get(ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.blob(img.Layers[0].Blob.Digest), []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Fsck(ctx, FsckOptions{Verify: true, Repair: true}); err != nil {
		t.Fatal(err)
	}
	if got := s.Namespaces(); len(got) != 0 {
		t.Error(got)
	}
	checkEmpty(t, s)
}

// A store of before there were namespaces is Kubernetes'.
func TestStoreWithoutNamespaces(t *testing.T) {
	ctx, root := context.Background(), t.TempDir()
	s := openAt(t, root, nil)
	img := put(t, s, simple(t))
	if _, err := s.Pin(ctx, img.ID.String(), true); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Prepare(ctx, "c", img); err != nil {
		t.Fatal(err)
	}
	s.Close()
	record := s.snapshot("c") + "/" + snapshotFileName
	for path, pattern := range map[string]string{s.index(): `"berth.namespace": "k8s.io",?`, record: `"namespace":"k8s.io",`} {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		old := regexp.MustCompile(pattern).ReplaceAll(b, nil)
		if len(old) == len(b) {
			t.Fatalf("%s has no namespace: %s", path, b)
		}
		if err := os.WriteFile(path, old, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s = openAt(t, root, nil)
	defer s.Close()
	got, err := s.Get(img.ID.String())
	if err != nil || !got.Pinned || got.Namespace != DefaultNamespace || !slices.Equal(got.RepoTags, img.RepoTags) || !slices.Equal(s.Users(img.ID), []string{"c"}) {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := s.Prepare(ctx, "c", got); err != nil {
		t.Error(err)
	}
}

func TestNamespaceNames(t *testing.T) {
	for _, good := range []string{"default", "k8s.io", "moby", "A1", "a-b_c.d", strings.Repeat("n", 76)} {
		if err := CheckNamespace(good); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range []string{"", ".", "..", "a/b", "../a", "a..b", "-a", "a-", "a b", "a\n", "ä", strings.Repeat("n", 77)} {
		if err := CheckNamespace(bad); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
