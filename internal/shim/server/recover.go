package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/11f9778f/berth/internal/engine"
	"github.com/11f9778f/berth/internal/shim/crilog"
	"github.com/11f9778f/berth/internal/shim/state"
	"github.com/11f9778f/berth/internal/sys"
	"github.com/11f9778f/berth/internal/trace"
)

// Recover takes over what a predecessor that died has left in the group's directory. What can't be taken over is
// logged and, if it was only intended, undone; it never fails for one container's sake.
func (s *Server) Recover(ctx context.Context) error {
	boxes, err := state.Names(s.path("sandboxes"))
	if err != nil {
		return fmt.Errorf("recover: %w", err)
	}
	for _, id := range boxes {
		b := &sandbox{s: s, stopped: make(chan struct{})}
		err := state.Load(s.path("sandboxes", id+".json"), &b.rec)
		if errors.Is(err, state.ErrEmpty) {
			os.Remove(s.path("sandboxes", id+".json")) // nothing was done yet
			continue
		}
		if err != nil || b.rec.ID != id {
			s.log.Error("a sandbox's record is unreadable", "sandbox", id, "err", err)
			continue
		}
		if b.rec.State == sandboxStopped {
			close(b.stopped)
		}
		s.sandboxes[id] = b
	}
	if err := s.recoverContainers(ctx); err != nil {
		return err
	}
	for name, f := range s.cfg.Files { // of containers that are gone
		s.log.Debug("nobody wants an inherited descriptor", "name", name)
		f.Close()
	}
	s.cfg.Files = nil
	return nil
}

func (s *Server) recoverContainers(ctx context.Context) error {
	tasks, err := state.Names(s.path("containers"))
	if err != nil {
		return fmt.Errorf("recover: %w", err)
	}
	for _, id := range tasks {
		var rec record
		err := state.Load(s.path("containers", id+".json"), &rec)
		if errors.Is(err, state.ErrEmpty) {
			os.Remove(s.path("containers", id+".json"))
			continue
		}
		if err != nil || rec.ID != id {
			s.log.Error("a container's record is unreadable", "container", id, "err", err)
			continue
		}
		if err := s.adopt(ctx, rec); err != nil {
			s.log.Error("take over container", "container", id, "err", err)
		}
	}
	return nil
}

// inherit takes a predecessor's descriptor, made fit for waiting; nil if there is none.
func (s *Server) inherit(name string) *os.File {
	f := s.cfg.Files[name]
	if f == nil {
		return nil
	}
	delete(s.cfg.Files, name)
	ready, err := sys.SetNonblock(f)
	if err != nil {
		s.log.Warn("an inherited descriptor is of no use", "name", name, "err", err)
		return nil
	}
	return ready
}

func (s *Server) adopt(ctx context.Context, rec record) error {
	t := &task{s: s, rec: rec, created: make(chan struct{}), spans: &trace.Recorder{}, execs: map[string]*process{}, adopted: true}
	t.main = newProcess(t, "")
	if rec.Foreign {
		return s.adoptAbsent(t)
	}
	if rec.Engine.Pid == 0 {
		return s.undo(ctx, t)
	}
	spec, err := s.cfg.Engine.LoadSpec(rec.Bundle)
	if err != nil {
		return err
	}
	t.spec = kept(spec)
	c, err := s.cfg.Engine.Adopt(ctx, rec.Engine, spec, engine.AdoptOptions{
		PidFD: s.inherit(rec.ID + "/pidfd"), Console: s.inherit(rec.ID + "/console"),
	})
	if err != nil {
		return err
	}
	close(t.created)
	s.containers[rec.ID] = t
	defer t.inheritClients()()
	if rec.Exit != nil {
		t.c, t.main.p = c, c.Init()
		t.watched.Do(func() { t.main.finish(*rec.Exit) })
		t.main.adoptStdio(rec.Stdio) // what was still on its way to the log
		return t.main.connect(rec.Stdio)
	}
	if !rec.Engine.Started {
		// Its first program waited for the dead shim and can't be told to go on.
		if err := c.Kill(ctx); err != nil {
			s.log.Warn("kill a container that was never started", "container", rec.ID, "err", err)
		}
	}
	t.main.adoptStdio(rec.Stdio)
	t.mu.Lock()
	t.c, t.main.p = c, c.Init()
	t.mu.Unlock()
	if err := t.main.connect(rec.Stdio); err != nil {
		s.log.Error("the output of a container is not logged any more", "container", rec.ID, "err", err)
	}
	if f := c.Init().PidFD(); f != nil {
		s.keeper.Put(rec.ID+"/pidfd", f)
	}
	t.await()
	return nil
}

// undo removes what a Create that did not end may have made.
func (s *Server) undo(ctx context.Context, t *task) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if t.rec.Cgroup != "" {
		if err := s.cfg.Engine.Abandon(ctx, t.rec.Cgroup); err != nil {
			return fmt.Errorf("undo a half-made container: %w", err)
		}
	}
	for _, name := range []string{"stdin", crilog.Stdout, crilog.Stderr} {
		os.Remove(t.main.fifo(name))
		os.Remove(s.path("io", t.rec.ID+"."+name))
	}
	return remove(t.file())
}

// adoptStdio gets the shim's side of a main process's stdio back: from the descriptors that the daemon kept, else from
// the FIFOs' paths, which serve as long as the container itself holds them open.
func (p *process) adoptStdio(w stdioSpec) {
	if err := p.openLog(w); err != nil {
		p.t.s.log.Error("open log", "container", p.t.rec.ID, "err", err)
	}
	if w.Terminal {
		return
	}
	for name, uri := range map[string]string{crilog.Stdout: w.Stdout, crilog.Stderr: w.Stderr} {
		r := p.t.s.inherit(p.t.rec.ID + "/" + name)
		if w.logPath() == "" || uri == "" || p.stdio.log == nil {
			continue
		}
		p.stdio.made = append(p.stdio.made, p.fifo(name))
		if r != nil {
			p.addReader(name, r)
		} else if err := p.openReader(name); err != nil && !errors.Is(err, os.ErrNotExist) {
			p.t.s.log.Error("open output", "container", p.t.rec.ID, "err", err)
		}
	}
	p.adoptInput(w)
}

func (p *process) adoptInput(w stdioSpec) {
	keep := p.t.s.inherit(p.t.rec.ID + "/stdin")
	path := w.Stdin
	if strings.Contains(path, "://") {
		path = p.fifo("stdin")
		p.stdio.made = append(p.stdio.made, path)
	}
	if keep == nil && path != "" {
		// Whether CloseIO was called is not known without the descriptor: an open input is the lesser harm.
		keep, _ = sys.OpenFIFO(path, syscall.O_RDWR)
	}
	if keep != nil {
		p.stdio.input = keep
		p.hold("stdin", keep)
	}
}

// lateExit asks once more how an adopted process ended. Its pidfd is readable as soon as it is a zombie, and before its
// parent has waited for it the kernel's answer is another one.
func lateExit(p Process, st engine.ExitStatus) engine.ExitStatus {
	if p.PidFD() == nil {
		return st
	}
	ws, err := sys.PidFDExit(p.PidFD(), p.Pid())
	if err != nil {
		return st
	}
	if ws.Signaled() {
		return engine.ExitStatus{Code: 128 + int(ws.Signal()), Signal: int(ws.Signal()), At: st.At}
	}
	return engine.ExitStatus{Code: ws.ExitStatus(), At: st.At}
}
