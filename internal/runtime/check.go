package runtime

import (
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
)

func invalid(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, errdefs.ErrInvalidArgument)...)
}

// nameRE is what may become a part of a path, a cgroup or a log line.
var nameRE = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?$`)

// hostnameRE is a DNS label or a dotted name of them; the kernel takes 64 bytes.
var hostnameRE = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]{0,62}[A-Za-z0-9])?$`)

// checkSandbox refuses what can never succeed, before anything is done.
func (r *Runtime) checkSandbox(s SandboxSpec) error {
	for what, v := range map[string]string{"name": s.Name, "namespace": s.Namespace, "uid": s.UID} {
		if !nameRE.MatchString(v) {
			return invalid("pod %s %q must be letters, digits, dots, dashes and underscores", what, v)
		}
	}
	if s.Hostname != "" && !hostnameRE.MatchString(s.Hostname) {
		return invalid("hostname %q is not a host name of at most 64 characters", s.Hostname)
	}
	if s.LogDir != "" && !filepath.IsAbs(s.LogDir) {
		return invalid("log directory %q must be absolute", s.LogDir)
	}
	if n := s.Namespaces; n.PID == NamespaceTarget || n.Network > NamespaceNode || n.IPC > NamespaceNode {
		return invalid("a sandbox's namespaces can't be those of one container")
	}
	if err := s.User.check(); err != nil {
		return err
	}
	if err := r.checkHandler(s); err != nil {
		return err
	}
	return checkSysctls(s)
}

// checkSysctls lets only those through that belong to a namespace of the pod: any other would change
// the node. A newline could smuggle a second one (CVE-2022-0811).
func checkSysctls(s SandboxSpec) error {
	for k, v := range s.Sysctls {
		name := strings.ReplaceAll(k, "/", ".")
		ipc := strings.HasPrefix(name, "kernel.shm") || strings.HasPrefix(name, "kernel.msg") ||
			name == "kernel.sem" || strings.HasPrefix(name, "fs.mqueue.")
		net := strings.HasPrefix(name, "net.")
		switch {
		case !ipc && !net:
			return invalid("sysctl %q does not belong to a namespace of the pod", k)
		case strings.Contains(name, "..") || strings.ContainsAny(k+v, "\n\x00"):
			return invalid("sysctl %q is malformed", k)
		case net && s.Namespaces.Network == NamespaceNode:
			return invalid("sysctl %q would change the node: the pod uses its network", k)
		case ipc && s.Namespaces.IPC == NamespaceNode:
			return invalid("sysctl %q would change the node: the pod uses its IPC namespace", k)
		}
	}
	return nil
}

// checkContainer refuses what can never succeed, before anything is done.
func checkContainer(s ContainerSpec) error {
	if !nameRE.MatchString(s.Name) {
		return invalid("container name %q must be letters, digits, dots, dashes and underscores", s.Name)
	}
	if s.Image == "" && s.Checkpoint == (CheckpointSource{}) {
		return invalid("container %s has no image", s.Name)
	}
	if s.LogPath != "" && (filepath.IsAbs(s.LogPath) || hasDotDot(s.LogPath)) {
		return invalid("log path %q must stay below the sandbox's log directory", s.LogPath)
	}
	if s.StopSignal != "" {
		if _, err := parseSignal(s.StopSignal); err != nil {
			return err
		}
	}
	switch {
	case s.PID == NamespaceNode || s.PID > NamespaceTarget:
		return invalid("container %s: the PID namespace of the node is the sandbox's to choose", s.Name)
	case (s.PID == NamespaceTarget) != (s.PIDTarget != ""):
		return invalid("container %s: joining a container's PID namespace (TARGET) and the target's ID belong together", s.Name)
	}
	for _, e := range s.Env {
		if e.Key == "" || strings.ContainsAny(e.Key, "=\x00") || strings.ContainsRune(string(e.Value), 0) {
			return invalid("environment variable %q is malformed", e.Key)
		}
	}
	for _, m := range s.Mounts {
		if err := checkMount(m); err != nil {
			return err
		}
	}
	if s.Security.RunAsUser != nil && s.Security.RunAsUsername != "" {
		return invalid("container %s: its user is given both by number and by name", s.Name)
	}
	for _, d := range s.Devices {
		if !filepath.IsAbs(d.HostPath) || !filepath.IsAbs(d.ContainerPath) || hasDotDot(d.ContainerPath) {
			return invalid("device %q → %q: both must be absolute paths", d.HostPath, d.ContainerPath)
		}
		if strings.Trim(d.Permissions, "rwm") != "" {
			return invalid("device %q: permissions %q are not of r, w and m", d.HostPath, d.Permissions)
		}
	}
	return nil
}

func checkMount(m Mount) error {
	switch {
	case !filepath.IsAbs(m.ContainerPath) || hasDotDot(m.ContainerPath) || strings.ContainsRune(m.ContainerPath, 0):
		return invalid("mount target %q must be an absolute path", m.ContainerPath)
	case filepath.Clean(m.ContainerPath) == "/":
		return invalid("nothing can be mounted over the container's root")
	case m.Image != nil:
		return checkImageVolume(m)
	case !filepath.IsAbs(m.HostPath) || strings.ContainsRune(m.HostPath, 0):
		return invalid("mount source %q must be an absolute path", m.HostPath)
	case m.RecursiveReadOnly && (!m.ReadOnly || m.Propagation != PropagationPrivate):
		return invalid("mount of %q: recursive read-only needs read-only and private propagation", m.ContainerPath)
	case m.Propagation < PropagationPrivate || m.Propagation > PropagationBidirectional:
		return invalid("mount of %q: unknown propagation %d", m.ContainerPath, m.Propagation)
	case (len(m.UIDMap) == 0) != (len(m.GIDMap) == 0):
		return invalid("mount of %q: mappings of users and of groups belong together", m.ContainerPath)
	}
	return checkMountOptions(m)
}

// mountOptions are those that a mount may bring: they take rights away, or say how access times are kept.
var mountOptions = []string{
	"ro", "noexec", "nodev", "nosuid", "nosymfollow", "noatime", "nodiratime", "relatime", "strictatime",
	"rro", "rnoexec", "rnodev", "rnosuid", "rnosymfollow",
}

func checkMountOptions(m Mount) error {
	for _, o := range m.Options {
		if !slices.Contains(mountOptions, o) {
			return invalid("mount of %q: mount option %q is none of %s", m.ContainerPath, o, strings.Join(mountOptions, ", "))
		}
	}
	return nil
}

func checkImageVolume(m Mount) error {
	switch {
	case m.HostPath != "":
		return invalid("mount of %q: it is either of an image or of host path %q", m.ContainerPath, m.HostPath)
	case m.Image.Image == "":
		return invalid("mount of %q: the image to mount is missing", m.ContainerPath)
	case m.Image.SubPath != "" && !filepath.IsLocal(m.Image.SubPath):
		return invalid("mount of %q: sub path %q must stay inside the image", m.ContainerPath, m.Image.SubPath)
	case len(m.UIDMap)+len(m.GIDMap) > 0:
		return invalid("mount of %q: an image's files get no mappings of their own", m.ContainerPath)
	}
	return checkMountOptions(m)
}

func hasDotDot(path string) bool {
	for _, p := range strings.Split(path, "/") {
		if p == ".." {
			return true
		}
	}
	return false
}
