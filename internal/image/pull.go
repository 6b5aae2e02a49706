package image

import (
	"context"
	"fmt"
	"slices"

	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/11f9778f/berth/internal/image/kind"
	"github.com/11f9778f/berth/internal/image/reference"
	"github.com/11f9778f/berth/internal/image/registry"
	"github.com/11f9778f/berth/internal/trace"
)

// Pull fetches the image called ref from its registry, unpacks it and returns it. What is here already
// is not fetched; what another pull is fetching is waited for. After an error nothing half-made is left.
func (s *Store) Pull(ctx context.Context, ref string, o PullOptions) (*Image, error) {
	if err := s.gate.enter(); err != nil {
		return nil, err
	}
	defer s.gate.calls.Done()
	defer trace.Start(ctx, "image.pull")()
	r, err := reference.Parse(ref)
	if err != nil {
		return nil, fmt.Errorf("pull: %w", err)
	}
	rep := newReporter(r.String(), o.Progress)
	img, err := s.pull(ctx, r, o, rep)
	rep.close(err)
	if err != nil {
		return nil, fmt.Errorf("pull %s: %w", r.Familiar(), err)
	}
	return img, nil
}

func (s *Store) pull(ctx context.Context, ref reference.Reference, o PullOptions, rep *reporter) (*Image, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(s.life, func() { cancel(ErrClosed) })()
	client, err := s.client(ref, o)
	if err != nil {
		return nil, err
	}
	if err := s.mayPull(ref); err != nil {
		return nil, err
	}
	c, names, err := s.resolve(ctx, client, ref, s.wanted(o.Platform))
	if err != nil {
		return nil, err
	}
	index, err := reference.Parse(names[0])
	if err == nil {
		err = s.admit(ctx, client, ref, c, index.Digest())
	}
	if err != nil {
		return nil, err
	}
	img, err := s.bring(ctx, c, client, rep, names...)
	if isCancel(err) && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return img, err
}

// wanted is the platform to choose for.
func (s *Store) wanted(p *ispec.Platform) ispec.Platform {
	if p == nil {
		return s.platform
	}
	return platforms.Normalize(*p)
}

// resolve fetches manifest and configuration of the image that ref means on the platform, and the names
// that it gets here.
func (s *Store) resolve(ctx context.Context, client *registry.Client, ref reference.Reference, want ispec.Platform) (*contents, []string, error) {
	defer trace.Start(ctx, "image.resolve")()
	if d := ref.Digest(); d != "" && d.Algorithm() != digest.SHA256 {
		return nil, nil, kind.Errorf(ErrInvalid, "the digest algorithm %s is not supported, only sha256 is", d.Algorithm())
	}
	m, err := client.Manifest(ctx, ref.Identifier(), manifestTypes)
	if err != nil {
		return nil, nil, err
	}
	names := []string{ref.WithDigest(m.Digest)}
	if t := ref.Tagged(); t != "" && ref.Digest() == "" {
		names = append(names, t)
	}
	doc, err := parseDocument(m.Bytes, m.MediaType)
	if err != nil {
		return nil, nil, err
	}
	if doc.Manifests != nil {
		chosen, err := doc.choose(want)
		if err != nil {
			return nil, nil, err
		}
		if err := checkDescriptor(chosen); err != nil {
			return nil, nil, err
		}
		if m, err = client.Manifest(ctx, chosen.Digest.String(), manifestTypes); err != nil {
			return nil, nil, err
		}
		if doc, err = parseDocument(m.Bytes, m.MediaType); err != nil {
			return nil, nil, err
		}
	}
	if err := doc.checkManifest(); err != nil {
		return nil, nil, err
	}
	config, err := s.readBlob(doc.Config.Digest)
	if err != nil { // it is not here, or damaged
		if config, err = client.Bytes(ctx, *doc.Config); err != nil {
			return nil, nil, err
		}
	}
	c, err := doc.assemble(ispec.Descriptor{MediaType: m.MediaType, Digest: m.Digest, Size: int64(len(m.Bytes))}, m.Bytes, config, &want)
	return c, names, err
}

func (s *Store) client(ref reference.Reference, o PullOptions) (*registry.Client, error) {
	r := s.cfg.Retry
	return registry.New(ref, registry.Options{
		Auth: o.Auth, Keychain: s.cfg.Keychain, Pool: s.pool,
		PlainHTTP: slices.Concat(s.tunable.Load().PlainHTTP, o.PlainHTTP), Dirs: s.tunable.Load().RegistryDirs,
		Retry: registry.Retry{Attempts: r.Attempts, Base: r.Base, Max: r.Max, Stall: r.Stall},
	})
}
