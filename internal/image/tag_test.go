package image

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

func TestTagAndPinOutliveTheProcess(t *testing.T) {
	ctx, root := context.Background(), t.TempDir()
	s := openAt(t, root, nil)
	img := put(t, s, simple(t))
	if _, err := s.Tag(ctx, img.ID.String(), "team/other:2"); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Pin(ctx, "team/other:2", true); err != nil || !got.Pinned {
		t.Fatalf("%+v, %v", got, err)
	}
	if _, err := s.Tag(ctx, img.ID.String(), "x@"+img.ID.String()); !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
	if _, err := s.Tag(ctx, "nobody", "x"); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	s.Close()
	s = openAt(t, root, nil)
	defer s.Close()
	got, err := s.Get("team/other:2")
	if err != nil || !got.Pinned || got.ID != img.ID || len(got.RepoTags) != len(img.RepoTags)+1 {
		t.Fatalf("%+v, %v", got, err)
	}
	for _, n := range got.RepoTags {
		if err := s.Untag(ctx, n); err != nil {
			t.Error(err)
		}
	}
	if got, err := s.Get(img.ID.String()); err != nil || len(got.RepoTags) != 0 {
		t.Fatalf("a pinned image went with its last name: %v", err)
	}
	if err := s.Untag(ctx, "team/other:2"); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	if _, err := s.Pin(ctx, img.ID.String(), false); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(ctx, img.ID.String()); err != nil {
		t.Fatal(err)
	}
	checkEmpty(t, s)
}

func TestPrune(t *testing.T) {
	ctx, s := context.Background(), openStore(t, nil)
	f := newFake(t)
	pull := func(repo, body string) *Image {
		img, err := s.Pull(ctx, f.push(t, repo, build(t, machine(), layer(t, file{name: "f", body: body}))), PullOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return img
	}
	used, pinned, old, kept, young := pull("used:1", "1"), pull("pinned:1", "2"), pull("old:1", "3"), pull("kept:1", "4"), pull("young:1", "5")
	if _, err := s.Prepare(ctx, "c", used); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Pin(ctx, pinned.ID.String(), true); err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	for i, img := range []*Image{old, kept} { // both long unused
		for _, m := range s.own().manifests {
			if m.config.Digest == img.ID {
				m.pulled = time.Now().Add(-time.Duration(2-i) * time.Hour)
			}
		}
	}
	s.mu.Unlock()
	keep := func(img *Image) bool { return img.ID == kept.ID }
	names := func(p Pruned) (n []string) {
		for _, i := range p.Images {
			n = append(n, strings.SplitN(i.RepoTags[0], "/", 2)[1])
		}
		return n
	}
	full := "old:1 kept:1"
	if p, err := s.Prune(ctx, PruneOptions{High: 100, Low: 100, DryRun: true}); err != nil || p.Usage < 1 {
		full = "" // a disk as empty as this is never too full
	}
	for _, c := range []struct {
		o    PruneOptions
		want string
	}{
		{PruneOptions{Untagged: true, DryRun: true}, ""},
		{PruneOptions{High: 100, Low: 100, DryRun: true}, ""},
		{PruneOptions{DryRun: true}, "old:1 kept:1 young:1"},
		{PruneOptions{Keep: keep, DryRun: true}, "old:1 young:1"},
		{PruneOptions{High: 1, Low: 0, Unused: 30 * time.Minute, DryRun: true}, full},
		{PruneOptions{Unused: 90 * time.Minute}, "old:1"},
		{PruneOptions{Keep: keep}, "young:1"},
	} {
		p, err := s.Prune(ctx, c.o)
		if got := strings.Join(names(p), " "); err != nil || got != c.want {
			t.Errorf("%+v: %q, %v; want %q", c.o, got, err, c.want)
		}
		if len(p.Images) > 0 && p.Bytes == 0 {
			t.Errorf("%+v frees nothing", c.o)
		}
	}
	if _, err := s.Prune(ctx, PruneOptions{High: 50, Low: 60}); !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
	if got := len(s.List()); got != 3 {
		t.Errorf("%d images are left, want used, pinned, kept", got)
	}
	if u := s.Users(used.ID); len(u) != 1 || u[0] != "c" {
		t.Errorf("%q", u)
	}
	_ = young
}

// What was exported comes back with the same digests and names, and other tools can read it.
func TestExport(t *testing.T) {
	ctx, s, f := context.Background(), openStore(t, nil), newFake(t)
	var images []*Image
	for _, r := range []string{"a:1", "b:1"} {
		img, err := s.Pull(ctx, f.push(t, r, randomImage(t, 2000, 2)), PullOptions{})
		if err != nil {
			t.Fatal(err)
		}
		images = append(images, img)
	}
	var one, two bytes.Buffer
	for _, w := range []*bytes.Buffer{&one, &two} {
		if err := s.Export(ctx, w, images[0].RepoTags[0], images[1].ID.String()); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(one.Bytes(), two.Bytes()) {
		t.Error("the same images make different archives")
	}
	other := openStore(t, nil)
	back, err := other.Import(ctx, bytes.NewReader(one.Bytes()), ImportOptions{})
	if err != nil || len(back) != 2 {
		t.Fatalf("%d images, %v", len(back), err)
	}
	for i, img := range back {
		if img.Manifest != images[i].Manifest || img.RepoTags[0] != images[i].RepoTags[0] {
			t.Errorf("%s %v came back as %s %v", images[i].Manifest, images[i].RepoTags, img.Manifest, img.RepoTags)
		}
	}
	tag, err := name.NewTag(images[1].RepoTags[0])
	if err != nil {
		t.Fatal(err)
	}
	path := t.TempDir() + "/a.tar"
	if err := os.WriteFile(path, one.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if img, err := tarball.ImageFromPath(path, &tag); err != nil {
		t.Errorf("as docker save's: %v", err)
	} else if err := validate.Image(img); err != nil {
		t.Errorf("as docker save's: %v", err)
	}
	for _, what := range [][]string{{}, {"nobody:1"}} {
		var none bytes.Buffer
		if err := s.Export(ctx, &none, what...); err == nil || none.Len() > 0 {
			t.Errorf("%q: %d bytes, %v", what, none.Len(), err)
		}
	}
}

func TestPush(t *testing.T) {
	ctx, s, f := context.Background(), openStore(t, nil), newFake(t)
	img, err := s.Pull(ctx, f.push(t, "from:1", randomImage(t, 50_000, 2)), PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	to := newFake(t)
	var done, all int64
	digest, err := s.Push(ctx, img.RepoTags[0], PushOptions{To: to.host() + "/team/to:2", Progress: func(d, a int64) { done, all = d, a }})
	if err != nil || digest != to.host()+"/team/to@"+img.Manifest.String() {
		t.Fatalf("%s, %v", digest, err)
	}
	if done != all || all == 0 {
		t.Errorf("%d of %d bytes", done, all)
	}
	ref, _ := name.ParseReference(to.host() + "/team/to:2")
	there, err := remote.Image(ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(there); err != nil {
		t.Error(err)
	}
	if h, _ := there.Digest(); h.String() != img.Manifest.String() {
		t.Errorf("it is %s there, %s here", h, img.Manifest)
	}
	to.write = func(w http.ResponseWriter, r *http.Request) bool {
		w.WriteHeader(http.StatusForbidden)
		return true
	}
	if _, err := s.Push(ctx, img.RepoTags[0], PushOptions{To: to.host() + "/no:1"}); !errors.Is(err, ErrUnauthorized) || !strings.Contains(err.Error(), "without credentials") {
		t.Error(err)
	}
	if _, err := s.Push(ctx, "nobody:1", PushOptions{}); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
}
