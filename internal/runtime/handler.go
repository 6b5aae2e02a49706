package runtime

import (
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/11f9778f/berth/internal/engine/cgroup"
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
	h := r.cfg.Handlers[name]
	h.SystemdCgroup = h.SystemdCgroup || r.cfg.SystemdCgroup && !h.Foreign
	return h
}

// ForeignHandler tells whether another project's shim runs the containers of a RuntimeClass handler.
func (r *Runtime) ForeignHandler(name string) bool { return r.handler(name).Foreign }

// SystemdCgroup tells which cgroup driver the node has: systemd's, or plain directories.
func (r *Runtime) SystemdCgroup() bool { return r.cfg.SystemdCgroup }

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
const scopePrefix = "cri-berth"

// scopeSuffix is how systemd has its scopes called.
const scopeSuffix = ".scope"

// containerCgroup is where the processes of a container are.
func (s SandboxStatus) containerCgroup(id string) string {
	if s.SystemdCgroup {
		return path.Join(s.CgroupPath, scopePrefix+"-"+id+scopeSuffix)
	}
	return path.Join(s.CgroupPath, id)
}

// containerOf is the container that a cgroup in a pod's is called after, if it is one. What prefix a scope has is no matter:
// it may be of a release that had another.
func containerOf(cgroup string) string {
	name := path.Base(cgroup)
	if id, ok := strings.CutSuffix(name, scopeSuffix); ok {
		return id[strings.LastIndexByte(id, '-')+1:]
	}
	return name
}

// podCgroup is the cgroup of a pod. Where systemd makes them, it is a slice: given by its name or as the path that
// follows from that.
func (r *Runtime) podCgroup(s SandboxSpec) (string, error) {
	given := s.CgroupParent
	switch {
	case !r.cfg.SystemdCgroup && given == "":
		return path.Join(r.cfg.CgroupParent, "pod"+s.UID), nil
	case !r.cfg.SystemdCgroup:
		if !strings.HasPrefix(given, "/") || hasDotDot(given) || path.Clean(given) == "/" {
			return "", invalid("cgroup parent %q must be an absolute path of a cgroup below the root", given)
		}
		return path.Clean(given), nil
	case given == "":
		return cgroup.SliceBelow(r.cfg.CgroupParent, "pod"+s.UID), nil
	}
	slice, err := cgroup.SlicePath(path.Base(given))
	if err != nil || slice == "/" {
		return "", invalid("cgroup parent %q must be a slice: this node's cgroup driver is systemd", given)
	}
	if strings.Contains(given, "/") && given != slice {
		return "", invalid("cgroup parent %q: the cgroup of this slice is %s", given, slice)
	}
	return slice, nil
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
	pod, err := r.podCgroup(s)
	if err != nil {
		return err
	}
	if h.SystemdCgroup && !cgroup.IsSlice(pod) {
		return invalid("runtime handler %q makes cgroups through systemd (SystemdCgroup in its options): the pod's cgroup %q must be a slice", s.Handler, pod)
	}
	return nil
}
