package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"

	"github.com/11f9778f/berth/internal/checkpoint"
	"github.com/11f9778f/berth/internal/engine/criu"
)

const (
	// checkpointTimeout is how long a checkpoint may take if the caller does not say.
	checkpointTimeout = 5 * time.Minute
	// resumeTimeout bounds the resume after a checkpoint: a CRIU that is late is given time to end by itself.
	resumeTimeout = 2 * time.Minute
)

// CheckpointContainer writes a checkpoint of a running container to the file at location, which stands there whole or
// not at all. The container is paused meanwhile and runs on, also after an error. timeout 0 is 5 minutes. When ctx or
// the timeout ends, the caller is answered, and the container resumed as soon as that is safe.
func (r *Runtime) CheckpointContainer(ctx context.Context, id, location string, timeout time.Duration) error {
	c, _, err := r.running(id)
	if err != nil {
		return err
	}
	if err := checkpoint.CheckLocation(location); err != nil {
		return invalid("checkpoint container %s: %v", short(id), err)
	}
	if timeout <= 0 {
		timeout = checkpointTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	work, end := context.WithTimeout(c.life, timeout)
	stop := context.AfterFunc(ctx, end)
	op := c.saving.do(func() error {
		defer end()
		defer stop()
		return r.saveContainers(work, []*container{c}, nothingShared, func(*container) string { return location })
	})
	if err := op.wait(ctx); err != nil {
		return fmt.Errorf("checkpoint container %s: %w", short(id), err)
	}
	return nil
}

func nothingShared(context.Context) error { return nil }

// saveContainers makes an archive of each container, all of the same moment: each is paused before the first is
// looked at, and they are resumed together. Meanwhile shared is called to save what belongs to several of them.
func (r *Runtime) saveContainers(ctx context.Context, list []*container, shared func(context.Context) error, location func(*container) string) (err error) {
	tool, err := criu.Find(ctx, r.cfg.CRIU)
	if err != nil {
		return fmt.Errorf("%w: %w", err, errdefs.ErrFailedPrecondition)
	}
	dir, err := os.MkdirTemp(r.cfg.ScratchDir, "checkpoint-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var cuts []*cut
	defer func() {
		for _, k := range cuts {
			k.close()
		}
	}()
	for _, c := range list {
		k := &cut{c: c, dir: filepath.Join(dir, c.id)}
		if err := k.open(ctx); err != nil {
			return err
		}
		cuts = append(cuts, k)
	}
	if err := r.takeCuts(ctx, tool, cuts, shared); err != nil {
		return err
	}
	for i, k := range cuts {
		if err := k.archive(ctx, location(k.c)); err != nil {
			for _, done := range cuts[:i] {
				err = errors.Join(err, os.Remove(location(done.c)))
			}
			return err
		}
	}
	return nil
}

// takeCuts pauses, writes and resumes.
func (r *Runtime) takeCuts(ctx context.Context, tool criu.Tool, cuts []*cut, shared func(context.Context) error) (err error) {
	defer func() { err = errors.Join(err, resumeAll(ctx, cuts)) }()
	for _, k := range cuts {
		k.paused = true // also a pause without an answer may be one
		if err := k.shim.PauseTask(ctx, k.c.id); err != nil {
			return fmt.Errorf("pause: %w", err)
		}
	}
	at := time.Now()
	for _, k := range cuts {
		k.at = at
		if err := k.take(ctx, tool); err != nil {
			return fmt.Errorf("container %s: %w", k.c.get().Spec.Name, err)
		}
	}
	return shared(ctx)
}

// resumeAll resumes under a context of its own.
func resumeAll(ctx context.Context, cuts []*cut) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), resumeTimeout)
	defer cancel()
	var g errgroup.Group
	for _, k := range cuts {
		if !k.paused {
			continue
		}
		g.Go(func() error {
			err := k.shim.ResumeTask(ctx, k.c.id)
			if err == nil || k.c.get().State != ContainerRunning || errdefs.IsFailedPrecondition(err) || errdefs.IsNotFound(err) {
				return nil // it runs, or has ended meanwhile
			}
			return fmt.Errorf("resume after the checkpoint: %w", err)
		})
	}
	return g.Wait()
}

// cut is what is kept of one container at the moment of the checkpoint.
type cut struct {
	c       *container
	shim    Shim
	dir     string // <dir>/images is CRIU's
	reopen  func() // lets execs in again
	paused  bool
	at      time.Time
	log     *os.File
	logSize int64
}

// open prepares what needs no pause.
func (k *cut) open(ctx context.Context) (err error) {
	if k.shim, err = k.c.shim(); err != nil {
		return err
	}
	if k.reopen, err = k.c.execs.close(ctx); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			k.close()
		}
	}()
	if _, err := k.c.upper(); err != nil {
		return err
	}
	return os.MkdirAll(k.images(), 0o700)
}

func (k *cut) images() string { return filepath.Join(k.dir, "images") }
func (k *cut) diff() string   { return filepath.Join(k.dir, checkpoint.DiffFile) }

func (k *cut) close() {
	if k.reopen != nil {
		k.reopen()
	}
	if k.log != nil {
		k.log.Close()
	}
}

// take writes processes and writable layer, while the container is paused.
func (k *cut) take(ctx context.Context, tool criu.Tool) error {
	if err := k.shim.CheckpointTask(ctx, k.c.id, k.images(), tool.Path); err != nil {
		return err
	}
	upper, err := k.c.upper()
	if err != nil {
		return err
	}
	if err := writeLayer(ctx, k.diff(), upper); err != nil {
		return err
	}
	return k.openLog()
}

// writeLayer writes what is in a folder into a new file, as a layer of an image.
func writeLayer(ctx context.Context, name, dir string) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(checkpoint.Diff(ctx, f, dir), f.Close())
}

// openLog notes the log as it is now. What is no file, a link for one, is nobody's log.
func (k *cut) openLog() error {
	path := k.c.get().LogPath
	if path == "" {
		return nil
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil // being rotated
	}
	if err != nil {
		return fmt.Errorf("container log: %w", err)
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("container log %s is no file: %w", path, errdefs.ErrFailedPrecondition)
	}
	if err != nil {
		f.Close()
		return err
	}
	k.log, k.logSize = f, st.Size()
	return nil
}

// archive puts everything together, while the container runs again.
func (k *cut) archive(ctx context.Context, location string) error {
	st := k.c.get()
	spec, err := os.ReadFile(filepath.Join(k.c.r.store.bundle(k.c.id), "config.json"))
	if err != nil {
		return err
	}
	handler := k.c.sb.get().Spec.Handler
	if handler == "" {
		handler = "berth"
	}
	content := checkpoint.Content{
		Config: checkpoint.Config{
			ID: st.ID, Name: st.Spec.Name, RootfsImage: firstOf(st.Spec.UserImage, st.Spec.Image), RootfsImageRef: st.ImageRef,
			RootfsImageName: firstOf(st.Spec.UserImage, st.Spec.Image), OCIRuntime: handler, CreatedTime: st.CreatedAt, CheckpointedAt: k.at,
		},
		Spec: spec, Images: k.images(), Diff: k.diff(), Log: k.log, LogSize: k.logSize,
	}
	return checkpoint.Place(ctx, location, func(w io.Writer) error { return checkpoint.Write(ctx, w, content) })
}

// upper is the folder of the container's writable layer.
func (c *container) upper() (string, error) {
	for _, m := range c.rootfs {
		for _, o := range m.Options {
			if dir, ok := strings.CutPrefix(o, "upperdir="); ok && m.Target == "" {
				return dir, nil
			}
		}
	}
	return "", fmt.Errorf("its root filesystem has no writable layer: %w", errdefs.ErrFailedPrecondition)
}

// unpause resumes a container that an earlier daemon was checkpointing when it ended.
func (c *container) unpause() {
	if c.execs.isShut() {
		return // a checkpoint of ours
	}
	c.saving.join("unpause", func() error {
		shim, err := c.shim()
		if err == nil {
			ctx, cancel := context.WithTimeout(c.life, resumeTimeout)
			defer cancel()
			err = shim.ResumeTask(ctx, c.id)
		}
		if err != nil {
			c.r.log.Warn("a container that was paused for a checkpoint could not be resumed", "container", c.id, "error", err)
		}
		return err
	})
}

// emptyScratch removes what an earlier daemon had not finished, and what was unpacked before the boot. It follows
// recovery, which knows the containers.
func (r *Runtime) emptyScratch() error {
	entries, err := os.ReadDir(r.cfg.ScratchDir)
	if err != nil {
		return fmt.Errorf("read folder for checkpoints: %w", err)
	}
	for _, e := range entries {
		id, restore := strings.CutPrefix(e.Name(), "restore-")
		if restore && r.container(id) != nil || !restore && !strings.HasPrefix(e.Name(), "checkpoint-") {
			continue
		}
		err = errors.Join(err, os.RemoveAll(filepath.Join(r.cfg.ScratchDir, e.Name())))
	}
	return err
}
