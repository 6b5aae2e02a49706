package engine

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/11f9778f/berth/internal/engine/cgroup"
)

// Scopes makes cgroups as scopes of a service manager; package systemd is one. With it, linux.cgroupsPath is
// "slice:prefix:name": the container's cgroup is the scope prefix-name.scope in that slice.
type Scopes interface {
	// Start makes a scope with a process in it.
	Start(ctx context.Context, s Scope) error
	// Update changes the limits that the manager keeps.
	Update(ctx context.Context, name string, r *specs.LinuxResources) error
	// Stop ends what is in the scope and forgets it. One that is not there is no error.
	Stop(ctx context.Context, name string) error
}

// Scope is what Scopes starts.
type Scope struct {
	ID          string // of the container
	Name, Slice string // "berth-web.scope", "system.slice"
	PID         int
	Resources   *specs.LinuxResources
}

// CPUWeight converts cgroup v1's CPU shares to v2's weight.
func CPUWeight(shares uint64) uint64 { return cgroup.WeightOfShares(shares) }

// parseScope takes "slice:prefix:name" apart, and finds the cgroup's path: a slice's name tells its parents.
func parseScope(cgroupsPath string) (slice, name, path string, err error) {
	parts := strings.Split(cgroupsPath, ":")
	if len(parts) != 3 || parts[2] == "" {
		return "", "", "", fmt.Errorf("linux.cgroupsPath: %q is not slice:prefix:name", cgroupsPath)
	}
	if slice = parts[0]; slice == "" {
		slice = "system.slice"
	}
	name = parts[2] + ".scope"
	if parts[1] != "" {
		name = parts[1] + "-" + name
	}
	if strings.ContainsAny(name, "/\x00\n") || len(name) > 255 {
		return "", "", "", fmt.Errorf("linux.cgroupsPath: %q: bad name of a scope", cgroupsPath)
	}
	parent, err := cgroup.SlicePath(slice)
	if err != nil {
		return "", "", "", fmt.Errorf("linux.cgroupsPath: %q: %w", cgroupsPath, err)
	}
	return slice, name, strings.TrimSuffix(parent, "/") + "/" + name, nil
}

// ScopeOf tells which scope and which cgroup a container with this linux.cgroupsPath gets by Scopes.
func ScopeOf(cgroupsPath string) (scope, cgroup string, err error) {
	_, scope, cgroup, err = parseScope(cgroupsPath)
	return scope, cgroup, err
}

// NamesScope tells whether a linux.cgroupsPath is of the form that Scopes takes, and no path.
func NamesScope(cgroupsPath string) bool {
	slice, rest, ok := strings.Cut(cgroupsPath, ":")
	return ok && strings.HasSuffix(slice, ".slice") && strings.Contains(rest, ":")
}

// scoped gives the first process to a scope, if the container's cgroup is one.
func (c *Container) scoped(ctx context.Context) error {
	if c.scopes == nil {
		return nil
	}
	slice, name, _, err := parseScope(c.spec.Linux.CgroupsPath)
	if err != nil {
		return err
	}
	c.state.Scope = name
	if err := c.scopes.Start(ctx, Scope{ID: c.state.ID, Name: name, Slice: slice, PID: c.state.Pid, Resources: c.spec.Linux.Resources}); err != nil {
		return err
	}
	return c.group.Create(ctx) // under v1, the hierarchies that systemd does not use
}

// unscope takes the scope away.
func (c *Container) unscope(ctx context.Context) error {
	if c.state.Scope == "" {
		return nil
	}
	if c.scopes == nil {
		return errors.New("its cgroup is a scope of systemd's, and there is no connection to systemd")
	}
	return c.scopes.Stop(ctx, c.state.Scope)
}
