package registry

import (
	"context"
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// Push uploads what the host does not have of an image, and then its manifest under the reference's tag (or
// digest). The host is the first that may be pushed to. progress is told how many of all bytes are there;
// it may be nil.
func (c *Client) Push(ctx context.Context, img v1.Image, progress func(done, all int64)) error {
	var p *peer
	for _, q := range c.peers {
		if q.host.Push {
			p = q
			break
		}
	}
	what := c.ref.Path() + ":" + c.ref.Identifier()
	if p == nil {
		return fmt.Errorf("no host may be pushed to: give one the capability in %s", c.file)
	}
	if err := p.push(ctx, img, progress); err != nil {
		return p.explain(ctx, "room for "+what, err)
	}
	return nil
}

func (p *peer) push(ctx context.Context, img v1.Image, progress func(done, all int64)) error {
	l, err := p.meet(ctx)
	if err != nil {
		return err
	}
	answered, err := l.pass(ctx, p.c.o.Retry.Max)
	if err != nil {
		return err
	}
	defer answered()
	rt, err := p.transport(ctx, transport.PushScope)
	if err != nil {
		return err
	}
	opts := []remote.Option{remote.WithContext(ctx), remote.WithTransport(rt)}
	if progress != nil {
		updates := make(chan v1.Update, 16)
		heard := make(chan struct{})
		go func() {
			defer close(heard)
			for u := range updates { // remote.Write closes it
				progress(u.Complete, u.Total)
			}
		}()
		defer func() { <-heard }()
		opts = append(opts, remote.WithProgress(updates))
	}
	id := p.c.ref.Identifier()
	if p.c.ref.Digest() != "" {
		return remote.Write(p.repo.Digest(id), img, opts...)
	}
	return remote.Write(p.repo.Tag(id), img, opts...)
}
