// Package nri lets plugins of the Node Resource Interface (github.com/containerd/nri) connect to the
// runtime: they learn of every pod and container, may change a container before it is made, and its limits
// later, and may ask for containers to be stopped.
//
// Plugins connect to a unix socket, or are started from a folder. One that fails or does not answer in time
// is dropped by the library; what it refuses fails with its words.
//
// It decides nothing about containers: it translates between package runtime and the interface's messages.
package nri

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/containerd/nri/pkg/adaptation"
	"github.com/containerd/nri/pkg/log"
	"github.com/containerd/nri/pkg/runtime-tools/generate"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/11f9778f/berth/internal/runtime"
	"github.com/11f9778f/berth/internal/sys"
)

// Config says where plugins come from.
type Config struct {
	// Socket is where plugins connect; its folder is made. Empty lets none connect.
	Socket string
	// Plugins and PluginConfig are folders of plugins to start, and of their configurations.
	Plugins, PluginConfig string
	// CDIDirs are the folders of the CDI devices that plugins may ask for.
	CDIDirs []string
	Version string
	Logger  *slog.Logger
}

// Runtime is what plugins act on. *runtime.Runtime is one.
type Runtime interface {
	Sandboxes() []runtime.SandboxStatus
	Containers(sandboxID string) []runtime.ContainerStatus
	Adjust(ctx context.Context, id string, r runtime.Resources) error
	StopContainer(ctx context.Context, id string, grace time.Duration) error
	SpecOf(id string) (*specs.Spec, error)
}

// patience bounds what a plugin's own request may wait for a container that is busy.
const patience = 5 * time.Second

// Plugins are the plugins of a node. Until Start nobody is told anything.
type Plugins struct {
	cfg Config
	log *slog.Logger
	nri *adaptation.Adaptation
	rt  Runtime
}

var _ runtime.Plugins = (*Plugins)(nil)

// New makes a node's plugins; runtime.Config takes them.
func New(cfg Config) (*Plugins, error) {
	p := &Plugins{cfg: cfg, log: cfg.Logger}
	log.Set(logger{cfg.Logger})
	options := []adaptation.Option{adaptation.WithPluginPath(cfg.Plugins), adaptation.WithPluginConfigPath(cfg.PluginConfig)}
	if cfg.Socket == "" {
		options = append(options, adaptation.WithDisabledExternalConnections())
	} else {
		options = append(options, adaptation.WithSocketPath(cfg.Socket))
	}
	var err error
	if p.nri, err = adaptation.New("berth", cfg.Version, p.synchronize, p.requested, options...); err != nil {
		return nil, fmt.Errorf("make the Node Resource Interface: %w", err)
	}
	return p, nil
}

// Start starts plugins and lets others connect.
func (p *Plugins) Start(rt Runtime) error {
	p.rt = rt
	if err := sys.Punctual(p.nri.Start); err != nil {
		return fmt.Errorf("start the Node Resource Interface: %w", err)
	}
	return nil
}

// Close disconnects all plugins.
func (p *Plugins) Close() { p.nri.Stop() }

// Notify tells plugins of an event.
func (p *Plugins) Notify(ctx context.Context, e runtime.PluginEvent, sb runtime.SandboxStatus, c runtime.ContainerStatus) error {
	pod := podOf(sb)
	switch e {
	case runtime.PluginRunSandbox:
		return p.nri.RunPodSandbox(ctx, &adaptation.RunPodSandboxRequest{Pod: pod})
	case runtime.PluginStopSandbox:
		return p.nri.StopPodSandbox(ctx, &adaptation.StopPodSandboxRequest{Pod: pod})
	case runtime.PluginRemoveSandbox:
		return p.nri.RemovePodSandbox(ctx, &adaptation.RemovePodSandboxRequest{Pod: pod})
	}
	container := p.containerOf(c)
	switch e {
	case runtime.PluginCreated:
		return p.nri.PostCreateContainer(ctx, &adaptation.PostCreateContainerRequest{Pod: pod, Container: container})
	case runtime.PluginStart:
		return p.nri.StartContainer(ctx, &adaptation.StartContainerRequest{Pod: pod, Container: container})
	case runtime.PluginStarted:
		return p.nri.PostStartContainer(ctx, &adaptation.PostStartContainerRequest{Pod: pod, Container: container})
	case runtime.PluginUpdated:
		return p.nri.PostUpdateContainer(ctx, &adaptation.PostUpdateContainerRequest{Pod: pod, Container: container})
	case runtime.PluginStopped:
		resp, err := p.nri.StopContainer(ctx, &adaptation.StopContainerRequest{Pod: pod, Container: container})
		p.later(resp.GetUpdate(), nil)
		return err
	case runtime.PluginRemoved:
		return p.nri.RemoveContainer(ctx, &adaptation.RemoveContainerRequest{Pod: pod, Container: container})
	}
	return fmt.Errorf("unknown event %q", e)
}

// Create lets plugins change a container's spec.
func (p *Plugins) Create(ctx context.Context, sb runtime.SandboxStatus, c runtime.ContainerStatus, spec *specs.Spec) error {
	resp, err := p.nri.CreateContainer(ctx, &adaptation.CreateContainerRequest{Pod: podOf(sb), Container: containerOf(c, spec)})
	if err != nil {
		return err
	}
	p.later(resp.GetUpdate(), resp.GetEvict())
	if resp.GetAdjust() == nil {
		return nil
	}
	g := generate.SpecGenerator(generator{spec}, generate.WithCDIDeviceInjector(func(s *specs.Spec, names []string) error {
		return runtime.InjectCDI(s, p.cfg.CDIDirs, names)
	}))
	if err := g.Adjust(resp.Adjust); err != nil {
		return fmt.Errorf("adjust: %w", err)
	}
	return nil
}

// Update lets plugins change the limits that a container is to get, and those of others.
func (p *Plugins) Update(ctx context.Context, sb runtime.SandboxStatus, c runtime.ContainerStatus, r runtime.Resources) (runtime.Resources, error) {
	resp, err := p.nri.UpdateContainer(ctx, &adaptation.UpdateContainerRequest{
		Pod: podOf(sb), Container: p.containerOf(c), LinuxResources: resourcesOf(r),
	})
	if err != nil {
		return r, err
	}
	var others []*adaptation.ContainerUpdate
	for _, u := range resp.GetUpdate() {
		if u.GetContainerId() == c.ID {
			r = overlay(r, u.GetLinux().GetResources())
			continue
		}
		others = append(others, u)
	}
	p.later(others, resp.GetEvict())
	return r, nil
}

// synchronize tells a new plugin what there is, and does what it asks for.
func (p *Plugins) synchronize(ctx context.Context, tell adaptation.SyncCB) error {
	var pods []*adaptation.PodSandbox
	var containers []*adaptation.Container
	for _, sb := range p.rt.Sandboxes() {
		pods = append(pods, podOf(sb))
	}
	for _, c := range p.rt.Containers("") {
		containers = append(containers, p.containerOf(c))
	}
	updates, err := tell(ctx, pods, containers)
	if err == nil {
		p.later(updates, nil)
	}
	return err
}

// requested does what a plugin asks for by itself, and returns what failed.
func (p *Plugins) requested(ctx context.Context, updates []*adaptation.ContainerUpdate) ([]*adaptation.ContainerUpdate, error) {
	var failed []*adaptation.ContainerUpdate
	for _, u := range updates {
		if err := p.apply(ctx, u); err != nil && !u.GetIgnoreFailure() {
			p.log.Warn("what a plugin asked for failed", "container", u.GetContainerId(), "error", err)
			failed = append(failed, u)
		}
	}
	return failed, nil
}

func (p *Plugins) apply(ctx context.Context, u *adaptation.ContainerUpdate) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return p.rt.Adjust(ctx, u.GetContainerId(), overlay(runtime.Resources{}, u.GetLinux().GetResources()))
}

// later does what plugins asked for in an answer. Nobody waits for it: the caller is at work on a container
// that one of the requests may be about.
func (p *Plugins) later(updates []*adaptation.ContainerUpdate, evictions []*adaptation.ContainerEviction) {
	if len(updates)+len(evictions) == 0 {
		return
	}
	go func() {
		ctx := context.Background()
		p.requested(ctx, updates)
		for _, e := range evictions {
			p.log.Info("a plugin has a container stopped", "container", e.GetContainerId(), "reason", e.GetReason())
			if err := p.rt.StopContainer(ctx, e.GetContainerId(), 0); err != nil {
				p.log.Warn("a container that a plugin evicts could not be stopped", "container", e.GetContainerId(), "error", err)
			}
		}
	}()
}

// logger is the library's log on ours.
type logger struct{ l *slog.Logger }

func (l logger) Debugf(ctx context.Context, format string, args ...any) {
	l.l.DebugContext(ctx, "nri: "+fmt.Sprintf(format, args...))
}
func (l logger) Infof(ctx context.Context, format string, args ...any) {
	l.l.DebugContext(ctx, "nri: "+fmt.Sprintf(format, args...))
}
func (l logger) Warnf(ctx context.Context, format string, args ...any) {
	l.l.WarnContext(ctx, "nri: "+fmt.Sprintf(format, args...))
}
func (l logger) Errorf(ctx context.Context, format string, args ...any) {
	l.l.WarnContext(ctx, "nri: "+fmt.Sprintf(format, args...))
}
