package server

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/11f9778f/berth/internal/shim/api"
	"github.com/11f9778f/berth/internal/shim/api/containerd"
	"github.com/11f9778f/berth/internal/shim/crilog"
	"github.com/11f9778f/berth/internal/shim/ttrpc"
	"github.com/11f9778f/berth/internal/shim/wire"
)

// An upgrade is a takeover by a successor in the same process: what the shim knows is on disk, its descriptors go over by
// exec, and Recover does the rest. What a takeover after a sudden death can't save is waited for: calls in flight, execs,
// containers that wait for their start. Logs are stopped between two steps and attached clients between two frames, so
// that neither loses a byte.

const (
	// quiet is how long an upgrade waits until nothing is in flight.
	quiet = 5 * time.Second
	// versionTimeout bounds the look whether the new binary runs at all.
	versionTimeout = 5 * time.Second
	// attachPrefix begins the names of inherited connections of attached clients.
	attachPrefix = "attach:"
)

// gate counts what an upgrade waits for, and holds up what is new while one is under way.
type gate struct {
	mu     sync.Mutex
	open   *sync.Cond // or nil
	shut   bool
	inside int
}

// enter waits while an upgrade is tried. leave must follow.
func (g *gate) enter() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open == nil {
		g.open = sync.NewCond(&g.mu)
	}
	for g.shut {
		g.open.Wait()
	}
	g.inside++
}

// join enters in any case: an upgrade that is tried waits for it.
func (g *gate) join() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside++
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside--
}

// close tells whether it was open.
func (g *gate) close() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	was := !g.shut
	g.shut = true
	return was
}

func (g *gate) reopen() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = false
	if g.open != nil {
		g.open.Broadcast()
	}
}

func (g *gate) count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.inside
}

// passing tells whether a call is one that an upgrade does not wait for.
func passing(method string) bool {
	switch method {
	case "/" + api.Service + "/Upgrade", "/" + containerd.TaskService + "/Wait", "/" + containerd.TaskServiceV2 + "/Wait",
		"/" + containerd.SandboxService + "/WaitSandbox":
		return true
	}
	return false
}

// intercept counts calls, and translates their errors.
func (s *Server) intercept(ctx context.Context, method string, call ttrpc.Call) (wire.Message, error) {
	if !passing(method) {
		s.gate.enter()
		defer s.gate.leave()
	}
	return translate(ctx, method, call)
}

// Upgrade: see shim.proto.
func (v shimService) Upgrade(ctx context.Context, r *api.UpgradeRequest) (*wire.Empty, error) {
	if err := v.s.upgrade(ctx, r.Binary); err != nil {
		return nil, fmt.Errorf("upgrade shim %s: %w", v.s.cfg.Group, err)
	}
	return &wire.Empty{}, nil // not reached, but by a test's Execute
}

func (s *Server) upgrade(ctx context.Context, binary string) error {
	if !s.cfg.Managed || s.cfg.Execute == nil {
		return fmt.Errorf("only shims of Berth's own daemon can be upgraded: %w", errdefs.ErrNotImplemented)
	}
	if err := runs(ctx, binary); err != nil {
		return err
	}
	if !s.gate.close() {
		return fmt.Errorf("another upgrade is under way: %w", errdefs.ErrFailedPrecondition)
	}
	defer s.gate.reopen()
	for deadline := time.Now().Add(quiet); ; time.Sleep(2 * time.Millisecond) {
		busy := s.busy()
		if busy == "" {
			break
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return fmt.Errorf("%s: %w", busy, errdefs.ErrFailedPrecondition)
		}
	}
	s.events.flush(time.Second)
	files := map[string]*os.File{}
	for name, f := range s.keeper.Files() {
		files[name] = f
	}
	thaw, err := s.freeze(files)
	defer thaw()
	if err != nil {
		return fmt.Errorf("%w: %w", err, errdefs.ErrFailedPrecondition)
	}
	s.log.Info("the shim executes another binary in its place", "binary", binary)
	return s.cfg.Execute(binary, files)
}

// runs looks whether the binary is a shim that this machine can execute: after the exec it would be too late.
func runs(ctx context.Context, binary string) error {
	if !filepath.IsAbs(binary) {
		return fmt.Errorf("binary %q is no absolute path: %w", binary, errdefs.ErrInvalidArgument)
	}
	ctx, cancel := context.WithTimeout(ctx, versionTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, binary, "-v").CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("containerd-shim-berth-v1")) {
		return fmt.Errorf("%s does not say that it is a shim of Berth's (%w): %.200q: %w", binary, err, out, errdefs.ErrInvalidArgument)
	}
	return nil
}

// busy says what an upgrade has to wait for, "" if nothing.
func (s *Server) busy() string {
	if n := s.gate.count(); n > 0 {
		return fmt.Sprintf("%d calls are in flight", n)
	}
	if s.streams.expected() > 0 {
		return "a client of exec or attach is on its way"
	}
	for _, t := range s.tasks() {
		t.mu.Lock()
		started, ended, execs := t.rec.Engine.Started || t.rec.Foreign, t.rec.Exit != nil, len(t.execs)
		t.mu.Unlock()
		switch {
		case execs > 0:
			return "container " + t.rec.ID + " has an exec"
		case !started && !ended:
			return "container " + t.rec.ID + " waits for its start"
		}
	}
	return ""
}

// freeze stops all logs and attached clients, and adds the clients' connections to files. thaw lets all go on.
func (s *Server) freeze(files map[string]*os.File) (thaw func(), err error) {
	var streams []*crilog.Stream
	var clients []*client
	thaw = func() {
		for _, st := range streams {
			st.Thaw()
		}
		for _, c := range clients {
			c.resume()
		}
		for name, f := range files {
			if strings.HasPrefix(name, attachPrefix) {
				f.Close()
			}
		}
	}
	for _, t := range s.tasks() {
		p := t.main
		p.stdio.mu.Lock()
		mine := p.stdio.streams
		p.stdio.mu.Unlock()
		for _, st := range mine {
			if err := st.Freeze(); err != nil {
				return thaw, err
			}
			streams = append(streams, st)
		}
		for i, c := range p.stdio.hub.all() {
			if !c.pause(time.Second) {
				return thaw, fmt.Errorf("a client attached to container %s is in the middle of something", t.rec.ID)
			}
			clients = append(clients, c)
			f, err := c.conn.(*net.UnixConn).File()
			if err != nil {
				return thaw, fmt.Errorf("hand over a client attached to container %s: %w", t.rec.ID, err)
			}
			files[attachName(t.rec.ID, i, c)] = f
		}
	}
	return thaw, nil
}

// attachName names a client's connection: the container, what the client wants, and a number.
func attachName(id string, n int, c *client) string {
	wants := ""
	for flag, wanted := range map[string]bool{"i": c.stdin, "o": c.stdout, "e": c.stderr} {
		if wanted {
			wants += flag
		}
	}
	return attachPrefix + id + ":" + wants + ":" + strconv.Itoa(n)
}

// inheritClients makes the clients of a predecessor clients of this shim again. They are in the hub before the first byte
// flows; serve, called then, sees to their input.
func (t *task) inheritClients() (serve func()) {
	var serves []func()
	for name, f := range t.s.cfg.Files {
		rest, ok := strings.CutPrefix(name, attachPrefix+t.rec.ID+":")
		wants, _, numbered := strings.Cut(rest, ":")
		if !ok || !numbered {
			continue
		}
		delete(t.s.cfg.Files, name)
		conn, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.s.log.Warn("an attached client is lost", "container", t.rec.ID, "err", err)
			continue
		}
		c := newClient(conn, &api.AttachRequest{
			Stdin: strings.Contains(wants, "i"), Stdout: strings.Contains(wants, "o"), Stderr: strings.Contains(wants, "e"),
		})
		t.main.stdio.hub.add(c)
		serves = append(serves, func() { t.serveClient(c) })
	}
	return func() {
		for _, f := range serves {
			go f()
		}
	}
}
