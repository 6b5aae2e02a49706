package image

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/11f9778f/berth/internal/image/kind"
)

// PruneOptions are the choices of one Prune. The zero value removes every image that nobody uses.
type PruneOptions struct {
	// Untagged takes only images that have no tag.
	Untagged bool
	// Unused takes only images that nobody has used for so long.
	Unused time.Duration
	// High and Low are per cent of the filesystem: nothing is removed while less than High of it is used;
	// else the images that were used longest ago, until no more than Low should be. 0, 0 looks at no disk.
	High, Low int
	// Keep spares an image besides those that are pinned; it may be nil.
	Keep func(*Image) bool
	// DryRun removes nothing.
	DryRun bool
}

// Pruned is what a Prune did.
type Pruned struct {
	// Images were removed, or would be.
	Images []Image
	// Bytes should become free by that: layers and blobs that no other image has, in no namespace.
	Bytes int64
	// Usage of the filesystem in per cent before, and its size in bytes.
	Usage    int
	Capacity int64
	// Missing are the bytes that are still to be freed to get down to Low, for want of images that nobody uses.
	Missing int64
}

// Prune removes the namespace's images that no root filesystem lies on and that are not pinned, those first that were
// used longest ago. Their files go in the background.
func (s *Store) Prune(ctx context.Context, o PruneOptions) (Pruned, error) {
	if o.High < 0 || o.High > 100 || o.Low < 0 || o.Low > o.High {
		return Pruned{}, kind.Errorf(ErrInvalid, "the marks %d %% and %d %% are not in order: 0 ≤ low ≤ high ≤ 100", o.Low, o.High)
	}
	fs, err := fsInfo(s.images)
	if err != nil {
		return Pruned{}, err
	}
	out := Pruned{Images: []Image{}, Capacity: fs.Capacity}
	if fs.Capacity > 0 {
		out.Usage = int(100 - fs.Available*100/fs.Capacity)
	}
	goal := int64(-1) // no bound
	if o.High > 0 {
		if out.Usage < o.High {
			return out, nil
		}
		goal = max(0, fs.Capacity/100*int64(100-o.Low)-fs.Available)
	}
	for _, img := range s.prunable(o, time.Now()) {
		if goal >= 0 && out.Bytes >= goal {
			break
		}
		bytes := s.exclusive(img, out.Images)
		if !o.DryRun {
			if err := s.Remove(ctx, img.ID.String()); err != nil {
				return out, fmt.Errorf("prune: %w", err)
			}
		}
		out.Images = append(out.Images, *img)
		out.Bytes += bytes
	}
	out.Missing = max(0, goal-out.Bytes)
	return out, nil
}

// prunable are the images that may go, the longest unused first.
func (s *Store) prunable(o PruneOptions, now time.Time) []*Image {
	list := slices.DeleteFunc(s.List(), func(img *Image) bool {
		return img.Pinned || o.Untagged && len(img.RepoTags) > 0 || now.Sub(img.Used) < o.Unused ||
			o.Keep != nil && o.Keep(img) || len(s.Users(img.ID)) > 0
	})
	slices.SortStableFunc(list, func(a, b *Image) int { return a.Used.Compare(b.Used) })
	return list
}

// exclusive is what becomes free when img goes after those in gone.
func (s *Store) exclusive(img *Image, gone []Image) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	isGone := func(m *manifest) bool {
		return m.config.Digest == img.ID || slices.ContainsFunc(gone, func(g Image) bool { return g.ID == m.config.Digest })
	}
	var bytes int64
	for i, l := range img.Layers {
		shared := slices.ContainsFunc(img.Layers[:i], func(o Layer) bool { return o.DiffID == l.DiffID })
		for namespace, t := range s.tenants {
			for _, m := range t.manifests {
				gone := namespace == s.namespace && isGone(m)
				shared = shared || !gone && slices.ContainsFunc(m.layers, func(o Layer) bool { return o.DiffID == l.DiffID })
			}
		}
		if shared {
			continue
		}
		bytes += s.blobs[l.Blob.Digest]
		if rec, ok := s.layerRecs[l.DiffID]; ok {
			bytes += rec.usage.Bytes
		}
	}
	return bytes
}
