package runtime

import (
	"context"
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// PluginEvent is a moment in the life of a pod or container that plugins are told of.
type PluginEvent string

const (
	PluginRunSandbox    PluginEvent = "run sandbox" // an error ends the sandbox
	PluginStopSandbox   PluginEvent = "stop sandbox"
	PluginRemoveSandbox PluginEvent = "remove sandbox"
	PluginCreated       PluginEvent = "container created"
	PluginStart         PluginEvent = "start container" // an error stands in the way of the start
	PluginStarted       PluginEvent = "container started"
	PluginUpdated       PluginEvent = "container updated"
	PluginStopped       PluginEvent = "container stopped"
	PluginRemoved       PluginEvent = "container removed"
)

// Plugins observe pods and containers and may change a container before it is made: see package nri. Calls
// come from the actors of pods and containers; they must not call back into the same one.
type Plugins interface {
	// Notify tells of an event. Of a sandbox's event the container is empty.
	Notify(ctx context.Context, e PluginEvent, sb SandboxStatus, c ContainerStatus) error
	// Create may change the spec of a container that is being created.
	Create(ctx context.Context, sb SandboxStatus, c ContainerStatus, spec *specs.Spec) error
	// Update may change the limits that a container is to get.
	Update(ctx context.Context, sb SandboxStatus, c ContainerStatus, r Resources) (Resources, error)
}

// noPlugins is a node without any.
type noPlugins struct{}

func (noPlugins) Notify(context.Context, PluginEvent, SandboxStatus, ContainerStatus) error {
	return nil
}
func (noPlugins) Create(context.Context, SandboxStatus, ContainerStatus, *specs.Spec) error {
	return nil
}
func (noPlugins) Update(_ context.Context, _ SandboxStatus, _ ContainerStatus, r Resources) (Resources, error) {
	return r, nil
}

// tell notifies plugins where an error changes nothing any more.
func (sb *sandbox) tell(ctx context.Context, e PluginEvent, c ContainerStatus) {
	if err := sb.r.cfg.Plugins.Notify(ctx, e, sb.get(), c); err != nil {
		sb.r.log.Warn("a plugin failed", "event", e, "sandbox", sb.id, "container", c.ID, "error", err)
	}
}

// ask notifies plugins where an error stands in the way.
func (sb *sandbox) ask(ctx context.Context, e PluginEvent, c ContainerStatus) error {
	if err := sb.r.cfg.Plugins.Notify(ctx, e, sb.get(), c); err != nil {
		return fmt.Errorf("a plugin refuses: %s: %w", e, err)
	}
	return nil
}

// Adjust sets limits on behalf of a plugin: UpdateResources, of which no plugin is asked again.
func (r *Runtime) Adjust(ctx context.Context, id string, res Resources) error {
	c, err := r.listedContainer(id)
	if err != nil {
		return err
	}
	if err := c.actor.do(func() error { return c.update(c.sb.traced(r.life, ctx), res) }).wait(ctx); err != nil {
		return fmt.Errorf("adjust container %s: %w", short(id), err)
	}
	return nil
}
