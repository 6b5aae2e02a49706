package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// toolsName is the floor of a pull: what a shell would do.
const toolsName = "curl|gzip|tar ×2"

// puller fetches the image, and removes it again.
type puller struct {
	name         string
	pull, remove func(context.Context) error
}

// pullBench measures the pull of an image of 8 gzip layers, 600 MB of tar, from a registry on loopback: each
// runtime over CRI, and curl, gzip -d and tar for two layers at a time. They take turns; after each the disk
// gets time to rest.
func pullBench(ctx context.Context, o options) error {
	dir, err := os.MkdirTemp("", "bp-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	reg, err := newPullRegistry(dir)
	if err != nil {
		return err
	}
	defer reg.close()
	fmt.Fprintf(os.Stderr, "bench: the image has %d layers, %d MB that unpack to %d MB\n", len(reg.layers), reg.packed>>20, reg.unpacked>>20)
	o.networks = nil
	targets, stop, err := o.targets(ctx)
	defer stop()
	if err != nil {
		return err
	}
	pullers := []puller{}
	for _, t := range targets {
		if t.floor == nil && t.handler != "crun" { // the engine below containerd makes no difference to a pull
			pullers = append(pullers, t.puller(reg.name()))
		}
	}
	pullers = append(pullers, tools(reg, filepath.Join(dir, "tools")))
	all := make([]*samples, len(pullers))
	for i := range pullers {
		all[i] = newSamples()
	}
	for range o.pull {
		for i, p := range pullers {
			if err := p.round(ctx, all[i]); err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
		}
	}
	var rows []row
	for i, p := range pullers {
		rows = append(rows, all[i].rows(p.name, "loopback", 1)...)
	}
	printTable(rows)
	return nil
}

func (p puller) round(ctx context.Context, s *samples) error {
	began := time.Now()
	if err := p.pull(ctx); err != nil {
		return fmt.Errorf("pull: %w", err)
	}
	t := s.since("image pull", began)
	if err := p.remove(ctx); err != nil {
		return fmt.Errorf("remove: %w", err)
	}
	s.since("image removal", t)
	syscall.Sync()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(3 * time.Second):
	}
	return nil
}

// puller pulls over CRI.
func (r *target) puller(ref string) puller {
	images := cri.NewImageServiceClient(r.conn)
	spec := &cri.ImageSpec{Image: ref}
	name, _, _ := strings.Cut(r.name, "+")
	return puller{
		name: name,
		pull: func(ctx context.Context) error {
			_, err := images.PullImage(ctx, &cri.PullImageRequest{Image: spec})
			return err
		},
		remove: func(ctx context.Context) error {
			_, err := images.RemoveImage(ctx, &cri.RemoveImageRequest{Image: spec})
			return err
		},
	}
}

// tools pulls as a shell does.
func tools(reg *pullRegistry, dir string) puller {
	return puller{
		name: toolsName,
		pull: func(ctx context.Context) error {
			if err := os.Mkdir(dir, 0o700); err != nil {
				return err
			}
			cmd := exec.CommandContext(ctx, "xargs", "-P", "2", "-n", "1", "bash", "-o", "pipefail", "-ec",
				`d=$(mktemp -d "$0/XXXXXX"); curl -sSf "$1" | gzip -dc | tar -x -C "$d"`, dir)
			cmd.Stdin = strings.NewReader(strings.Join(reg.urls(), "\n"))
			if out, err := cmd.CombinedOutput(); err != nil {
				return errors.Join(err, errors.New(string(out)))
			}
			return nil
		},
		remove: func(context.Context) error { return os.RemoveAll(dir) },
	}
}
