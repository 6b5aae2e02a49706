package server

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"

	"github.com/11f9778f/berth/internal/shim/crilog"
	"github.com/11f9778f/berth/internal/shim/fdstore"
	"github.com/11f9778f/berth/internal/shim/state"
	"github.com/11f9778f/berth/internal/shim/ttrpc"
	"github.com/11f9778f/berth/internal/sys"
)

// Names of the sockets in a group's directory.
const (
	SocketTTRPC  = "shim.sock"
	SocketFD     = "fd.sock"
	SocketStream = "stream.sock"
)

// lastWords is how long the shim stays to answer the call that ended it.
const lastWords = 5 * time.Millisecond

// Config says what a Server is to be.
type Config struct {
	// Dir is the group's directory; it exists, mode 0700.
	Dir string
	// Group is its id, Generation counts its shims from 1 on.
	Group      string
	Generation uint32
	// Namespace is the containerd namespace that events carry.
	Namespace string
	// EventsAddress is the daemon's ttrpc socket; "" keeps events until Hello names one.
	EventsAddress string
	// Managed tells that Berth's daemon keeps the group: it ends the shim itself (Task.Shutdown), and wants
	// no events about what it asked for itself. A stock containerd expects the last ShutdownSandbox to end
	// the shim, and every event.
	Managed bool
	// LogRotation is how CRI logs are rotated where nobody else does.
	LogRotation crilog.Rotation
	// Files are descriptors of a dead predecessor, by name. The Server owns them.
	Files  map[string]*os.File
	Engine Engine
	// Execute puts another binary in the place of this process, with files: see package launch. It returns only if
	// that fails. Nil can't.
	Execute func(binary string, files map[string]*os.File) error
	Logger  *slog.Logger
}

// Server is one shim.
type Server struct {
	cfg     Config
	log     *slog.Logger
	keeper  *fdstore.Keeper
	events  *publisher
	streams *streamHub
	poller  *sys.Poller // waits for output and for ends
	ended   chan struct{}
	once    sync.Once
	rest    rest
	// restores counts the restores that are under way.
	restores atomic.Int32
	gate     gate

	mu         sync.Mutex
	closing    bool
	sandboxes  map[string]*sandbox
	containers map[string]*task
}

// New makes a Server. Recover must be called before Serve.
func New(cfg Config) (*Server, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	for _, d := range []string{"containers", "sandboxes", "pods", "io"} {
		if err := os.MkdirAll(filepath.Join(cfg.Dir, d), 0o700); err != nil {
			return nil, fmt.Errorf("make shim directory: %w", err)
		}
	}
	if err := os.RemoveAll(filepath.Join(cfg.Dir, "restore")); err != nil { // of a dead predecessor
		return nil, fmt.Errorf("make shim directory: %w", err)
	}
	poller, err := sys.NewPoller()
	if err != nil {
		return nil, err
	}
	s := &Server{
		cfg: cfg, log: cfg.Logger, keeper: fdstore.NewKeeper(), poller: poller, ended: make(chan struct{}),
		sandboxes: map[string]*sandbox{}, containers: map[string]*task{},
	}
	s.events = newPublisher(cfg.Namespace, cfg.EventsAddress, cfg.Logger)
	s.streams = newStreamHub(filepath.Join(cfg.Dir, SocketStream))
	return s, nil
}

// Listen opens the group's sockets, in place of those of a dead predecessor. They stay when a shim ends: a successor's have the
// same names.
func Listen(dir string) (rpc, fd, stream *net.UnixListener, err error) {
	var ls []*net.UnixListener
	for _, name := range []string{SocketTTRPC, SocketFD, SocketStream} {
		path := filepath.Join(dir, name)
		os.Remove(path)
		l, err := sys.ListenUnix(path, name == SocketFD)
		if err != nil {
			for _, l := range ls {
				l.Close()
			}
			return nil, nil, nil, err
		}
		ls = append(ls, l)
	}
	return ls[0], ls[1], ls[2], nil
}

// Serve answers until the shim is shut down or ctx ends. Containers live on in either case.
func (s *Server) Serve(ctx context.Context, rpc, fd, stream *net.UnixListener) error {
	srv := ttrpc.NewServer(s.intercept)
	s.register(srv)
	go s.keeper.Serve(fd)
	go s.streams.serve(stream)
	errs := make(chan error, 1)
	go func() { errs <- srv.Serve(ctx, rpc) }()
	s.rest.begun()
	select {
	case <-s.ended:
	case <-ctx.Done():
	case err := <-errs:
		return fmt.Errorf("serve shim: %w", err)
	}
	fd.Close()
	stream.Close()
	s.events.flush(time.Second)
	// The answer to Shutdown itself is still on its way; callers bear that it gets lost.
	time.Sleep(lastWords)
	srv.Close()
	return s.leave()
}

// leave removes the directory of a group that keeps nothing any more, where no daemon of ours does so.
func (s *Server) leave() error {
	s.mu.Lock()
	kept := len(s.sandboxes) + len(s.containers)
	s.mu.Unlock()
	if s.cfg.Managed || kept > 0 {
		return nil
	}
	if err := os.RemoveAll(s.cfg.Dir); err != nil {
		return fmt.Errorf("remove shim directory: %w", err)
	}
	return nil
}

// end lets Serve return.
func (s *Server) end() { s.once.Do(func() { close(s.ended) }) }

// task finds a container.
func (s *Server) task(id string) (*task, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.containers[id]
	if t == nil {
		return nil, fmt.Errorf("container %q: %w", id, errdefs.ErrNotFound)
	}
	return t, nil
}

// process finds a container's main process, or one that Exec made.
func (s *Server) process(id, execID string) (*task, *process, error) {
	t, err := s.task(id)
	if err != nil {
		return nil, nil, err
	}
	if execID == "" {
		return t, t.main, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.execs[execID]
	if p == nil {
		return nil, nil, fmt.Errorf("process %q of container %q: %w", execID, id, errdefs.ErrNotFound)
	}
	return t, p, nil
}

func (s *Server) tasks() []*task {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]*task, 0, len(s.containers))
	for _, t := range s.containers {
		list = append(list, t)
	}
	return list
}

func (s *Server) path(elem ...string) string {
	return filepath.Join(append([]string{s.cfg.Dir}, elem...)...)
}

func checkID(what, id string) error {
	if err := state.ValidID(id); err != nil {
		return fmt.Errorf("%s: %w: %w", what, err, errdefs.ErrInvalidArgument)
	}
	return nil
}

func closeAll(files ...io.Closer) {
	for _, f := range files {
		f.Close()
	}
}
