package image

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/11f9778f/berth/internal/image/kind"
	"github.com/11f9778f/berth/internal/image/reference"
)

// Tag gives the image that refOrID means one more name, "repo" or "repo:tag". An image that had this name
// loses it, and goes if it was its last.
func (s *Store) Tag(ctx context.Context, refOrID, name string) (*Image, error) {
	r, err := reference.Parse(name)
	if err != nil {
		return nil, err
	}
	if r.Digest() != "" {
		return nil, kind.Errorf(ErrInvalid, "%q has a digest, which is no name to give; write it as [registry/]name[:tag]", name)
	}
	return s.alter(ctx, refOrID, func(img *Image) change {
		return change{name: map[string]digest.Digest{r.Tagged(): img.Manifest}}
	})
}

// Untag takes a name from the image that has it. An image that loses its last name goes, unless it is pinned.
func (s *Store) Untag(ctx context.Context, name string) error {
	r, err := reference.Parse(name)
	if err != nil {
		return err
	}
	full := r.Tagged()
	if d := r.Digest(); d != "" {
		full = r.WithDigest(d)
	}
	s.mu.Lock()
	_, ok := s.own().names[full]
	s.mu.Unlock()
	if !ok {
		return kind.Errorf(ErrNotFound, "no image in the store has the name %q", full)
	}
	_, err = s.alter(ctx, full, func(*Image) change { return change{unname: []string{full}} })
	return err
}

// Pin keeps the image that refOrID means from being collected, by Prune or by a kubelet, or no longer
// does. Remove and Untag are not kept from their work by it.
func (s *Store) Pin(ctx context.Context, refOrID string, on bool) (*Image, error) {
	return s.alter(ctx, refOrID, func(img *Image) change {
		c := change{pin: map[digest.Digest]bool{}}
		s.mu.Lock()
		defer s.mu.Unlock()
		for d, m := range s.own().manifests {
			if m.config.Digest == img.ID {
				c.pin[d] = on
			}
		}
		return c
	})
}

// alter changes what is recorded of an image, and returns it as it is then; nil where it is gone by that.
func (s *Store) alter(ctx context.Context, refOrID string, make func(*Image) change) (*Image, error) {
	if err := s.gate.enter(); err != nil {
		return nil, err
	}
	defer s.gate.calls.Done()
	img, err := s.Get(refOrID)
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return nil, err
	}
	defer s.lease(img.digests()...)()
	if err := s.commit(make(img)); err != nil {
		return nil, fmt.Errorf("change the image %s: %w", refOrID, err)
	}
	img, _ = s.Get(img.ID.String())
	return img, nil
}

// touchEvery bounds how often the use of an image is written down.
const touchEvery = time.Minute

// touch writes down that an image is used now: in memory, and as the time of its configuration's file.
func (s *Store) touch(id digest.Digest) {
	now := time.Now()
	s.mu.Lock()
	old := s.lastUse[id]
	if now.Sub(old) > touchEvery {
		s.lastUse[id] = now
	}
	s.mu.Unlock()
	if now.Sub(old) > touchEvery {
		if err := os.Chtimes(s.blob(id), now, now); err != nil && !isNotExist(err) {
			s.log.Warn("the use of an image could not be noted; it may be collected too early", "image", id, "err", err)
		}
	}
}

// Users returns the keys of the namespace's root filesystems that lie on the image with this ID, sorted.
func (s *Store) Users(id digest.Digest) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	keys := []string{}
	for key, sn := range s.snaps {
		if sn.image == id && sn.namespace == s.namespace {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}
