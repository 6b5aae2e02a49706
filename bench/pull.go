package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// puller fetches the image, and removes it again.
type puller struct {
	name         string
	pull, remove func(context.Context) error
}

// pullBench measures the pull of an image of 8 layers, 600 MB of tar, from a registry on loopback: each runtime over
// CRI, and curl, a decompressor and tar for two layers at a time. They take turns; after each the disk gets time to
// rest. Then it is pulled by two at once. All that for each way to pack layers.
func pullBench(ctx context.Context, o options) error {
	o.networks = nil
	targets, stop, err := o.targets(ctx)
	defer stop()
	if err != nil {
		return err
	}
	var rows []row
	for _, tool := range o.packed {
		more, err := pullBenchOf(ctx, tool, targets, o.pull)
		if err != nil {
			return err
		}
		rows = append(rows, more...)
	}
	printTable(rows)
	return nil
}

// pullBenchOf measures the pull of layers packed with a tool.
func pullBenchOf(ctx context.Context, tool string, targets []*target, rounds int) ([]row, error) {
	dir, err := os.MkdirTemp("", "bp-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	reg, err := newPullRegistry(dir, tool)
	if err != nil {
		return nil, err
	}
	defer reg.close()
	fmt.Fprintf(os.Stderr, "bench: the image has %d %s layers, %d MB that unpack to %d MB\n", len(reg.layers), tool, reg.packed>>20, reg.unpacked>>20)
	var pullers []puller
	for _, t := range targets {
		if t.floor == nil && t.handler != "crun" { // the engine below containerd makes no difference to a pull
			pullers = append(pullers, t.puller(reg.name()))
		}
	}
	var rows []row
	for _, atOnce := range []int{1, 2} {
		these := pullers
		if _, err := exec.LookPath(tool); err == nil && atOnce == 1 {
			these = append(slices.Clip(pullers), tools(reg, filepath.Join(dir, "tools")))
		}
		more, err := takeTurns(ctx, these, tool, atOnce, rounds)
		if err != nil {
			return nil, err
		}
		rows = append(rows, more...)
	}
	return rows, nil
}

// takeTurns lets each puller pull, and so on.
func takeTurns(ctx context.Context, pullers []puller, tool string, atOnce, rounds int) ([]row, error) {
	all := make([]*samples, len(pullers))
	for i := range pullers {
		all[i] = newSamples()
	}
	for range rounds {
		for i, p := range pullers {
			if err := p.round(ctx, all[i], atOnce); err != nil {
				return nil, fmt.Errorf("%s: %w", p.name, err)
			}
		}
	}
	var rows []row
	for i, p := range pullers {
		rows = append(rows, all[i].rows(p.name, tool, atOnce)...)
	}
	return rows, nil
}

func (p puller) round(ctx context.Context, s *samples, atOnce int) error {
	before, err := freeInodes()
	if err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	began := time.Now()
	for range atOnce {
		g.Go(func() error { return p.pull(gctx) })
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("pull: %w", err)
	}
	t := s.since("image pull", began)
	if err := p.remove(ctx); err != nil {
		return fmt.Errorf("remove: %w", err)
	}
	s.since("image removal", t)
	for deadline := t.Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		// Somebody else may have made some files meanwhile; the image has thousands.
		if free, err := freeInodes(); err == nil && free+100 > before {
			s.since("  its files gone", t)
			break
		}
	}
	syscall.Sync()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(3 * time.Second):
	}
	return nil
}

// freeInodes are those of the filesystem that the runtimes' folders are on.
func freeInodes() (uint64, error) {
	var fs syscall.Statfs_t
	err := syscall.Statfs(os.TempDir(), &fs)
	return fs.Ffree, err
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

// tools is the floor of a pull: what a shell would do.
func tools(reg *pullRegistry, dir string) puller {
	return puller{
		name: "curl|" + reg.tool + "|tar ×2",
		pull: func(ctx context.Context) error {
			if err := os.Mkdir(dir, 0o700); err != nil {
				return err
			}
			cmd := exec.CommandContext(ctx, "xargs", "-P", "2", "-I", "{}", "bash", "-o", "pipefail", "-ec",
				`d=$(mktemp -d "$0/XXXXXX"); curl -sSf "$1" | $2 -dc | tar -x -C "$d"`, dir, "{}", reg.tool)
			cmd.Stdin = strings.NewReader(strings.Join(reg.urls(), "\n"))
			if out, err := cmd.CombinedOutput(); err != nil {
				return errors.Join(err, errors.New(string(out)))
			}
			return nil
		},
		remove: func(context.Context) error { return os.RemoveAll(dir) },
	}
}
