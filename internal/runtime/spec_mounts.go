package runtime

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// mounts puts together: the engine's defaults, the pod's files, the container's own. A mount of the
// container takes the place of a default one at the same path.
func (b *specBuilder) mounts() error {
	own, err := b.ownMounts()
	if err != nil {
		return err
	}
	taken := map[string]bool{}
	for _, m := range own {
		taken[m.Destination] = true
	}
	privileged := b.container.Spec.Security.Privileged
	var out []specs.Mount
	for _, m := range append(b.out.Mounts, b.podMounts()...) {
		m.Destination = path.Clean(m.Destination)
		if taken[m.Destination] {
			continue
		}
		if privileged && (m.Destination == "/sys" || m.Destination == "/sys/fs/cgroup") {
			m.Options = slices.DeleteFunc(slices.Clone(m.Options), func(o string) bool { return o == "ro" })
			m.Options = append(m.Options, "rw")
		}
		// A pod's file replaces a default at the same place, as /dev/shm.
		out = slices.DeleteFunc(out, func(o specs.Mount) bool { return o.Destination == m.Destination })
		out = append(out, m)
	}
	b.out.Mounts = append(out, own...)
	return nil
}

// podMounts are the files and /dev/shm that all containers of the pod share.
func (b *specBuilder) podMounts() []specs.Mount {
	bind := func(src, dst string, more ...string) specs.Mount {
		return specs.Mount{Type: "bind", Source: src, Destination: dst, Options: append([]string{"rbind", "rprivate"}, more...)}
	}
	shm := filepath.Join(b.podDir, "shm")
	if b.sandbox.Spec.Namespaces.IPC == NamespaceNode {
		shm = "/dev/shm"
	}
	mode := "rw"
	if b.container.Spec.Security.ReadonlyRootfs {
		mode = "ro"
	}
	out := []specs.Mount{
		bind(shm, "/dev/shm", "nosuid", "nodev", "noexec"),
		bind(filepath.Join(b.podDir, "resolv.conf"), "/etc/resolv.conf", mode),
	}
	if b.sandbox.Spec.Namespaces.Network == NamespacePod {
		return append(out, bind(filepath.Join(b.podDir, "hostname"), "/etc/hostname", mode),
			bind(filepath.Join(b.podDir, "hosts"), "/etc/hosts", mode))
	}
	for _, f := range []string{"/etc/hostname", "/etc/hosts"} {
		if _, err := os.Stat(f); err == nil {
			out = append(out, bind(f, f, "ro"))
		}
	}
	return out
}

// ownMounts are those that the container asks for, the shorter path first, so that none hides another.
func (b *specBuilder) ownMounts() ([]specs.Mount, error) {
	var out []specs.Mount
	for n, m := range b.container.Spec.Mounts {
		if m.Image != nil {
			o := append([]string{"rbind", "rprivate", "ro", "noexec", "nosuid", "nodev"}, m.Options...)
			out = append(out, specs.Mount{Type: "bind", Source: b.volumes[n], Destination: path.Clean(m.ContainerPath), Options: o})
			continue
		}
		src, err := b.sources.find(m.HostPath)
		if err != nil {
			return nil, err
		}
		if m.Relabel && b.out.Linux.MountLabel != "" {
			if err := b.lsm.Relabel(src, b.out.Linux.MountLabel); err != nil {
				return nil, fmt.Errorf("relabel %s: %w", src, err)
			}
		}
		o := []string{"rbind"}
		switch m.Propagation {
		case PropagationHostToContainer:
			o = append(o, "rslave")
		case PropagationBidirectional:
			o = append(o, "rshared")
		default:
			o = append(o, "rprivate")
		}
		switch {
		case m.RecursiveReadOnly:
			o = append(o, "rro")
		case m.ReadOnly:
			o = append(o, "ro")
		default:
			o = append(o, "rw")
		}
		out = append(out, specs.Mount{
			Type: "bind", Source: src, Destination: path.Clean(m.ContainerPath), Options: append(o, m.Options...),
			UIDMappings: ociMappings(m.UIDMap), GIDMappings: ociMappings(m.GIDMap),
		})
	}
	slices.SortStableFunc(out, func(a, b specs.Mount) int {
		return strings.Count(a.Destination, "/") - strings.Count(b.Destination, "/")
	})
	return out, nil
}

// hostPath follows the links of a mount's source, and makes a folder where nothing is, as kubelets
// have come to expect of every runtime.
func hostPath(p string) (string, error) {
	real, err := filepath.EvalSymlinks(p)
	if os.IsNotExist(err) {
		if err := os.MkdirAll(p, 0o755); err != nil {
			return "", fmt.Errorf("make folder for mount: %w", err)
		}
		return filepath.EvalSymlinks(p)
	}
	if err != nil {
		return "", invalid("mount source: %v", err)
	}
	return real, nil
}

func ociMappings(list []IDMapping) []specs.LinuxIDMapping {
	var out []specs.LinuxIDMapping
	for _, m := range list {
		out = append(out, specs.LinuxIDMapping{ContainerID: m.ContainerID, HostID: m.HostID, Size: m.Length})
	}
	return out
}
