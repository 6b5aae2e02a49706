package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/11f9778f/berth/internal/engine"
	"github.com/11f9778f/berth/internal/sys"
)

// Errors that callers of runc know by their words.
var (
	errNotExist   = errors.New("container does not exist")
	errExist      = errors.New("container with given ID already exists")
	errInvalidID  = errors.New("invalid container ID format")
	errEmptyID    = errors.New("container id cannot be empty")
	errNotRunning = errors.New("container not running")
	errNotPaused  = errors.New("container not paused")
)

var idFormat = regexp.MustCompile(`^[\w+\-.]+$`)

// maxID is the longest name of a directory.
const maxID = 255

func checkID(id string) error {
	switch {
	case id == "":
		return errEmptyID
	case id == "." || id == ".." || len(id) > maxID || !idFormat.MatchString(id):
		return errInvalidID
	}
	return nil
}

// record is state.json.
type record struct {
	Version     string            `json:"ociVersion"`
	ID          string            `json:"id"`
	Bundle      string            `json:"bundle"`
	Rootfs      string            `json:"rootfs"`
	Created     time.Time         `json:"created"`
	Annotations map[string]string `json:"annotations,omitempty"`
	// Engine is what the engine needs. Its pid is 0 until the container has been made.
	Engine engine.State `json:"engine"`
}

// store is a state directory.
type store struct {
	root   string
	log    *slog.Logger
	scopes engine.Scopes
}

// entry is a container's directory.
type entry struct {
	store
	dir  string
	rec  record
	lock *os.File
}

func (e *entry) stateFile() string  { return filepath.Join(e.dir, "state.json") }
func (e *entry) configFile() string { return filepath.Join(e.dir, "config.json") }
func (e *entry) socket() string     { return filepath.Join(e.dir, "start.sock") }
func (e *entry) lockFile() string   { return filepath.Join(e.dir, "lock") }

// create makes the directory of a new container, with state.json in it, locked.
func (s store) create(ctx context.Context, rec record, config []byte) (*entry, error) {
	if err := os.MkdirAll(s.root, 0o700); err != nil {
		return nil, err
	}
	e := &entry{store: s, dir: filepath.Join(s.root, rec.ID), rec: rec}
	if err := os.Mkdir(e.dir, 0o700); errors.Is(err, fs.ErrExist) {
		return nil, errExist
	} else if err != nil {
		return nil, err
	}
	err := e.acquire(ctx)
	if err == nil {
		err = errors.Join(e.save(), writeFile(e.configFile(), config))
	}
	if err != nil {
		os.RemoveAll(e.dir)
		e.release()
		return nil, err
	}
	return e, nil
}

// open reads a container's record.
func (s store) open(id string) (*entry, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	e := &entry{store: s, dir: filepath.Join(s.root, id)}
	if err := e.load(); err != nil {
		return nil, err
	}
	return e, nil
}

// openLocked is open for whoever changes the container.
func (s store) openLocked(ctx context.Context, id string) (*entry, error) {
	e, err := s.open(id)
	if err != nil {
		return nil, err
	}
	if err := e.acquire(ctx); err != nil {
		return nil, err
	}
	if err := e.load(); err != nil { // it may have changed, or gone, until here
		e.release()
		return nil, err
	}
	return e, nil
}

// openWithStatus is openLocked for whoever goes by what the container does.
func (s store) openWithStatus(ctx context.Context, id string) (*entry, specs.ContainerState, error) {
	e, err := s.openLocked(ctx, id)
	if err != nil {
		return nil, "", err
	}
	status, err := e.status()
	if err != nil {
		e.release()
		return nil, "", err
	}
	return e, status, nil
}

// maxRecord bounds state.json: annotations may be long.
const maxRecord = 32 << 20

func (e *entry) load() error {
	b, err := readFile(e.stateFile(), maxRecord)
	if errors.Is(err, fs.ErrNotExist) {
		return errNotExist
	}
	if err != nil {
		return err
	}
	e.rec = record{}
	if err := json.Unmarshal(b, &e.rec); err != nil {
		return fmt.Errorf("read %s: %w", e.stateFile(), err)
	}
	return nil
}

func (e *entry) save() error {
	b, err := json.Marshal(e.rec)
	if err != nil {
		return err
	}
	return writeFile(e.stateFile(), b)
}

// lockWait bounds how long a command waits for another one on the same container.
const lockWait = 30 * time.Second

// acquire locks the container until release, or the end of this process.
func (e *entry) acquire(ctx context.Context) error {
	deadline := time.Now().Add(lockWait)
	for {
		f, err := sys.LockFile(e.lockFile())
		switch {
		case err == nil:
			e.lock = f
			return nil
		case errors.Is(err, fs.ErrNotExist):
			return errNotExist
		case !errors.Is(err, sys.ErrLocked):
			return err
		case time.Now().After(deadline):
			return fmt.Errorf("container %s is busy: another command has held it for %s", filepath.Base(e.dir), lockWait)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(2 * time.Millisecond):
		}
	}
}

func (e *entry) release() {
	if e.lock != nil {
		e.lock.Close()
		e.lock = nil
	}
}

// busy tells whether some command holds the container.
func (e *entry) busy() bool {
	f, err := sys.LockFile(e.lockFile())
	if err != nil {
		return errors.Is(err, sys.ErrLocked)
	}
	f.Close()
	return false
}

// status asks the kernel.
func (e *entry) status() (specs.ContainerState, error) {
	if e.rec.Engine.Pid == 0 {
		if e.lock == nil && e.busy() {
			return specs.StateCreating, nil
		}
		return specs.StateStopped, nil
	}
	return e.rec.Engine.Status(e.socket())
}

// spec is the configuration that the container was created with.
func (e *entry) spec() (*specs.Spec, error) {
	b, err := readFile(e.configFile(), maxRecord)
	if errors.Is(err, fs.ErrNotExist) {
		return &specs.Spec{Process: &specs.Process{}, Linux: &specs.Linux{}}, nil // died before it was written
	}
	if err != nil {
		return nil, err
	}
	return engine.ParseSpec(b)
}

// adopt takes the container over to change or end it; see adoptWhole for one that is to run a program.
func (e *entry) adopt(ctx context.Context) (*engine.Container, error) {
	spec, err := e.spec()
	if err != nil {
		return nil, err
	}
	if spec.Linux != nil {
		spec.Linux.Seccomp = nil // compiling it is of use only for a new process
	}
	return engine.Adopt(ctx, e.rec.Engine, spec, e.adoptOptions())
}

func (e *entry) adoptOptions() engine.AdoptOptions {
	return engine.AdoptOptions{Log: e.log, Scopes: e.scopes}
}

// adoptWhole takes the container over to run a program in it; with parked, to start the one that waits.
func (e *entry) adoptWhole(ctx context.Context, spec *specs.Spec, parked bool) (*engine.Container, error) {
	o := e.adoptOptions()
	if parked {
		o.Parked = e.socket()
	}
	return engine.Adopt(ctx, e.rec.Engine, spec, o)
}
