package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/platforms"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/types"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/11f9778f/berth/internal/sys"
)

// Everything at once, on images that share layers: nobody loses a layer, and nothing is left at the end.
func TestHammer(t *testing.T) {
	f, s := newFake(t), openStore(t, nil)
	common, _ := random.Layer(20_000, types.DockerLayer)
	var refs []string
	for i := range 4 {
		refs = append(refs, f.push(t, fmt.Sprintf("app%d:1", i), build(t, machine(), common, layer(t, file{name: "n", body: fmt.Sprint(i)}))))
	}
	ctx := context.Background()
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 1))
			for n := range 15 {
				hammer(ctx, t, s, refs[r.IntN(len(refs))], fmt.Sprintf("w%d-%d", w, n), r.IntN(3) == 0)
			}
		})
	}
	wg.Wait()
	for _, img := range s.List() {
		if err := s.Remove(ctx, img.ID.String()); err != nil {
			t.Error(err)
		}
	}
	checkEmpty(t, s)
}

func hammer(ctx context.Context, t *testing.T, s *Store, ref, key string, cancelled bool) {
	if cancelled {
		ctx2, cancel := context.WithCancel(ctx)
		go cancel()
		s.Pull(ctx2, ref, PullOptions{})
		return
	}
	img, err := s.Pull(ctx, ref, PullOptions{})
	if errors.Is(err, ErrNotFound) {
		return // removed between its record and our look
	}
	if err != nil {
		t.Error(err)
		return
	}
	_, err = s.Prepare(ctx, key, img)
	switch {
	case errors.Is(err, ErrNotFound): // somebody removed the image
	case err != nil:
		t.Error(err)
	default:
		for _, l := range img.Layers {
			if !exists(s.layerFS(l.DiffID)) {
				t.Errorf("%s lies on a layer that is gone", key)
			}
		}
	}
	if err := s.RemoveRootfs(ctx, key); err != nil {
		t.Error(err)
	}
	if err := s.Remove(ctx, ref); err != nil && !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
}

func TestCloseEndsPulls(t *testing.T) {
	f, root := newFake(t), t.TempDir()
	s := openAt(t, root, nil)
	ref := f.push(t, "app:1", simple(t))
	started := make(chan struct{})
	var once sync.Once
	f.hook = func(w http.ResponseWriter, r *http.Request) bool {
		if isBlob(r) {
			once.Do(func() { close(started) })
			<-r.Context().Done()
			return true
		}
		return false
	}
	done := make(chan error)
	go func() { _, err := s.Pull(context.Background(), ref, PullOptions{}); done <- err }()
	<-started
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if left := tree(t, s.ingest); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	if _, err := s.Pull(context.Background(), ref, PullOptions{}); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	f.hook = nil
	s = openAt(t, root, nil)
	defer s.Close()
	if _, err := s.Pull(context.Background(), ref, PullOptions{}); err != nil {
		t.Error(err)
	}
}

// A layer that unpacks to more than is allowed.
func TestBomb(t *testing.T) {
	f := newFake(t)
	s := openStore(t, func(c *Config) { c.Limits.Bytes = 1 << 20 })
	mustFail(t, s, f.push(t, "bomb:1", build(t, machine(), layer(t, file{name: "zeros", body: strings.Repeat("\x00", 4<<20)}))), ErrCorrupt, "larger than")
}

func TestRemedies(t *testing.T) {
	s := openStore(t, nil)
	for err, word := range map[error]string{fs.ErrPermission: "run as root", ErrNoSpace: "is full", sys.ErrQuota: "disk quota for"} {
		got := s.remedy(s.remedy(fmt.Errorf("write: %w", err)))
		if !errors.Is(got, err) || strings.Count(got.Error(), word) != 1 {
			t.Error(got)
		}
	}
}

func withDefaultPlatform() *ispec.Platform {
	p := platforms.DefaultSpec()
	return &p
}

func FuzzParseDocument(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,"config":{"digest":"sha256:ab","size":1},"layers":[]}`), "")
	f.Add([]byte(`{"schemaVersion":2,"manifests":[{"platform":{"os":"linux","architecture":"amd64"}}]}`), "")
	f.Fuzz(func(t *testing.T, b []byte, media string) {
		d, err := parseDocument(b, media)
		if err != nil {
			return
		}
		if d.Manifests != nil {
			d.choose(*withDefaultPlatform())
			return
		}
		if d.checkManifest() == nil {
			d.assemble(*d.Config, b, b, withDefaultPlatform())
		}
	})
}
