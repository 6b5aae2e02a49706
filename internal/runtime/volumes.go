package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Image volumes: the files of an image, read-only, as a mount of a container. They are mounted on the host
// below volumes/<container id>/<number of the mount>, so that a sub path can be looked up inside.

// mountVolumes mounts the container's image volumes and returns their sources by the mount's number.
func (c *container) mountVolumes(ctx context.Context) (map[int]string, error) {
	spec := c.get().Spec
	wanted := map[int]Image{}
	mounts := append([]Mount(nil), spec.Mounts...)
	for n, m := range mounts {
		if m.Image == nil {
			continue
		}
		img, err := c.r.cfg.Images.Lookup(ctx, m.Image.Image)
		if err != nil {
			return nil, fmt.Errorf("image volume %s: image %q: %w", m.ContainerPath, m.Image.Image, err)
		}
		wanted[n] = img
		v := *m.Image
		v.Ref = img.Ref
		mounts[n].Image = &v
	}
	if len(wanted) == 0 {
		return nil, nil
	}
	c.set(func(s *ContainerStatus) { s.Spec.Mounts = mounts })
	out := map[int]string{}
	err := c.sb.ledger.do(ctx, effect{kind: kindVolumes, object: c.id, do: func(ctx context.Context) error {
		for n, img := range wanted {
			dir, err := c.r.mountVolume(ctx, c.id, n, img)
			if err != nil {
				return fmt.Errorf("image volume %s: %w", mounts[n].ContainerPath, err)
			}
			if out[n], err = beneath(dir, mounts[n].Image.SubPath); err != nil {
				return fmt.Errorf("image volume %s: %w", mounts[n].ContainerPath, err)
			}
		}
		return nil
	}})
	return out, err
}

func volumeKey(id string, n int) string { return id + ".v" + strconv.Itoa(n) }

func (r *Runtime) mountVolume(ctx context.Context, id string, n int, img Image) (string, error) {
	dir := filepath.Join(r.store.volumes(id), strconv.Itoa(n))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	layers, err := r.cfg.Images.View(ctx, volumeKey(id, n), img)
	if err != nil {
		return "", err
	}
	return dir, r.cfg.Kernel.MountLayers(ctx, dir, layers)
}

// beneath looks a path of an image up. A link that leads out of it is no path in it.
func beneath(dir, sub string) (string, error) {
	if sub == "" {
		return dir, nil
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return "", err
	}
	defer root.Close()
	if _, err := root.Stat(sub); err != nil {
		return "", invalid("sub path %q of the image: %v", sub, err)
	}
	return filepath.Join(dir, sub), nil
}

// undoVolumes unmounts what mountVolumes mounted and lets go of the layers.
func (r *Runtime) undoVolumes(ctx context.Context, id string) error {
	dir := r.store.volumes(id)
	entries, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	var errs []error
	for _, e := range entries {
		errs = append(errs, r.cfg.Kernel.Unmount(ctx, filepath.Join(dir, e.Name())))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	keys, err := r.cfg.Images.Keys(ctx)
	if err != nil {
		return err
	}
	for _, k := range keys {
		if strings.HasPrefix(k, id+".v") {
			errs = append(errs, r.cfg.Images.Remove(ctx, k))
		}
	}
	return errors.Join(append(errs, os.RemoveAll(dir))...)
}
