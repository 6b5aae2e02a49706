package node

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/11f9778f/berth/internal/cri"
	"github.com/11f9778f/berth/internal/demo"
	"github.com/11f9778f/berth/internal/image"
	"github.com/11f9778f/berth/internal/image/reference"
	"github.com/11f9778f/berth/internal/kubelet"
)

// images is the image store, with the demo image in it as soon as somebody asks for that.
type images struct {
	*image.Store
	exe string // what the demo image is made from
	log *slog.Logger

	pulled func(began time.Time, err error) // is told of each pull

	mu   sync.Mutex // making the demo image
	made bool       // it is in the store, of this binary
}

var _ cri.Images = (*images)(nil)

// in returns the images of another namespace; "" is Kubernetes'.
func (i *images) in(namespace string) (*images, error) {
	if namespace == "" || namespace == i.Namespace() {
		return i, nil
	}
	s, err := i.In(namespace)
	if err != nil {
		return nil, err
	}
	return &images{Store: s, exe: i.exe, log: i.log, pulled: i.pulled}, nil
}

// Get finds an image; the demo image is made first.
func (i *images) Get(refOrID string) (*image.Image, error) {
	if isDemo(refOrID) {
		return i.demo(context.Background())
	}
	return i.Store.Get(refOrID)
}

// Pull fetches an image; the demo image is made instead.
func (i *images) Pull(ctx context.Context, ref string, o image.PullOptions) (*image.Image, error) {
	if isDemo(ref) {
		return i.demo(ctx)
	}
	began := time.Now()
	img, err := i.Store.Pull(ctx, ref, o)
	i.pulled(began, err)
	return img, err
}

// Remove removes an image, and looks for the demo image anew when it is asked for again.
func (i *images) Remove(ctx context.Context, refOrID string) error {
	i.mu.Lock()
	i.made = false
	i.mu.Unlock()
	return i.Store.Remove(ctx, refOrID)
}

// demo returns the demo image of this very binary, made now if the store has none or another's.
func (i *images) demo(ctx context.Context) (*image.Image, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	old, err := i.Store.Get(demo.Reference)
	if i.made && err == nil {
		return old, nil
	}
	id, idErr := demo.Identity(i.exe)
	if idErr != nil {
		return nil, idErr
	}
	if err == nil && old.Config.Config.Labels[demo.IdentityLabel] == id {
		i.made = true
		return old, nil
	}
	img, err := demo.Image(i.exe)
	if err != nil {
		return nil, err
	}
	now, err := i.Store.Put(ctx, demo.Reference, img)
	if err != nil {
		return nil, fmt.Errorf("make image %s: %w", demo.Reference, err)
	}
	if old != nil && old.ID != now.ID {
		if err := i.Store.Remove(ctx, old.ID.String()); err != nil {
			i.log.Warn("the demo image of an earlier berth stays in the store", "image", old.ID, "error", err)
		}
	}
	i.made = true
	return now, nil
}

// isDemo tells whether a reference names the demo image, with or without its tag.
func isDemo(ref string) bool {
	n, err := reference.Parse(ref)
	return err == nil && n.String() == demo.Reference
}

// imageService is the CRI's image service as the kubelet wants it.
type imageService struct{ *cri.Server }

var _ kubelet.ProgressImages = imageService{}

// PullImageProgress is PullImage that tells how far it is.
func (s imageService) PullImageProgress(ctx context.Context, req *runtimeapi.PullImageRequest, progress func(kubelet.PullProgress)) (*runtimeapi.PullImageResponse, error) {
	return s.Server.PullImageProgress(ctx, req, func(p cri.PullProgress) { progress(kubelet.PullProgress(p)) })
}
