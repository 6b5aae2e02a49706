package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/11f9778f/berth/internal/engine"
	"github.com/11f9778f/berth/internal/failpoint"
)

// making is what create and run are told.
type making struct {
	processFlags
	id, bundle                         string
	noPivot, noKeyring, keep, noReaper bool
}

// processFlags are those of every command that starts a process.
type processFlags struct {
	consoleSocket, pidfdSocket, pidFile string
	preserveFDs                         int
	detach                              bool
}

func (p *processFlags) register(f *flagSet) {
	f.StringVar(&p.consoleSocket, "console-socket", "", "unix socket that gets the master of the process's terminal")
	f.StringVar(&p.pidfdSocket, "pidfd-socket", "", "unix socket that gets a pidfd of the process")
	f.StringVar(&p.pidFile, "pid-file", "", "file for the process's number")
	f.IntVar(&p.preserveFDs, "preserve-fds", 0, "give the process so many descriptors besides stdio and $LISTEN_FDS")
}

func (m *making) register(f *flagSet) {
	m.processFlags.register(f)
	f.StringVar(&m.bundle, "bundle", "", "the bundle's directory (default: the working directory)")
	f.alias("b", "bundle")
	f.BoolVar(&m.noPivot, "no-pivot", false, "do not pivot_root: for a host that runs from a ramdisk")
	f.BoolVar(&m.noKeyring, "no-new-keyring", false, "keep the caller's session keyring")
}

// create makes a container that waits for start.
func (a *app) create(ctx context.Context, args []string) (err error) {
	m := making{processFlags: processFlags{detach: true}}
	f := a.flags("create")
	m.register(f)
	if m.id, err = a.one(f, args); err != nil {
		return err
	}
	c, err := a.prepare(ctx, m)
	if err != nil {
		return fmt.Errorf("%s create failed: %w", a.Name, err)
	}
	defer c.entry.release()
	if err := c.park(m); err != nil {
		c.undo()
		return fmt.Errorf("%s create failed: %w", a.Name, err)
	}
	return nil
}

// creation is a container that this very process has made.
type creation struct {
	*engine.Container
	entry   *entry
	spec    *specs.Spec
	process *attachment
}

// prepare makes a container and its state; on an error nothing is left of either.
func (a *app) prepare(ctx context.Context, m making) (_ *creation, err error) {
	if err := checkID(m.id); err != nil {
		return nil, err
	}
	spec, config, bundle, err := a.loadBundle(m)
	if err != nil {
		return nil, err
	}
	c := &creation{spec: spec}
	if c.process, err = m.attach(spec.Process, a.Invocation); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			c.process.close()
		}
	}()
	rec := record{Version: spec.Version, ID: m.id, Bundle: bundle, Created: time.Now().UTC(), Annotations: spec.Annotations}
	rec.Rootfs = rootPath(bundle, spec)
	rec.Engine = engine.State{ID: m.id, Bundle: bundle, CgroupPath: spec.Linux.CgroupsPath}
	o := engine.CreateOptions{
		ID: m.id, Bundle: bundle, Spec: spec, Stdio: c.process.stdio, Files: c.process.files, NoPivot: m.noPivot, NoKeyring: m.noKeyring,
		FindProgram: true, Log: a.log,
	}
	if a.systemdCgroup {
		o.Scopes = a.store().scopes
		if rec.Engine.Scope, rec.Engine.CgroupPath, err = engine.ScopeOf(spec.Linux.CgroupsPath); err != nil {
			return nil, err
		}
	}
	if c.entry, err = a.store().create(ctx, rec, config); err != nil {
		return nil, err
	}
	if err = failpoint.Here("oci.create.recorded"); err == nil {
		c.Container, err = engine.Create(ctx, o)
	}
	if err != nil {
		os.RemoveAll(c.entry.dir)
		c.entry.release()
		return nil, err
	}
	c.entry.rec.Engine = c.State()
	if err := c.hand(); err != nil {
		c.undo()
		return nil, err
	}
	return c, nil
}

// hand records the container and gives the caller's sockets what they are to have.
func (c *creation) hand() error {
	if err := failpoint.Here("oci.create.made"); err != nil {
		return err
	}
	if err := c.entry.save(); err != nil {
		return err
	}
	giveAway(c.Pid(), c.spec.Process.User, c.process.stdio)
	return c.process.hand(c.Init())
}

// park lets the container wait for start, and tells its number: whoever reads that may call start.
func (c *creation) park(m making) error {
	if err := c.Park(c.entry.socket()); err != nil {
		return err
	}
	if err := failpoint.Here("oci.create.parked"); err != nil {
		return err
	}
	return writePidFile(m.pidFile, c.Pid())
}

// undoTimeout bounds the end of a container whose creation failed.
const undoTimeout = 10 * time.Second

// undo removes the container again. The caller's context may be why, so it is not used.
func (c *creation) undo() {
	ctx, cancel := context.WithTimeout(context.Background(), undoTimeout)
	defer cancel()
	c.process.close()
	if c.Delete(ctx) == nil { // else delete finds the record
		os.RemoveAll(c.entry.dir)
	}
	c.entry.release()
}

// loadBundle reads the bundle's configuration and settles what the engine is to be told explicitly. The
// bytes are the configuration as it counts from now on.
func (a *app) loadBundle(m making) (*specs.Spec, []byte, string, error) {
	bundle, err := filepath.Abs(m.bundle)
	if err != nil {
		return nil, nil, "", err
	}
	b, err := readFile(filepath.Join(bundle, "config.json"), maxConfig)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, "", fmt.Errorf("JSON specification file config.json not found: %w", err)
	}
	if err != nil {
		return nil, nil, "", err
	}
	spec, err := engine.ParseSpec(b)
	if err != nil {
		return nil, nil, "", err
	}
	if err := checkProcess(spec.Process); err != nil {
		return nil, nil, "", err
	}
	if spec.Root == nil {
		return nil, nil, "", errors.New("config.json: root must be specified")
	}
	if spec.Linux == nil {
		return nil, nil, "", errors.New("config.json: linux must be specified")
	}
	switch {
	case spec.Linux.CgroupsPath != "":
	case a.systemdCgroup:
		spec.Linux.CgroupsPath = "system.slice:berth-oci:" + m.id
	default:
		spec.Linux.CgroupsPath = "/berth-oci-" + m.id // of its own: no parent is left behind
	}
	if spec.Process.Env, err = prepareEnv(spec.Process.Env); err != nil {
		return nil, nil, "", err
	}
	addListenFDs(spec.Process)
	if b, err = json.Marshal(spec); err != nil {
		return nil, nil, "", err
	}
	return spec, b, bundle, nil
}

// maxConfig bounds config.json.
const maxConfig = 16 << 20

func rootPath(bundle string, spec *specs.Spec) string {
	if filepath.IsAbs(spec.Root.Path) {
		return spec.Root.Path
	}
	return filepath.Join(bundle, spec.Root.Path)
}

// checkProcess refuses what no runtime could run, in the words that runc has for it.
func checkProcess(p *specs.Process) error {
	switch {
	case p == nil:
		return errors.New("process property must not be empty")
	case p.Cwd == "":
		return errors.New("cwd property must not be empty")
	case !filepath.IsAbs(p.Cwd):
		return errors.New("cwd must be an absolute path")
	case len(p.Args) == 0:
		return errors.New("args must not be empty")
	}
	return nil
}
