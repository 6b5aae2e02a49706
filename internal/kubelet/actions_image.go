package kubelet

import (
	"context"
	"fmt"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/11f9778f/berth/internal/kubelet/api"
	"github.com/11f9778f/berth/internal/kubelet/lifecycle"
	"github.com/11f9778f/berth/internal/trace"
)

// ensureImage makes sure of a container's image as its pull policy asks.
func (w *worker) ensureImage(a lifecycle.Action) action {
	images, policy := w.k.cfg.Images, w.container(a.Container).ImagePullPolicy
	done := func(ref string) func() {
		return func() { w.images[a.Container], w.obs.ImageReady[a.Container] = ref, a.Attempt+1 }
	}
	return func(ctx context.Context) (func(), error) {
		defer trace.Start(ctx, "kubelet.image "+a.Container)()
		if policy != v1.PullAlways {
			got, err := images.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: a.Image}})
			if err != nil {
				return nil, &failure{"ImageInspectError", err}
			}
			if got.Image != nil {
				return done(got.Image.Id), nil
			}
			if policy == v1.PullNever {
				return nil, &failure{"ErrImageNeverPull", fmt.Errorf(
					"image %q is not on this node and its pull policy is Never; import it or change imagePullPolicy", a.Image)}
			}
		}
		ref, err := w.pull(ctx, a)
		if err != nil {
			return nil, err
		}
		return done(ref), nil
	}
}

// pull fetches the image and tells how far it is.
func (w *worker) pull(ctx context.Context, a lifecycle.Action) (string, error) {
	tell := func(t api.EventType, p *api.Progress) {
		e := w.event(t)
		e.Container, e.Image, e.Progress = a.Container, a.Image, p
		w.k.log.Add(e)
	}
	tell(api.ImagePulling, nil)
	req := &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: a.Image, UserSpecifiedImage: a.Image}}
	var got *runtimeapi.PullImageResponse
	var err error
	if p, ok := w.k.cfg.Images.(ProgressImages); ok {
		got, err = p.PullImageProgress(ctx, req, seldom(progressPause, func(p PullProgress) {
			tell(api.ImageProgress, &api.Progress{Current: p.Current, Total: p.Total, Detail: p.Detail})
		}))
	} else {
		got, err = w.k.cfg.Images.PullImage(ctx, req)
	}
	if err != nil {
		return "", err
	}
	tell(api.ImagePulled, nil)
	return got.ImageRef, nil
}

// progressPause is the shortest time between two progress events of one pull: they share the ring with events
// that matter more.
const progressPause = 100 * time.Millisecond

// seldom calls f at most once in every pause. It may be called from several goroutines.
func seldom(pause time.Duration, f func(PullProgress)) func(PullProgress) {
	var mu sync.Mutex
	var last time.Time
	return func(p PullProgress) {
		mu.Lock()
		defer mu.Unlock()
		if now := time.Now(); now.Sub(last) >= pause {
			last = now
			f(p)
		}
	}
}
