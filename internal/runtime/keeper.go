package runtime

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/11f9778f/berth/internal/engine"
	"github.com/11f9778f/berth/internal/engine/pause"
)

// A PID namespace lives as long as its first process. Where the containers of a pod share one, that
// process is the keeper: a container of its own under the sandbox's ID, with the program of package pause
// as its whole root filesystem. It also stands for the sandbox in a foreign shim that knows only containers.
// All other pods have none.

// makeKeeperBundle makes the keeper's bundle, or makes it anew with what is known by now.
func (sb *sandbox) makeKeeperBundle(ctx context.Context) error {
	return sb.ledger.do(ctx, effect{kind: kindBundle, object: sb.id, do: func(context.Context) error {
		return writeKeeper(sb.r.store.bundle(sb.id), sb.keeperSpec(sb.get()))
	}})
}

// startKeeper starts the keeper.
func (sb *sandbox) startKeeper(ctx context.Context) error {
	st := sb.get()
	shim, ok := sb.r.cfg.Shims.Lookup(sb.id)
	if !ok {
		return fmt.Errorf("no shim keeps sandbox %s: %w", short(sb.id), errdefs.ErrUnavailable)
	}
	if err := sb.makeKeeperBundle(ctx); err != nil {
		return err
	}
	ctx, cancel := sb.r.shimContext(ctx)
	defer cancel()
	pid := 0
	args := map[string]string{"sandbox": sb.id, "cgroup": st.containerCgroup(sb.id)}
	err := sb.ledger.do(ctx, effect{kind: kindTask, object: sb.id, args: args, do: func(ctx context.Context) (err error) {
		pid, err = shim.RunTask(ctx, Task{ID: sb.id, Sandbox: sb.id, Bundle: sb.r.store.bundle(sb.id)})
		return err
	}})
	if err != nil {
		return fmt.Errorf("start the process that keeps the pod: %w", err)
	}
	sb.set(func(s *SandboxStatus) { s.Pid = pid })
	return nil
}

// keeperSpec: no capability, no privilege, nothing to see but its own program.
func (sb *sandbox) keeperSpec(st SandboxStatus) *specs.Spec {
	s := engine.DefaultSpec()
	s.Root = &specs.Root{Path: "rootfs", Readonly: true}
	s.Hostname, s.Domainname = "", ""
	s.Process.Args, s.Process.Env = []string{"/pause"}, nil
	s.Process.User = specs.User{UID: 65535, GID: 65535}
	s.Process.Capabilities = &specs.LinuxCapabilities{}
	s.Process.NoNewPrivileges = true
	adj := min(max(-998, sb.r.oomAdj), 1000)
	s.Process.OOMScoreAdj = &adj
	s.Mounts = []specs.Mount{{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "noexec", "mode=755", "size=64k"}}}
	if st.Foreign && st.UTS != "" {
		s.Hostname = st.Spec.Hostname // for a runtime with a kernel of its own, which joins no namespace of this one
	}
	if st.Foreign { // runtimes look for descriptors there, which Berth's engine does without
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}})
	}
	s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = nil, nil
	s.Linux.CgroupsPath = st.cgroupsPath(sb.id)
	s.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.MountNamespace}, {Type: specs.PIDNamespace}}
	for t, p := range map[specs.LinuxNamespaceType]string{
		specs.NetworkNamespace: st.NetNS, specs.IPCNamespace: st.IPC, specs.UTSNamespace: st.UTS, specs.UserNamespace: st.UserNS,
	} {
		if p != "" {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: t, Path: p})
		}
	}
	if u := st.Spec.User; u != nil {
		s.Linux.UIDMappings, s.Linux.GIDMappings = ociMappings(u.UIDs), ociMappings(u.GIDs)
		s.Process.User = specs.User{} // the root of nobody's files: all that is sure to be mapped
	}
	s.Annotations = sb.annotations()
	return s
}

// writeKeeper makes the keeper's bundle.
func writeKeeper(dir string, s *specs.Spec) error {
	program, err := pause.Program()
	if err != nil {
		return err
	}
	root := filepath.Join(dir, "rootfs")
	for _, dir := range []string{"dev", "proc"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return err
		}
	}
	if err := os.Chmod(root, 0o755); err != nil { // whatever the umask is: the keeper is not root
		return err
	}
	if err := os.WriteFile(filepath.Join(root, "pause"), program, 0o755); err != nil {
		return err
	}
	if err := os.Chmod(filepath.Join(root, "pause"), 0o755); err != nil {
		return err
	}
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "config.json"), b, 0o600)
}

// endKeeper ends the shared PID namespace, and with it whatever is left in it. That the shim is told, too,
// nobody has to wait for: the sandbox's removal asks it again.
func (sb *sandbox) endKeeper(ctx context.Context) error {
	if !sb.ledger.owns(kindTask, sb.id) {
		return nil
	}
	st := sb.get()
	if err := sb.r.cfg.Kernel.KillCgroup(ctx, st.containerCgroup(sb.id)); err != nil {
		return err
	}
	if err := sb.ledger.undoOne(ctx, kindTask, sb.id); err != nil {
		sb.r.log.Warn("the keeper of a PID namespace could not be cleared yet", "sandbox", sb.id, "error", err)
	}
	return nil
}

// keeperEnded stops a sandbox whose keeper has ended: the kernel has killed all that shared its namespace.
func (r *Runtime) keeperEnded(sb *sandbox, why string) {
	if sb.get().State != SandboxReady {
		return
	}
	r.log.Warn("the process that keeps a pod's PID namespace has ended: the pod stops", "sandbox", sb.id, "reason", why)
	sb.actor.join("stop", func() error { return sb.stop(r.life) })
}

// targetPid is the process whose PID namespace the container wants.
func (c *container) targetPid() (int, error) {
	id := c.get().Spec.PIDTarget
	t := c.r.container(id)
	if t == nil || t.sb != c.sb {
		return 0, fmt.Errorf("the container %q whose PID namespace it wants is not in its sandbox: %w", id, errdefs.ErrNotFound)
	}
	st := t.get()
	if st.State != ContainerRunning || !c.r.cfg.Kernel.Alive(st.Pid, st.CgroupPath) {
		return 0, fmt.Errorf("the container %s whose PID namespace it wants does not run: %w", short(id), errdefs.ErrFailedPrecondition)
	}
	return st.Pid, nil
}

// pidNamespaceLives looks once more, before a start, whether the process is there whose PID namespace the
// container joins: its number could have been given to another one meanwhile.
func (c *container) pidNamespaceLives() error {
	sb := c.sb.get()
	if sb.Foreign { // its processes are not of this kernel
		return nil
	}
	switch mode := c.get().Spec.PID; {
	case mode == NamespaceTarget:
		_, err := c.targetPid()
		return err
	case mode == NamespacePod && sb.Spec.Namespaces.PID == NamespacePod && !c.r.cfg.Kernel.Alive(sb.Pid, sb.containerCgroup(sb.ID)):
		return fmt.Errorf("the process that keeps the pod's PID namespace has ended: %w", errdefs.ErrFailedPrecondition)
	}
	return nil
}
