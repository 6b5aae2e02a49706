package image

import (
	"context"
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	ocilayout "github.com/google/go-containerregistry/pkg/v1/layout"

	"github.com/11f9778f/berth/internal/image/reference"
)

// PushOptions are the choices of one push.
type PushOptions struct {
	// To is the name to push to; "" is the image's own, which must then be given by name.
	To string
	// Auth are the credentials; nil asks the keychain.
	Auth *Auth
	// PlainHTTP adds hosts to the store's.
	PlainHTTP []string
	// Progress is called from one goroutine with the bytes that are there of all.
	Progress func(done, all int64)
}

// Push uploads an image to a registry. What the registry has is not sent again. It returns the full name
// with the digest that the image has there.
func (s *Store) Push(ctx context.Context, refOrID string, o PushOptions) (string, error) {
	if err := s.gate.enter(); err != nil {
		return "", err
	}
	defer s.gate.calls.Done()
	img, err := s.Get(refOrID)
	if err != nil {
		return "", err
	}
	to := o.To
	if to == "" {
		to = refOrID
	}
	ref, err := reference.Parse(to)
	if err != nil {
		return "", err
	}
	defer s.lease(img.digests()...)()
	if err := s.push(ctx, img, ref, o); err != nil {
		return "", fmt.Errorf("push %s: %w", ref.Familiar(), err)
	}
	return ref.WithDigest(img.Manifest), nil
}

func (s *Store) push(ctx context.Context, img *Image, ref reference.Reference, o PushOptions) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(s.life, func() { cancel(ErrClosed) })()
	// The store is an OCI image layout: the library reads it as one.
	path, err := ocilayout.FromPath(s.images)
	if err != nil {
		return err
	}
	h, err := v1.NewHash(img.Manifest.String())
	if err != nil {
		return err
	}
	v, err := path.Image(h)
	if err != nil {
		return err
	}
	client, err := s.client(ref, PullOptions{Auth: o.Auth, PlainHTTP: o.PlainHTTP})
	if err != nil {
		return err
	}
	return client.Push(ctx, v, o.Progress)
}
