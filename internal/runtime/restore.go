package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/11f9778f/berth/internal/checkpoint"
	"github.com/11f9778f/berth/internal/engine"
	"github.com/11f9778f/berth/internal/engine/criu"
)

// A container of a checkpoint is an ordinary one until its start: snapshot, bundle and spec are made from what the
// caller asks for. Of the archive come the writable layer, the processes, and defaults of what the caller leaves open:
// image, program, environment. Labels, annotations, mounts, devices and limits never do.

// savedContainer is an archive that was unpacked for a container; nil where there is none.
type savedContainer struct {
	*checkpoint.Unpacked
	process *specs.Process // as it was checkpointed
	image   Image          // that it was made from
	// strict is set if the caller says what it expects to find.
	strict bool
}

// restoreDir is where a container's checkpoint lies until it starts. The folder lives on disk, not below the run
// directory: images are as large as memory.
func (r *Runtime) restoreDir(id string) string { return filepath.Join(r.cfg.ScratchDir, "restore-"+id) }

func restoreKey(id string) string { return id + ".checkpoint" }

func (r *Runtime) undoRestore(ctx context.Context, id string) error {
	return errors.Join(r.cfg.Images.Remove(ctx, restoreKey(id)), os.RemoveAll(r.restoreDir(id)))
}

// unpackCheckpoint unpacks what the container is to be made from, if it is a checkpoint, and looks up its image.
func (c *container) unpackCheckpoint(ctx context.Context) (*savedContainer, error) {
	spec := c.get().Spec
	if spec.Checkpoint == (CheckpointSource{}) {
		return nil, nil
	}
	if err := c.canRestore(ctx); err != nil {
		return nil, err
	}
	s := &savedContainer{strict: spec.Image != ""}
	err := c.sb.ledger.do(ctx, effect{kind: kindRestore, object: c.id, do: func(ctx context.Context) (err error) {
		s.Unpacked, err = c.readCheckpoint(ctx, spec.Checkpoint)
		return err
	}})
	if err == nil {
		err = s.identify(ctx, c.r.cfg.Images)
	}
	if err == nil && !s.strict {
		c.set(func(st *ContainerStatus) { st.Spec.Image = s.image.ID })
	}
	switch {
	case errors.Is(err, checkpoint.ErrArchive):
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	case err != nil:
		return nil, err
	}
	return s, nil
}

// canRestore refuses what would fail at the start.
func (c *container) canRestore(ctx context.Context) error {
	spec, sb := c.get().Spec, c.sb.get().Spec
	shim, err := c.shim()
	switch {
	case err != nil:
		return err
	case !shim.Restores():
		return fmt.Errorf("checkpoint: the shim of handler %q can't restore one: %w", sb.Handler, errdefs.ErrNotImplemented)
	case spec.TTY:
		return fmt.Errorf("checkpoint: a container with a terminal can't be restored: %w", errdefs.ErrFailedPrecondition)
	case sb.User != nil:
		return fmt.Errorf("checkpoint: a container in a user namespace can't be restored: %w", errdefs.ErrFailedPrecondition)
	}
	if _, err := criu.Find(ctx, c.r.cfg.CRIU); err != nil {
		return fmt.Errorf("%w: %w", err, errdefs.ErrFailedPrecondition)
	}
	return nil
}

func (c *container) readCheckpoint(ctx context.Context, from CheckpointSource) (*checkpoint.Unpacked, error) {
	path := from.Path
	if from.Image != "" {
		img, err := c.r.cfg.Images.Lookup(ctx, from.Image)
		if err != nil {
			return nil, fmt.Errorf("image %q: %w", from.Image, err)
		}
		layers, err := c.r.cfg.Images.View(ctx, restoreKey(c.id), img)
		if err != nil {
			return nil, err
		}
		path = layers[0]
	}
	f, err := checkpoint.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	defer f.Close()
	dir := c.r.restoreDir(c.id)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	return checkpoint.Unpack(ctx, f, dir, checkpoint.Limits{})
}

// identify reads the spec, and finds the image by its digest: a tag could mean another one here.
func (s *savedContainer) identify(ctx context.Context, images Images) error {
	spec, err := engine.ParseSpec(s.Spec)
	if err != nil {
		return fmt.Errorf("%s: %w: %w", checkpoint.SpecFile, err, checkpoint.ErrArchive)
	}
	if s.process = spec.Process; s.process == nil || len(s.process.Args) == 0 {
		return fmt.Errorf("%s names no process: %w", checkpoint.SpecFile, checkpoint.ErrArchive)
	}
	ref := s.Config.RootfsImageRef
	if !strings.Contains(ref, "sha256:") {
		return fmt.Errorf("%s: rootfsImageRef %.200q is no digest: %w", checkpoint.ConfigFile, ref, checkpoint.ErrArchive)
	}
	if s.image, err = images.Lookup(ctx, ref); err != nil {
		return fmt.Errorf("the checkpoint's image %.200q (%.200q): %w", ref, s.Config.RootfsImageName, err)
	}
	return nil
}

// fill unpacks the writable layer.
func (s *savedContainer) fill(ctx context.Context, c *container) error {
	if s == nil || s.Diff == "" {
		return nil
	}
	f, err := os.Open(s.Diff)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := c.r.cfg.Images.Fill(ctx, c.id, f); err != nil {
		return fmt.Errorf("the checkpoint's %s: %w", checkpoint.DiffFile, err)
	}
	return os.Remove(s.Diff)
}

// defaults is the image with the program of the checkpoint, where the caller leaves that open.
func (s *savedContainer) defaults(img Image) Image {
	if s == nil || s.strict {
		return img
	}
	img.Config.Entrypoint, img.Config.Cmd = s.process.Args, nil
	img.Config.Env, img.Config.WorkingDir = s.process.Env, s.process.Cwd
	return img
}

// match compares what the caller describes with what was checkpointed: it is the checkpoint that runs.
func (s *savedContainer) match(img Image, made *specs.Spec) error {
	if s == nil {
		return nil
	}
	var what string
	is, was := made.Process, s.process
	switch {
	case img.ID != s.image.ID:
		what = "image"
	case !slices.Equal(is.Args, was.Args):
		what = "command"
	case is.Cwd != was.Cwd:
		what = "working directory"
	case s.strict && (is.User.UID != was.User.UID || is.User.GID != was.User.GID):
		what = "user"
	case s.strict && !slices.Equal(variables(is.Env), variables(was.Env)):
		what = "environment"
	default:
		return nil
	}
	return fmt.Errorf("the container's %s is not the checkpoint's: %w", what, errdefs.ErrFailedPrecondition)
}

// variables sorts an environment and leaves out the name of the pod, which is the sandbox's to give.
func variables(env []string) []string {
	out := slices.DeleteFunc(slices.Clone(env), func(kv string) bool { return strings.HasPrefix(kv, "HOSTNAME=") })
	slices.Sort(out)
	return out
}

// checkpointImages is the folder that the start restores, "" for an ordinary container.
func (c *container) checkpointImages() string {
	if c.get().Spec.Checkpoint == (CheckpointSource{}) {
		return ""
	}
	return filepath.Join(c.r.restoreDir(c.id), checkpoint.ImagesFolder)
}

// dropCheckpoint removes what the start has used up.
func (c *container) dropCheckpoint(ctx context.Context) {
	if err := c.sb.ledger.undoOne(ctx, kindRestore, c.id); err != nil {
		c.r.log.Warn("an unpacked checkpoint stays until the container is removed", "container", c.id, "error", err)
	}
}
