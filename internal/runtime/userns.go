package runtime

import (
	"context"
	"math"
	"os"
	"path/filepath"
)

// A pod with a user namespace: it is made first, by a process that lives for a moment, and with it the
// network, IPC and UTS namespaces, for those must belong to it: else its root could not even bring lo up.
// All of them are pinned below userns/<sandbox id>. The network room then adopts its one.

// check refuses what Kubernetes does not have: more than one range, and a root that is nobody.
func (u *UserNamespace) check() error {
	if u == nil {
		return nil
	}
	for what, list := range map[string][]IDMapping{"users": u.UIDs, "groups": u.GIDs} {
		if len(list) != 1 {
			return invalid("user namespace: %d mappings of %s, want exactly one", len(list), what)
		}
		m := list[0]
		if m.ContainerID != 0 || m.Length == 0 || uint64(m.HostID)+uint64(m.Length) > math.MaxUint32 {
			return invalid("user namespace: the mapping of %s must begin at 0 in the container, and end below 2^32 on the host", what)
		}
	}
	return nil
}

// give makes files of a folder belong to the pod's root. Those that are not there stay away.
func (u *UserNamespace) give(dir string, names ...string) error {
	if u == nil {
		return nil
	}
	for _, n := range names {
		if err := os.Lchown(filepath.Join(dir, n), int(u.UIDs[0].HostID), int(u.GIDs[0].HostID)); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	return nil
}

// makeUserNS makes the namespace, if the pod is to have one.
func (sb *sandbox) makeUserNS(ctx context.Context) error {
	spec := sb.get().Spec
	if spec.User == nil {
		return nil
	}
	p := PinnedNamespaces{
		Dir: sb.r.store.userNS(sb.id), User: *spec.User, Hostname: spec.Hostname, Sysctls: spec.Sysctls,
		Net: spec.Namespaces.Network == NamespacePod, UTS: spec.Namespaces.Network == NamespacePod, IPC: spec.Namespaces.IPC == NamespacePod,
	}
	err := sb.ledger.do(ctx, effect{kind: kindUserNS, object: sb.id, do: func(ctx context.Context) error {
		if err := os.MkdirAll(p.Dir, 0o700); err != nil {
			return err
		}
		return sb.r.cfg.Kernel.PinNamespaces(ctx, p)
	}})
	if err != nil {
		return err
	}
	sb.set(func(s *SandboxStatus) {
		s.UserNS = filepath.Join(p.Dir, "user")
		if p.IPC {
			s.IPC = filepath.Join(p.Dir, "ipc")
		}
		if p.UTS {
			s.UTS = filepath.Join(p.Dir, "uts")
		}
	})
	return nil
}

func (r *Runtime) undoUserNS(ctx context.Context, id string) error {
	dir := r.store.userNS(id)
	if err := r.cfg.Kernel.UnpinNamespaces(ctx, dir); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}
