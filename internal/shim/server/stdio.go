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
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/11f9778f/berth/internal/engine"
	"github.com/11f9778f/berth/internal/shim/api"
	"github.com/11f9778f/berth/internal/shim/crilog"
	"github.com/11f9778f/berth/internal/sys"
)

// stdio is the shim's side of a process's input and output.
type stdio struct {
	mu      sync.Mutex
	log     *crilog.Log
	readers map[string]*os.File // FIFOs between the process and the log, until connect gives them to streams
	streams []*crilog.Stream
	relays  []*relay
	outlets map[string]*outlet // by URI, until connect
	logger  *logger
	// input keeps the FIFO that the process reads open, so that it sees no end before CloseIO.
	input *os.File
	probe *os.File // reads the same FIFO, until connect
	// inputEnded tells that CloseIO was called, be it before connect.
	inputEnded bool
	console    *os.File // the process's; borrowed
	copies     []io.Closer
	made       []string // FIFOs to remove
	names      []string // in the descriptor store
	hub        hub
	closed     bool
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
	if w.UID != 0 || w.GID != 0 {
		uid, gid = w.UID, w.GID
	}
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
		p.stdio.log, err = crilog.Open(path, p.t.s.cfg.LogRotation)
	}
	return err
}

// openOutput returns what the process writes to.
func (p *process) openOutput(name, uri string, uid, gid int) (*os.File, error) {
	switch {
	case uri == "":
		return nil, nil
	case strings.HasPrefix(uri, api.SchemeCRILog):
		return p.openLogged(name, uid, gid)
	case isLogger(uri):
		if err := p.startLogger(uri, uid, gid); err != nil {
			return nil, err
		}
		return p.stdio.logger.take(name), nil
	}
	r, theirs, err := sys.Pipe(uid, gid)
	if err != nil {
		return nil, err
	}
	to, err := p.stdio.outlet(uri)
	if err != nil {
		closeAll(r, theirs)
		return nil, err
	}
	p.stdio.relays = append(p.stdio.relays, newRelay(r, to))
	return theirs, nil
}

// openLogged returns a FIFO that goes to the log. It is open for reading too, as is fit for one that must always have a
// reader: nobody dies of SIGPIPE while no shim lives.
func (p *process) openLogged(name string, uid, gid int) (*os.File, error) {
	path := p.fifo(name)
	p.stdio.made = append(p.stdio.made, path)
	if err := sys.MakeFIFO(path, 0o600, uid, gid); err != nil {
		return nil, err
	}
	if err := p.openReader(name); err != nil {
		return nil, err
	}
	return sys.OpenFIFO(path, syscall.O_RDWR)
}

func (p *process) startLogger(uri string, uid, gid int) (err error) {
	if p.stdio.logger == nil {
		p.stdio.logger, err = startLogger(uri, p.t.rec.ID, p.t.s.cfg.Namespace, uid, gid)
	}
	return err
}

// outlet opens an output once, for both streams.
func (s *stdio) outlet(uri string) (*outlet, error) {
	if to := s.outlets[uri]; to != nil {
		return to, nil
	}
	to, err := openOutlet(uri)
	if err != nil {
		return nil, err
	}
	if s.outlets == nil {
		s.outlets = map[string]*outlet{}
	}
	s.outlets[uri] = to
	return to, nil
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
func (p *process) connect(w stdioSpec) (err error) {
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
	for _, r := range s.relays {
		r.run()
	}
	// All streams of a log are made before the first one runs: what a killed shim left is settled by then.
	defer func() {
		for _, stream := range s.streams {
			err = errors.Join(err, stream.Start(p.t.s.poller))
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
		master, err := sys.Dup(s.console)
		if err != nil {
			return err
		}
		if err := p.follow(crilog.Stdout, master, true); err != nil {
			return err
		}
		if err := s.streams[0].Start(p.t.s.poller); err != nil {
			return err
		}
	} else if w.Stdout != "" {
		if err := p.relayTerminal(w); err != nil {
			return err
		}
	}
	if w.Stdin == "" || w.Stdin == api.SchemeAttach {
		return nil // an attached client writes to the console itself
	}
	return s.typeInto(w.Stdin)
}

// relayTerminal carries what the terminal shows to where the caller wants it.
func (p *process) relayTerminal(w stdioSpec) (err error) {
	s := &p.stdio
	var to *outlet
	if isLogger(w.Stdout) {
		if err := p.startLogger(w.Stdout, w.UID, w.GID); err != nil {
			return err
		}
		to = newOutlet(s.logger.take(crilog.Stdout), false)
	} else if to, err = s.outlet(w.Stdout); err != nil {
		return err
	}
	master, err := sys.Dup(s.console)
	if err != nil {
		to.f.Close()
		return err
	}
	r := newRelay(master, to)
	s.relays = append(s.relays, r)
	r.run()
	return nil
}

// drain carries what the process has written by now into the log.
func (p *process) drain() {
	p.stdio.mu.Lock()
	streams := p.stdio.streams
	p.stdio.mu.Unlock()
	for _, s := range streams {
		s.Drain()
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
	if _, ended := p.exited(); ended {
		return nil // just now, perhaps
	}
	return err
}

// close ends everything that is open, and removes the FIFOs that the shim made.
func (s *stdio) close() {
	s.finishRelays()
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
	for _, f := range []*os.File{s.input, s.probe} {
		if f != nil {
			f.Close()
		}
	}
	closeAll(s.copies...)
	for _, path := range s.made {
		os.Remove(path)
	}
}

// finishRelays waits for what the ended process has written, and for the program that logs it.
func (s *stdio) finishRelays() {
	s.mu.Lock()
	relays, l := s.relays, s.logger
	s.relays, s.logger = nil, nil
	s.mu.Unlock()
	deadline := time.Now().Add(lastOutput)
	for _, r := range relays {
		r.finish(deadline)
	}
	if l != nil {
		l.close()
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
