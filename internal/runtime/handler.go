package runtime

import (
	"maps"
	"path"
	"slices"
	"strings"
)

// Handler is what the runtime must know of a RuntimeClass handler.
type Handler struct {
	// Foreign tells that another project's shim runs its containers: their processes need not be this kernel's, and
	// signals go through the shim.
	Foreign bool
	// SystemdCgroup tells that what the shim calls makes cgroups through systemd, as scopes in the pod's slice.
	SystemdCgroup bool
	// PodAnnotations are patterns (path.Match) of the pod's annotations that are passed on in the specs of its
	// sandbox and its containers, and ContainerAnnotations of a container's in its own.
	PodAnnotations, ContainerAnnotations []string
}

// Handler tells whether a RuntimeClass handler exists.
func (r *Runtime) Handler(name string) bool { return slices.Contains(r.Handlers(), name) }

// Handlers lists the RuntimeClass handlers, the node's own ("") first.
func (r *Runtime) Handlers() []string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return append([]string{""}, slices.Sorted(maps.Keys(r.cfg.Handlers))...)
}

// SetHandlers replaces Config.Handlers. Sandboxes that are there keep theirs.
func (r *Runtime) SetHandlers(rows map[string]Handler) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cfg.Handlers = rows
}

func (r *Runtime) handler(name string) Handler {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.cfg.Handlers[name]
}

// ForeignHandler tells whether another project's shim runs the containers of a RuntimeClass handler.
func (r *Runtime) ForeignHandler(name string) bool { return r.handler(name).Foreign }

// passOn adds the annotations whose names match one of the patterns. What is there stays as it is.
func passOn(to, from map[string]string, patterns []string) {
	for key, value := range from {
		if _, taken := to[key]; taken {
			continue
		}
		if slices.ContainsFunc(patterns, func(p string) bool { ok, _ := path.Match(p, key); return ok }) {
			to[key] = value
		}
	}
}

// scopePrefix is what containers' scopes are called after.
const scopePrefix = "berth"

// containerCgroup is where the processes of a container are.
func (s SandboxStatus) containerCgroup(id string) string {
	if s.SystemdCgroup {
		return path.Join(s.CgroupPath, scopePrefix+"-"+id+".scope")
	}
	return path.Join(s.CgroupPath, id)
}

// cgroupsPath is that cgroup as an OCI spec names it.
func (s SandboxStatus) cgroupsPath(id string) string {
	if s.SystemdCgroup {
		return path.Base(s.CgroupPath) + ":" + scopePrefix + ":" + id
	}
	return s.containerCgroup(id)
}

// checkHandler refuses what the pod's handler can't do.
func (r *Runtime) checkHandler(s SandboxSpec) error {
	if !r.Handler(s.Handler) {
		return invalid("no runtime handler %q is configured", s.Handler)
	}
	h := r.handler(s.Handler)
	if h.Foreign && s.User != nil {
		return invalid("runtime handler %q has no user namespaces", s.Handler)
	}
	if h.SystemdCgroup && !strings.HasSuffix(s.CgroupParent, ".slice") {
		return invalid("runtime handler %q makes cgroups through systemd (SystemdCgroup in its options): the pod's cgroup %q must be a slice", s.Handler, s.CgroupParent)
	}
	return nil
}
