package oci

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/11f9778f/berth/internal/engine"
	"github.com/11f9778f/berth/internal/engine/criu"
	"github.com/11f9778f/berth/internal/sys"
)

// imageFlags are those of checkpoint and restore.
type imageFlags struct{ images, work string }

func (p *imageFlags) register(f *flagSet) {
	f.StringVar(&p.images, "image-path", "", "directory of CRIU's images (default: checkpoint, in the working directory)")
	f.StringVar(&p.work, "work-path", "", "directory for CRIU's log (default: that of the images)")
	for _, name := range []string{"file-locks", "ext-unix-sk", "shell-job", "tcp-close"} {
		f.Bool(name, false, "not used: always done where it is needed")
	}
}

// settle makes the paths absolute.
func (p *imageFlags) settle() (err error) {
	if p.images == "" {
		p.images = "checkpoint"
	}
	if p.images, err = filepath.Abs(p.images); err != nil {
		return err
	}
	if p.work == "" {
		p.work = p.images
	}
	p.work, err = filepath.Abs(p.work)
	return err
}

// checkpoint writes what a running container is into a directory, and ends it.
func (a *app) checkpoint(ctx context.Context, args []string) error {
	var p imageFlags
	f := a.flags("checkpoint")
	p.register(f)
	leave := f.Bool("leave-running", false, "let the container run on")
	id, err := a.one(f, args)
	if err == nil {
		err = p.settle()
	}
	if err != nil {
		return err
	}
	tool, err := criu.Find(ctx, a.criu)
	if err != nil {
		return err
	}
	e, status, err := a.store().openWithStatus(ctx, id)
	if err != nil {
		return err
	}
	defer e.release()
	if status != specs.StateRunning && status != engine.StatusPaused {
		return errNotRunning
	}
	spec, err := e.spec()
	if err != nil {
		return err
	}
	c, err := e.adopt(ctx)
	if err != nil {
		return err
	}
	pids, err := c.Pids()
	if err == nil {
		err = os.MkdirAll(p.images, 0o700)
	}
	if err != nil {
		return err
	}
	d := criu.Dump{
		Pid: c.Pid(), Pids: pids, Dir: p.images, Binds: engine.BindTargets(spec), Frozen: status == engine.StatusPaused,
		Terminal: spec.Process.Terminal, SharedIPC: engine.Shares(spec, specs.IPCNamespace), SharedUTS: engine.Shares(spec, specs.UTSNamespace),
	}
	for i := range d.Stdio {
		d.Stdio[i] = fmt.Sprintf("/proc/%d/fd/%d", c.Pid(), i)
	}
	if err := tool.Dump(ctx, d); err != nil {
		return err
	}
	if p.work != p.images {
		if err := os.Rename(filepath.Join(p.images, criu.LogFile), filepath.Join(p.work, criu.LogFile)); err != nil {
			return err
		}
	}
	if *leave {
		return nil
	}
	return c.Kill(ctx)
}

// restore makes a container of a bundle whose processes are those of a checkpoint.
func (a *app) restore(ctx context.Context, args []string) error {
	var m making
	var p imageFlags
	f := a.flags("restore")
	m.register(f)
	p.register(f)
	f.BoolVar(&m.detach, "detach", false, "leave the container running")
	f.alias("d", "detach")
	f.BoolVar(&m.noReaper, "no-subreaper", false, "leave the processes to somebody else's reaper")
	var err error
	if m.id, err = a.one(f, args); err == nil {
		err = p.settle()
	}
	if err != nil {
		return err
	}
	code, err := a.restoreMade(ctx, m, p)
	if err != nil {
		return fmt.Errorf("%s restore failed: %w", a.Name, err)
	}
	return exitCode(code)
}

func (a *app) restoreMade(ctx context.Context, m making, p imageFlags) (int, error) {
	tool, err := criu.Find(ctx, a.criu)
	if err != nil {
		return 0, err
	}
	if !m.detach && !m.noReaper {
		if err := sys.BecomeSubreaper(); err != nil {
			return 0, err
		}
	}
	c, err := a.prepare(ctx, m)
	if err != nil {
		return 0, err
	}
	if err := c.become(ctx, tool, p); err != nil {
		c.undo()
		return 0, err
	}
	if err := writePidFile(m.pidFile, c.Pid()); err != nil {
		c.undo()
		return 0, err
	}
	fg, err := a.foreground(m.detach, c.spec.Process, c.Init())
	if err != nil {
		c.undo()
		return 0, err
	}
	c.entry.release()
	if m.detach {
		return 0, nil
	}
	status, err := fg.wait(ctx, c.Init())
	if derr := a.destroy(ctx, m.id); derr != nil {
		a.log.Warn("delete container", "id", m.id, "err", derr)
	}
	return status.Code, err
}

// become restores the checkpoint in the container that waits.
func (c *creation) become(ctx context.Context, tool criu.Tool, p imageFlags) error {
	work, err := os.MkdirTemp(c.entry.dir, "restore-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	restored, err := c.Restore(ctx, engine.RestoreOptions{Tool: tool, Images: p.images, WorkDir: work})
	if log, rerr := os.ReadFile(filepath.Join(work, criu.RestoreLog)); rerr == nil {
		err = errors.Join(err, os.WriteFile(filepath.Join(p.work, criu.RestoreLog), log, 0o600))
	}
	if restored != nil {
		c.Container = restored
		c.entry.rec.Engine = restored.State()
	}
	if err != nil {
		return err
	}
	return c.entry.save()
}
