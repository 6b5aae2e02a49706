package server

import (
	"context"
	"os"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/11f9778f/berth/internal/engine"
	"github.com/11f9778f/berth/internal/engine/cgroup"
	"github.com/11f9778f/berth/internal/engine/systemd"
)

// Engine makes containers. It is package engine, or a test's fake.
type Engine interface {
	LoadSpec(bundle string) (*specs.Spec, error)
	Create(ctx context.Context, o engine.CreateOptions) (Container, error)
	Adopt(ctx context.Context, st engine.State, spec *specs.Spec, o engine.AdoptOptions) (Container, error)
	// Abandon removes the cgroup that a spec's cgroupsPath names, with everything in it.
	Abandon(ctx context.Context, path string) error
	// Prepare is called once, when there are some containers: it makes what pays for many.
	Prepare() error
	PinNamespaces(ctx context.Context, o engine.PinOptions) error
	UnpinNamespaces(dir string) error
}

// Container is what Engine makes; see engine.Container.
type Container interface {
	Start(ctx context.Context) error
	// Restore is for a created container, and returns the one that it has become.
	Restore(ctx context.Context, o engine.RestoreOptions) (Container, error)
	Init() Process
	Exec(ctx context.Context, o engine.ExecOptions) (Process, error)
	State() engine.State
	Kill(ctx context.Context) error
	Pause(ctx context.Context) error
	Resume(ctx context.Context) error
	Update(ctx context.Context, r *specs.LinuxResources) error
	Stats() (*cgroup.Stats, error)
	Pids() ([]int, error)
	OOMKills() (uint64, error)
	Delete(ctx context.Context) error
}

// Process is a process of a Container; see engine.Process.
type Process interface {
	Pid() int
	PidFD() *os.File
	Console() *os.File
	Signal(sig syscall.Signal) error
	Wait(ctx context.Context) (engine.ExitStatus, error)
}

// Linux is the real engine.
type Linux struct {
	specs  *engine.SpecCache
	blank  *engine.BlankMounts
	scopes engine.Scopes // for containers whose specs ask for one
}

// NewLinux returns the engine of a shim that makes many containers.
func NewLinux() Linux {
	return Linux{specs: &engine.SpecCache{}, blank: &engine.BlankMounts{}, scopes: &systemd.Lazy{}}
}

// Prepare implements Engine.
func (l Linux) Prepare() error { return l.blank.Prepare() }

// LoadSpec implements Engine.
func (l Linux) LoadSpec(bundle string) (*specs.Spec, error) { return l.specs.LoadSpec(bundle) }

// Create implements Engine. The spec itself tells whether the container's cgroup is to be a scope of systemd's.
func (l Linux) Create(ctx context.Context, o engine.CreateOptions) (Container, error) {
	o.Specs, o.Blank = l.specs, l.blank
	if o.Spec.Linux != nil && engine.NamesScope(o.Spec.Linux.CgroupsPath) {
		o.Scopes = l.scopes
	}
	c, err := engine.Create(ctx, o)
	if err != nil {
		return nil, err
	}
	return container{c}, nil
}

// Adopt implements Engine.
func (l Linux) Adopt(ctx context.Context, st engine.State, spec *specs.Spec, o engine.AdoptOptions) (Container, error) {
	o.Specs = l.specs
	if st.Scope != "" {
		o.Scopes = l.scopes
	}
	c, err := engine.Adopt(ctx, st, spec, o)
	if err != nil {
		return nil, err
	}
	return container{c}, nil
}

// Abandon implements Engine.
func (l Linux) Abandon(ctx context.Context, path string) error {
	if engine.NamesScope(path) {
		scope, cg, err := engine.ScopeOf(path)
		if err != nil {
			return err
		}
		if err := l.scopes.Stop(ctx, scope); err != nil {
			return err
		}
		path = cg
	}
	g, err := cgroup.Load(path)
	if err != nil {
		return err
	}
	if !g.Exists() {
		return nil
	}
	if err := g.Kill(ctx); err != nil {
		return err
	}
	return g.Delete(ctx)
}

// PinNamespaces implements Engine.
func (Linux) PinNamespaces(ctx context.Context, o engine.PinOptions) error {
	return engine.PinNamespaces(ctx, o)
}

// UnpinNamespaces implements Engine.
func (Linux) UnpinNamespaces(dir string) error { return engine.UnpinNamespaces(dir) }

// container adapts engine.Container, whose methods return pointers and not interfaces.
type container struct{ *engine.Container }

func (c container) Init() Process { return c.Container.Init() }

func (c container) Restore(ctx context.Context, o engine.RestoreOptions) (Container, error) {
	restored, err := c.Container.Restore(ctx, o)
	if err != nil {
		return nil, err
	}
	return container{restored}, nil
}

func (c container) OOMKills() (uint64, error) { return c.Cgroup().OOMKills() }

func (c container) Exec(ctx context.Context, o engine.ExecOptions) (Process, error) {
	p, err := c.Container.Exec(ctx, o)
	if err != nil {
		return nil, err
	}
	return p, nil
}
