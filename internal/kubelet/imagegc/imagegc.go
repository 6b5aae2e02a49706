// Package imagegc removes images that no container uses when their filesystem fills, as the Kubernetes
// documentation has it (Garbage collection of unused container images): from HighPercent of use on it removes
// the images that were used longest ago, until no more than LowPercent should be used; and in any case
// those that nobody has used for MaxAge.
//
// It talks CRI, and knows no store below. What to remove is decided by a function without input and output;
// pinned images and images of any container, also of one that has ended, stay.
package imagegc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Images is the part of CRI's ImageServiceServer that the collector calls.
type Images interface {
	ListImages(context.Context, *runtimeapi.ListImagesRequest) (*runtimeapi.ListImagesResponse, error)
	ImageFsInfo(context.Context, *runtimeapi.ImageFsInfoRequest) (*runtimeapi.ImageFsInfoResponse, error)
	RemoveImage(context.Context, *runtimeapi.RemoveImageRequest) (*runtimeapi.RemoveImageResponse, error)
}

// Containers is the part of CRI's RuntimeServiceServer that the collector calls.
type Containers interface {
	ListContainers(context.Context, *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error)
}

// Policy says when images go. KubeletConfiguration has the same fields, imageGCHighThresholdPercent and so on.
type Policy struct {
	// HighPercent of use begins a collection, LowPercent ends it. HighPercent 100 never begins one.
	HighPercent, LowPercent int
	// MinAge is how long an image must have been here, and unused.
	MinAge time.Duration
	// MaxAge removes images that nobody has used for so long; 0 removes none.
	MaxAge time.Duration
	// Period is the pause between two looks.
	Period time.Duration
}

// Collector is the state of one node's collection: who was seen when.
type Collector struct {
	Images     Images
	Containers Containers
	Policy     Policy
	// Space measures the filesystem below a path: its size, and what is free.
	Space func(path string) (capacity, available int64, err error)
	Log   *slog.Logger
	Now   func() time.Time

	seen map[string]*record // by image ID
}

// record is what is known of one image.
type record struct{ first, used time.Time }

// Run collects until ctx ends.
func (c *Collector) Run(ctx context.Context) {
	tick := time.NewTicker(c.Policy.Period)
	defer tick.Stop()
	for {
		if err := c.Collect(ctx); err != nil && ctx.Err() == nil {
			c.Log.Warn("image collection failed; it is tried again", "err", err, "in", c.Policy.Period)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Collect looks once, and removes what is to go.
func (c *Collector) Collect(ctx context.Context) error {
	images, err := c.Images.ListImages(ctx, &runtimeapi.ListImagesRequest{})
	if err != nil {
		return fmt.Errorf("list the images: %w", err)
	}
	containers, err := c.Containers.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
	if err != nil {
		return fmt.Errorf("list the containers: %w", err)
	}
	info, err := c.Images.ImageFsInfo(ctx, &runtimeapi.ImageFsInfoRequest{})
	if err != nil {
		return fmt.Errorf("ask for the images' filesystem: %w", err)
	}
	if len(info.ImageFilesystems) == 0 {
		return errors.New("the runtime names no filesystem of images")
	}
	capacity, available, err := c.Space(info.ImageFilesystems[0].GetFsId().GetMountpoint())
	if err != nil {
		return fmt.Errorf("measure the images' filesystem: %w", err)
	}
	now := c.Now()
	idle := c.idle(images.Images, inUse(containers.Containers), now)
	victims, missing := choose(idle, c.Policy, capacity, available, now)
	var errs []error
	for _, v := range victims {
		if _, err := c.Images.RemoveImage(ctx, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: v.id}}); err != nil {
			errs = append(errs, fmt.Errorf("remove the image %s: %w", v.name, err))
			continue
		}
		delete(c.seen, v.id)
		c.Log.Info("removed an image that nobody uses", "image", v.name, "bytes", v.size, "last used", v.used.Format(time.RFC3339))
	}
	if missing > 0 {
		errs = append(errs, fmt.Errorf("the filesystem of the images is %d %% full, and %d more bytes should be free, but every other image is in use, pinned or younger than %s",
			percent(capacity, available), missing, c.Policy.MinAge))
	}
	return errors.Join(errs...)
}

// inUse are the IDs of the containers' images.
func inUse(containers []*runtimeapi.Container) map[string]bool {
	used := map[string]bool{}
	for _, ct := range containers {
		used[ct.ImageId], used[ct.ImageRef], used[ct.GetImage().GetImage()] = true, true, true
	}
	return used
}

// candidate is an image that nobody uses now.
type candidate struct {
	id, name    string
	size        int64
	first, used time.Time
}

// idle notes who is here and used, and returns the others.
func (c *Collector) idle(images []*runtimeapi.Image, used map[string]bool, now time.Time) []candidate {
	seen := map[string]*record{}
	var list []candidate
	for _, img := range images {
		r := c.seen[img.Id]
		if r == nil {
			r = &record{first: now, used: now} // of an image from before this process nothing is known
		}
		seen[img.Id] = r
		names := append(slices.Concat(img.RepoTags, img.RepoDigests), img.Id)
		if slices.ContainsFunc(names, func(n string) bool { return used[n] }) {
			r.used = now
			continue
		}
		if !img.Pinned {
			list = append(list, candidate{id: img.Id, name: names[0], size: int64(img.Size), first: r.first, used: r.used})
		}
	}
	c.seen = seen
	return list
}

// choose says which images go, and how many bytes are wanting then to get down to the low mark.
func choose(idle []candidate, p Policy, capacity, available int64, now time.Time) (victims []candidate, missing int64) {
	slices.SortStableFunc(idle, func(a, b candidate) int { return a.used.Compare(b.used) })
	var goal int64
	if capacity > 0 && p.HighPercent < 100 && percent(capacity, available) >= p.HighPercent {
		goal = max(0, capacity/100*int64(100-p.LowPercent)-available)
	}
	var freed int64
	for _, c := range idle {
		young := now.Sub(c.first) < p.MinAge || now.Sub(c.used) < p.MinAge
		old := p.MaxAge > 0 && now.Sub(c.used) > p.MaxAge
		if old || freed < goal && !young {
			victims = append(victims, c)
			freed += c.size
		}
	}
	return victims, max(0, goal-freed)
}

// percent is how full a filesystem is.
func percent(capacity, available int64) int { return int(100 - available*100/capacity) }
