package machine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/11f9778f/berth/internal/engine"
	"github.com/11f9778f/berth/internal/image"
	"github.com/11f9778f/berth/internal/runtime"
)

// Images is runtime.Images on the image store.
func Images(s *image.Store) runtime.Images { return images{s} }

type images struct{ store *image.Store }

// Lookup finds an image by reference or ID, if the image policy allows it.
func (i images) Lookup(_ context.Context, ref string) (runtime.Image, error) {
	img, err := i.get(ref)
	if err == nil {
		err = i.store.Allowed(ref, ref)
	}
	if err != nil {
		return runtime.Image{}, err
	}
	out := runtime.Image{ID: img.ID.String(), Ref: img.ID.String()}
	if len(img.RepoDigests) > 0 {
		out.Ref = img.RepoDigests[0]
	}
	c := img.Config.Config
	out.Config = runtime.ImageConfig{
		User: c.User, Env: c.Env, Entrypoint: c.Entrypoint, Cmd: c.Cmd, WorkingDir: c.WorkingDir, StopSignal: c.StopSignal,
	}
	return out, nil
}

func (i images) get(ref string) (*image.Image, error) {
	img, err := i.store.Get(ref)
	if errors.Is(err, image.ErrNotFound) {
		return nil, fmt.Errorf("%w: it is not on this node, pull it first", errdefs.ErrNotFound)
	}
	return img, err
}

// Prepare makes a snapshot.
func (i images) Prepare(ctx context.Context, key string, img runtime.Image, maps *runtime.UserNamespace, limit int64) ([]engine.Mount, error) {
	native, err := i.get(img.ID)
	if err != nil {
		return nil, err
	}
	root, err := i.store.PrepareLimited(ctx, key, native, image.Limit{Bytes: limit})
	if err != nil {
		return nil, err
	}
	var out []engine.Mount
	for _, m := range root.Mounts {
		if maps != nil {
			m.Options = append(slices.Clone(m.Options), "uidmap="+mapOption(maps.UIDs), "gidmap="+mapOption(maps.GIDs))
		}
		out = append(out, engine.Mount{Type: m.Type, Source: m.Source, Options: m.Options})
	}
	return out, nil
}

// mapOption writes mappings as an option of a root filesystem's mount: see engine.Mount.
func mapOption(list []runtime.IDMapping) string {
	var out []string
	for _, m := range list {
		out = append(out, fmt.Sprintf("%d:%d:%d", m.ContainerID, m.HostID, m.Length))
	}
	return strings.Join(out, ",")
}

// Fill unpacks a layer into a snapshot.
func (i images) Fill(ctx context.Context, key string, layer io.Reader) error {
	return i.store.FillRootfs(ctx, key, layer)
}

// View keeps an image's layers under a key and says where they are.
func (i images) View(ctx context.Context, key string, img runtime.Image) ([]string, error) {
	native, err := i.get(img.ID)
	if err != nil {
		return nil, err
	}
	root, err := i.store.Prepare(ctx, key, native)
	return root.Lower, err
}

// Remove removes a snapshot.
func (i images) Remove(ctx context.Context, key string) error { return i.store.RemoveRootfs(ctx, key) }

// Usage is what is known of a snapshot's size.
func (i images) Usage(ctx context.Context, key string) (runtime.DiskUsage, error) {
	u, at, err := i.store.KnownUsage(ctx, key)
	if errors.Is(err, image.ErrNotFound) {
		err = fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
	}
	return runtime.DiskUsage{Bytes: uint64(u.Bytes), Inodes: uint64(u.Inodes), Limit: uint64(u.MaxBytes), At: at}, err
}

// ReadFile reads a file of the image.
func (i images) ReadFile(ctx context.Context, img runtime.Image, path string, limit int64) ([]byte, error) {
	native, err := i.get(img.ID)
	if err != nil {
		return nil, err
	}
	return i.store.ReadFile(ctx, native, path, limit)
}

// Keys lists the snapshots.
func (i images) Keys(context.Context) ([]string, error) { return i.store.Rootfses(), nil }
