package server

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/11f9778f/berth/internal/engine"
	"github.com/11f9778f/berth/internal/shim/api"
	"github.com/11f9778f/berth/internal/shim/crilog"
	"github.com/11f9778f/berth/internal/sys"
)

// stdioSpec is where a process's input comes from and its output goes: "", the path of a FIFO, or one of the
// schemes of package api.
type stdioSpec struct {
	Terminal  bool   `json:"terminal,omitempty"`
	Stdin     string `json:"stdin,omitempty"`
	Stdout    string `json:"stdout,omitempty"`
	Stderr    string `json:"stderr,omitempty"`
	StdinOnce bool   `json:"stdinOnce,omitempty"`
}

// logPath is the CRI log file, "" if there is none.
func (w stdioSpec) logPath() string {
	for _, uri := range []string{w.Stdout, w.Stderr} {
		if path, ok := strings.CutPrefix(uri, api.SchemeCRILog); ok {
			return path
		}
	}
	return ""
}

func (w stdioSpec) check(main bool) error {
	for name, uri := range map[string]string{"stdin": w.Stdin, "stdout": w.Stdout, "stderr": w.Stderr} {
		path, cri := strings.CutPrefix(uri, api.SchemeCRILog)
		switch {
		case uri == "", filepath.IsAbs(uri):
		case cri && name != "stdin" && main && filepath.IsAbs(path):
			if path != w.logPath() {
				return fmt.Errorf("stdout and stderr name two log files: %w", errdefs.ErrInvalidArgument)
			}
		case uri == api.SchemeAttach && name == "stdin" && main:
		default:
			return fmt.Errorf("%s %q: want the path of a FIFO, or for a container's output cri:// and an absolute path: %w",
				name, uri, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// stdio is the shim's side of a process's input and output.
type stdio struct {
	mu      sync.Mutex
	log     *crilog.Log
	readers map[string]*os.File // FIFOs between the process and the log, until connect gives them to streams
	streams []*crilog.Stream
	// input keeps the FIFO that the process reads open, so that it sees no end before CloseIO.
	input   *os.File
	console *os.File // the process's; borrowed
	copies  []io.Closer
	made    []string // FIFOs to remove
	names   []string // in the descriptor store
	hub     hub
	closed  bool
}

// ends are the process's side.
type ends struct{ in, out, err *os.File }

func (e ends) files() engine.Stdio { return engine.Stdio{In: e.in, Out: e.out, Err: e.err} }

func (e ends) close() {
	for _, f := range []*os.File{e.in, e.out, e.err} {
		if f != nil {
			f.Close()
		}
	}
}

// openStdio makes both sides, before the process exists. With a terminal there is nothing to make for the process.
func (p *process) openStdio(w stdioSpec, spec *specs.Process) (e ends, err error) {
	defer func() {
		if err != nil {
			e.close()
			p.closeStdio()
		}
	}()
	uid, gid := int(spec.User.UID), int(spec.User.GID)
	if err := p.openLog(w); err != nil {
		return e, err
	}
	if w.Terminal {
		return e, nil
	}
	if e.out, err = p.openOutput(crilog.Stdout, w.Stdout, uid, gid); err != nil {
		return e, err
	}
	if e.err, err = p.openOutput(crilog.Stderr, w.Stderr, uid, gid); err != nil {
		return e, err
	}
	e.in, err = p.openInput(w.Stdin, uid, gid)
	return e, err
}

func (p *process) openLog(w stdioSpec) (err error) {
	if path := w.logPath(); path != "" {
		p.stdio.log, err = crilog.Open(path)
	}
	return err
}

// openOutput returns what the process writes to. It is open for reading too, as is fit for a FIFO that must always
// have a reader: nobody dies of SIGPIPE while no shim lives.
func (p *process) openOutput(name, uri string, uid, gid int) (*os.File, error) {
	path := uri
	switch {
	case uri == "":
		return nil, nil
	case strings.HasPrefix(uri, api.SchemeCRILog):
		path = p.fifo(name)
		p.stdio.made = append(p.stdio.made, path)
	}
	if err := sys.MakeFIFO(path, 0o600, uid, gid); err != nil {
		return nil, err
	}
	if path != uri {
		if err := p.openReader(name); err != nil {
			return nil, err
		}
	}
	return sys.OpenFIFO(path, syscall.O_RDWR)
}

func (p *process) openReader(name string) error {
	r, err := sys.OpenFIFO(p.fifo(name), syscall.O_RDONLY|syscall.O_NONBLOCK)
	if err != nil {
		return err
	}
	p.addReader(name, r)
	return nil
}

func (p *process) addReader(name string, r *os.File) {
	if p.stdio.readers == nil {
		p.stdio.readers = map[string]*os.File{}
	}
	p.stdio.readers[name] = r
	p.hold(name, r)
}

func (p *process) openInput(uri string, uid, gid int) (*os.File, error) {
	path := uri
	switch uri {
	case "":
		return nil, nil
	case api.SchemeAttach:
		path = p.fifo("stdin")
		p.stdio.made = append(p.stdio.made, path)
	}
	if err := sys.MakeFIFO(path, 0o600, uid, gid); err != nil {
		return nil, err
	}
	keep, err := sys.OpenFIFO(path, syscall.O_RDWR)
	if err != nil {
		return nil, err
	}
	p.stdio.input = keep
	p.hold("stdin", keep)
	return sys.OpenFIFO(path, syscall.O_RDONLY)
}

// fifo is the path of a FIFO that the shim makes for a main process.
func (p *process) fifo(name string) string { return filepath.Join(p.t.rec.Bundle, name) }

// hold keeps a descriptor of the main process with the daemon too.
func (p *process) hold(name string, f *os.File) {
	if p.execID != "" {
		return
	}
	name = p.t.rec.ID + "/" + name
	p.stdio.names = append(p.stdio.names, name)
	p.t.s.keeper.Put(name, f)
}

// connect lets the data flow, once the process exists.
func (p *process) connect(w stdioSpec) error {
	s := &p.stdio
	s.mu.Lock()
	defer s.mu.Unlock()
	s.console = p.p.Console()
	if w.Terminal {
		if s.console == nil {
			return nil // adopted, and its terminal is lost
		}
		p.hold("console", s.console)
		return p.connectTerminal(w)
	}
	// All streams of a log are made before the first one runs: what a killed shim left is settled by then.
	defer func() {
		for _, stream := range s.streams {
			go stream.Run()
		}
	}()
	for name, r := range s.readers {
		delete(s.readers, name)
		if err := p.follow(name, r, false); err != nil {
			r.Close()
			return err
		}
	}
	return nil
}

// follow makes a stream of the log; r is its own from then on.
func (p *process) follow(name string, r *os.File, terminal bool) error {
	kind := frameStdout
	if name == crilog.Stderr {
		kind = frameStderr
	}
	stream, err := p.stdio.log.Follow(crilog.Source{
		Name: name, File: r, Terminal: terminal, Spool: p.t.s.path("io", p.t.rec.ID+"."+name),
		Tap: func(b []byte) { p.stdio.hub.send(kind, b) },
	})
	if err != nil {
		return err
	}
	p.stdio.streams = append(p.stdio.streams, stream)
	return nil
}

func (p *process) connectTerminal(w stdioSpec) error {
	s := &p.stdio
	if s.log != nil {
		master, err := sys.DupNonblock(s.console)
		if err != nil {
			return err
		}
		if err := p.follow(crilog.Stdout, master, true); err != nil {
			return err
		}
		go s.streams[0].Run()
	} else if w.Stdout != "" {
		if err := s.copyTerminal(w.Stdout, false); err != nil {
			return err
		}
	}
	if w.Stdin == "" || w.Stdin == api.SchemeAttach {
		return nil // an attached client writes to the console itself
	}
	return s.copyTerminal(w.Stdin, true)
}

// copyTerminal copies between the terminal and a FIFO of the caller's.
func (s *stdio) copyTerminal(path string, input bool) error {
	master, err := sys.DupNonblock(s.console)
	if err != nil {
		return err
	}
	// Open for both: neither side then sees an end or an error while the other has not come yet.
	fifo, err := sys.OpenFIFO(path, syscall.O_RDWR|syscall.O_NONBLOCK)
	if err != nil {
		master.Close()
		return err
	}
	s.copies = append(s.copies, master, fifo)
	go func() {
		if input {
			io.Copy(master, onlyReader{fifo})
		} else {
			io.Copy(fifo, onlyReader{master})
		}
		closeAll(master, fifo)
	}()
	return nil
}

// onlyReader hides what makes io.Copy use a system call that terminals refuse.
type onlyReader struct{ io.Reader }

// drain carries what the process has written by now into the log.
func (p *process) drain() {
	p.stdio.mu.Lock()
	streams := p.stdio.streams
	p.stdio.mu.Unlock()
	for _, s := range streams {
		s.Drain()
	}
}

// closeInput lets the process see the end of its input.
func (p *process) closeInput() {
	p.stdio.mu.Lock()
	defer p.stdio.mu.Unlock()
	if p.stdio.input != nil {
		if p.execID == "" {
			p.t.s.keeper.Drop(p.t.rec.ID + "/stdin")
		}
		p.stdio.input.Close()
		p.stdio.input = nil
	}
}

// resize sets the size of the process's terminal.
func (p *process) resize(width, height uint16) error {
	p.stdio.mu.Lock()
	console := p.stdio.console
	p.stdio.mu.Unlock()
	if console == nil {
		return fmt.Errorf("process has no terminal: %w", errdefs.ErrFailedPrecondition)
	}
	err := sys.SetWindowSize(console, width, height)
	if errors.Is(err, os.ErrClosed) {
		return nil // it ended just now
	}
	return err
}

// close ends everything that is open, and removes the FIFOs that the shim made.
func (s *stdio) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.closed = true
	for _, stream := range s.streams {
		stream.Close()
	}
	s.hub.close()
	for _, r := range s.readers {
		r.Close()
	}
	if s.log != nil {
		s.log.Close()
	}
	if s.input != nil {
		s.input.Close()
	}
	closeAll(s.copies...)
	for _, path := range s.made {
		os.Remove(path)
	}
}

// closeStdio is close for a process that is the container's main one: its names leave the descriptor store first.
func (p *process) closeStdio() {
	p.stdio.mu.Lock()
	names := p.stdio.names
	p.stdio.mu.Unlock()
	for _, name := range names {
		p.t.s.keeper.Drop(name)
	}
	p.stdio.close()
}
