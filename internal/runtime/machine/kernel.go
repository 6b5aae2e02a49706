package machine

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/11f9778f/berth/internal/engine"
	"github.com/11f9778f/berth/internal/engine/cgroup"
	"github.com/11f9778f/berth/internal/runtime"
	"github.com/11f9778f/berth/internal/sys"
)

// Kernel is runtime.Kernel on the machine that this process runs on.
type Kernel struct {
	// Units is the service manager that makes the cgroups which are slices and scopes by their names. With nil they are
	// made like all others.
	Units Units
}

// Units is what Kernel needs of a service manager; package systemd has it.
type Units interface {
	StartSlice(ctx context.Context, name string, r *specs.LinuxResources) error
	Update(ctx context.Context, name string, r *specs.LinuxResources) error
	Stop(ctx context.Context, name string) error
}

var _ runtime.Kernel = Kernel{}

// unit is the name of the unit that the cgroup belongs to, if the service manager makes it.
func (k Kernel) unit(p string) (name string, ok bool) {
	return path.Base(p), k.Units != nil && (cgroup.IsSlice(p) || cgroup.IsScope(p))
}

// CreateCgroup makes the cgroup, if need be, and sets its limits. A service manager does not use all hierarchies of cgroup
// v1, nor keep all limits: the others are for us to make and to set.
func (k Kernel) CreateCgroup(ctx context.Context, p string, r *runtime.Resources) error {
	if slice, ok := k.unit(p); ok {
		var limits *specs.LinuxResources
		if r != nil {
			limits = r.OCI()
		}
		if err := k.Units.StartSlice(ctx, slice, limits); err != nil {
			return err
		}
	}
	g, err := cgroup.Load(p)
	if err != nil {
		return err
	}
	if err := g.Create(ctx); err != nil {
		return err
	}
	if r == nil {
		return nil
	}
	return g.Apply(r.OCI())
}

// CgroupExists tells whether the cgroup is there.
func (Kernel) CgroupExists(p string) bool {
	g, err := cgroup.Load(p)
	return err == nil && g.Exists()
}

// SetLimits changes limits.
func (k Kernel) SetLimits(ctx context.Context, p string, r runtime.Resources) error {
	if name, ok := k.unit(p); ok {
		if err := k.Units.Update(ctx, name, r.OCI()); err != nil {
			return err
		}
	}
	g, err := cgroup.Load(p)
	if err != nil {
		return err
	}
	return g.Apply(r.OCI())
}

// Limits reads limits.
func (Kernel) Limits(_ context.Context, p string) (runtime.Resources, error) {
	g, err := cgroup.Load(p)
	if err != nil {
		return runtime.Resources{}, err
	}
	l, err := g.Limits()
	return runtime.Resources{CPUQuota: l.CPUQuota, CPUPeriod: l.CPUPeriod, MemoryLimit: l.Memory}, err
}

// KillCgroup kills and waits.
func (Kernel) KillCgroup(ctx context.Context, p string) error {
	g, err := cgroup.Load(p)
	if err != nil {
		return err
	}
	if !g.Exists() {
		return nil
	}
	return g.Kill(ctx)
}

// RemoveCgroup kills, waits and removes.
func (k Kernel) RemoveCgroup(ctx context.Context, p string) error {
	if err := k.KillCgroup(ctx, p); err != nil {
		return err
	}
	if name, ok := k.unit(p); ok {
		if err := k.Units.Stop(ctx, name); err != nil {
			return err
		}
	}
	g, err := cgroup.Load(p)
	if err != nil {
		return err
	}
	return g.Delete(ctx)
}

// Kill signals through a pidfd, so that between the look and the signal no other process takes the pid.
func (Kernel) Kill(_ context.Context, pid int, cgroup string, signal int) error {
	fd, err := sys.OpenPidFD(pid)
	if errors.Is(err, syscall.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	defer fd.Close()
	if !inCgroup(pid, cgroup) {
		return nil
	}
	if err := sys.SignalPidFD(fd, syscall.Signal(signal)); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

// Heeds looks at the handlers of a process. One that is gone, or not the first of a namespace, heeds all.
func (Kernel) Heeds(pid int, signal int) bool {
	if signal == int(syscall.SIGKILL) || signal == int(syscall.SIGSTOP) {
		return true
	}
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		return true
	}
	first, known := false, false
	for line := range strings.Lines(string(b)) {
		key, value, _ := strings.Cut(line, ":")
		f := strings.Fields(value)
		switch {
		case len(f) == 0:
		case key == "NSpid":
			first = f[len(f)-1] == "1"
		case key == "SigCgt" || key == "SigIgn": // ignoring it is an answer, too
			set, err := strconv.ParseUint(f[0], 16, 64)
			known = known || err != nil || set&(1<<(signal-1)) != 0
		}
	}
	return known || !first
}

// Alive tells whether the process is in the cgroup and neither dead nor a zombie.
func (Kernel) Alive(pid int, cgroup string) bool {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return false
	}
	_, rest, ok := strings.Cut(string(b), ") ") // the name before it may hold anything
	return ok && rest != "" && rest[0] != 'Z' && rest[0] != 'X' && inCgroup(pid, cgroup)
}

// inCgroup tells whether the process is in the cgroup or below it, in any hierarchy.
func inCgroup(pid int, cgroup string) bool {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cgroup"))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) == 3 && strings.Contains(f[2]+"/", cgroup+"/") {
			return true
		}
	}
	return false
}

// Processes lists the pids in the cgroup and below it.
func (Kernel) Processes(_ context.Context, p string) ([]int, error) {
	g, err := cgroup.Load(p)
	if err != nil {
		return nil, err
	}
	pids, err := g.Pids()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return pids, err
}

// Cgroups lists the cgroups directly below parent.
func (Kernel) Cgroups(_ context.Context, parent string) ([]string, error) {
	return cgroup.Children(parent)
}

// PinNamespaces makes a user namespace and what belongs to it.
func (Kernel) PinNamespaces(ctx context.Context, p runtime.PinnedNamespaces) error {
	return engine.PinNamespaces(ctx, engine.PinOptions{
		Dir: p.Dir, IPC: p.IPC, UTS: p.UTS, Net: p.Net, Hostname: p.Hostname, Sysctls: p.Sysctls,
		User: &engine.IDMappings{UID: ociMappings(p.User.UIDs), GID: ociMappings(p.User.GIDs)},
	})
}

func ociMappings(list []runtime.IDMapping) []specs.LinuxIDMapping {
	var out []specs.LinuxIDMapping
	for _, m := range list {
		out = append(out, specs.LinuxIDMapping{ContainerID: m.ContainerID, HostID: m.HostID, Size: m.Length})
	}
	return out
}

// UnpinNamespaces releases them.
func (Kernel) UnpinNamespaces(_ context.Context, dir string) error {
	return engine.UnpinNamespaces(dir)
}

// MountTmpfs mounts a pod's /dev/shm.
func (Kernel) MountTmpfs(_ context.Context, dir string, size int64) error {
	return sys.MountShm(dir, size)
}

// MountLayers mounts an image.
func (Kernel) MountLayers(_ context.Context, dir string, layers []string) error {
	return sys.MountLayers(dir, layers)
}

// Unmount takes the mount at dir away, if there is one.
func (Kernel) Unmount(_ context.Context, dir string) error { return sys.Unpin(dir) }

// Mounts lists the mount points below dir, the innermost first.
func (Kernel) Mounts(_ context.Context, dir string) ([]string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	var out []string
	for s := bufio.NewScanner(f); s.Scan(); {
		fields := strings.Fields(s.Text())
		if len(fields) < 5 {
			continue
		}
		if p := sys.MountPath(fields[4]); strings.HasPrefix(p, real+"/") {
			out = append(out, dir+strings.TrimPrefix(p, real))
		}
	}
	slices.Reverse(out)
	return out, nil
}

// BootID names the present boot.
func (Kernel) BootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b)), err
}
