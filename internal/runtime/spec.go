package runtime

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/11f9778f/berth/internal/engine"
	"github.com/11f9778f/berth/internal/runtime/resclass"
)

// specBuilder turns a container's wishes into an OCI runtime spec. Beside the host's devices (for a
// privileged container or where one is asked for) and a seccomp profile on disk it reads nothing.
type specBuilder struct {
	sandbox   SandboxStatus
	container ContainerStatus
	image     Image
	who       identity
	podDir    string
	oomAdj    int            // the least that may be given
	target    int            // the process whose PID namespace is joined, for NamespaceTarget
	volumes   map[int]string // where image volumes are mounted, by the mount's number
	lsm       LSM
	cdiDirs   []string
	classes   *resclass.Classes
	writer    *engine.SpecWriter
	sources   *sources
	handler   Handler
	rules     []specs.LinuxDeviceCgroup // for the devices that were asked for

	out *specs.Spec
}

func (b *specBuilder) build(ctx context.Context) (*specs.Spec, error) {
	b.out = engine.DefaultSpec()
	b.out.Root = &specs.Root{Path: "rootfs", Readonly: b.container.Spec.Security.ReadonlyRootfs}
	b.out.Hostname, b.out.Domainname = "", "" // the pod's UTS namespace has it
	b.out.Annotations = b.annotations()
	for _, step := range []func() error{
		b.process, b.namespaces, b.capabilities, func() error { return b.labels(ctx) }, b.mounts, b.devices, b.paths, b.resources, b.seccomp, b.cdi,
	} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return b.out, nil
}

func (b *specBuilder) annotations() map[string]string {
	a := sandboxAnnotations(b.sandbox)
	a["io.kubernetes.cri.container-type"] = "container"
	a["io.kubernetes.cri.container-name"] = b.container.Spec.Name
	a["io.kubernetes.cri.image-name"] = b.container.Spec.Image
	passOn(a, b.container.Spec.Annotations, b.handler.ContainerAnnotations)
	passOn(a, b.sandbox.Spec.Annotations, b.handler.PodAnnotations)
	return a
}

func (b *specBuilder) process() error {
	spec, img := b.container.Spec, b.image.Config
	args := append(append([]string(nil), spec.Command...), spec.Args...)
	if len(spec.Command) == 0 {
		args = append([]string(nil), img.Entrypoint...)
		if len(spec.Args) > 0 {
			args = append(args, spec.Args...)
		} else {
			args = append(args, img.Cmd...)
		}
	}
	if len(args) == 0 || args[0] == "" {
		return invalid("neither the container nor its image %q names a command to run", spec.Image)
	}
	cwd := firstOf(spec.WorkingDir, img.WorkingDir, "/")
	if !filepath.IsAbs(cwd) {
		if spec.WorkingDir != "" {
			return invalid("working directory %q must be absolute", cwd)
		}
		cwd = path.Join("/", cwd) // an image's is taken from its root, as its builder did
	}
	p := b.out.Process
	p.Args, p.Cwd, p.Terminal = args, cwd, spec.TTY
	p.User = specs.User{UID: b.who.uid, GID: b.who.gid, AdditionalGids: b.who.groups}
	p.NoNewPrivileges = spec.Security.NoNewPrivs
	p.Env = b.environment()
	adj := min(max(int(spec.Resources.OOMScoreAdj), b.oomAdj), 1000)
	p.OOMScoreAdj = &adj
	return nil
}

// environment merges: the defaults, then the image's, then the container's; the last of a name wins
// and keeps the place of the first.
func (b *specBuilder) environment() []string {
	var out []string
	at := map[string]int{}
	set := func(kv string) {
		key, _, ok := strings.Cut(kv, "=")
		if !ok || key == "" {
			return
		}
		if i, ok := at[key]; ok {
			out[i] = kv
			return
		}
		at[key] = len(out)
		out = append(out, kv)
	}
	set("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	if b.sandbox.Spec.Hostname != "" {
		set("HOSTNAME=" + b.sandbox.Spec.Hostname)
	}
	if b.container.Spec.TTY {
		set("TERM=xterm")
	}
	set("HOME=" + b.who.home)
	for _, kv := range b.image.Config.Env {
		set(kv)
	}
	for _, e := range b.container.Spec.Env {
		set(e.Key + "=" + string(e.Value))
	}
	return out
}

// namespaces: the pod's are joined by path, the host's left out, all others new.
func (b *specBuilder) namespaces() error {
	var out []specs.LinuxNamespace
	if u := b.sandbox.Spec.User; u != nil {
		if b.sandbox.UserNS == "" {
			return fmt.Errorf("sandbox %s has no user namespace", short(b.sandbox.ID))
		}
		out = append(out, specs.LinuxNamespace{Type: specs.UserNamespace, Path: b.sandbox.UserNS})
		b.out.Linux.UIDMappings, b.out.Linux.GIDMappings = ociMappings(u.UIDs), ociMappings(u.GIDs)
	}
	add := func(t specs.LinuxNamespaceType, path string) {
		out = append(out, specs.LinuxNamespace{Type: t, Path: path})
	}
	add(specs.MountNamespace, "")
	n := b.sandbox.Spec.Namespaces
	if err := b.pidNamespace(add); err != nil {
		return err
	}
	for _, x := range []struct {
		t    specs.LinuxNamespaceType
		path string
		mode NamespaceMode
	}{
		{specs.NetworkNamespace, b.sandbox.NetNS, n.Network},
		{specs.IPCNamespace, b.sandbox.IPC, n.IPC},
		{specs.UTSNamespace, b.sandbox.UTS, n.Network},
	} {
		if x.mode == NamespaceNode {
			continue
		}
		if x.path == "" {
			return fmt.Errorf("sandbox %s has no %s namespace", short(b.sandbox.ID), x.t)
		}
		add(x.t, x.path)
	}
	for _, ns := range b.out.Linux.Namespaces { // where the engine's default has one
		if ns.Type == specs.CgroupNamespace && !b.container.Spec.Security.Privileged {
			add(specs.CgroupNamespace, "")
		}
	}
	b.out.Linux.Namespaces = out
	return nil
}

// pidNamespace: the container's own choice goes before the pod's.
func (b *specBuilder) pidNamespace(add func(specs.LinuxNamespaceType, string)) error {
	pod := b.sandbox.Spec.Namespaces.PID
	switch mode := b.container.Spec.PID; {
	case mode == NamespaceTarget:
		add(specs.PIDNamespace, pidNamespaceOf(b.target))
	case mode == NamespaceContainer || pod == NamespaceContainer:
		add(specs.PIDNamespace, "")
	case pod == NamespacePod && b.sandbox.Pid == 0:
		return fmt.Errorf("sandbox %s has no PID namespace", short(b.sandbox.ID))
	case pod == NamespacePod:
		add(specs.PIDNamespace, pidNamespaceOf(b.sandbox.Pid))
	}
	return nil
}

func pidNamespaceOf(pid int) string { return "/proc/" + strconv.Itoa(pid) + "/ns/pid" }

// paths sets what of /proc and /sys is hidden.
func (b *specBuilder) paths() error {
	sec := b.container.Spec.Security
	switch {
	case sec.Privileged:
		b.out.Linux.MaskedPaths, b.out.Linux.ReadonlyPaths = nil, nil
	default:
		if len(sec.MaskedPaths) > 0 {
			b.out.Linux.MaskedPaths = sec.MaskedPaths
		}
		if len(sec.ReadonlyPaths) > 0 {
			b.out.Linux.ReadonlyPaths = sec.ReadonlyPaths
		}
	}
	return nil
}

func (b *specBuilder) resources() error {
	l := b.out.Linux
	l.CgroupsPath = b.sandbox.cgroupsPath(b.container.ID)
	devices := l.Resources
	l.Resources = b.container.Spec.Resources.OCI()
	if devices != nil {
		l.Resources.Devices = append(devices.Devices, l.Resources.Devices...)
	}
	own, pod := b.container.Spec, b.sandbox.Spec
	if err := b.classes.Apply(b.out, own.Name, own.Annotations, pod.Annotations); err != nil {
		return err
	}
	if b.container.Spec.Security.Privileged {
		l.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
		return nil
	}
	l.Resources.Devices = append(l.Resources.Devices, b.rules...)
	return nil
}

// OCI translates limits; what is not set stays nil.
func (r Resources) OCI() *specs.LinuxResources {
	out := &specs.LinuxResources{Unified: r.Unified}
	cpu := &specs.LinuxCPU{Cpus: r.CpusetCpus, Mems: r.CpusetMems}
	if r.CPUShares > 0 {
		v := uint64(r.CPUShares)
		cpu.Shares = &v
	}
	if r.CPUPeriod > 0 {
		v := uint64(r.CPUPeriod)
		cpu.Period = &v
	}
	if r.CPUQuota != 0 {
		v := r.CPUQuota
		cpu.Quota = &v
	}
	if *cpu != (specs.LinuxCPU{}) {
		out.CPU = cpu
	}
	if r.MemoryLimit != 0 || r.MemorySwap != 0 {
		out.Memory = &specs.LinuxMemory{}
		if v := r.MemoryLimit; v != 0 {
			out.Memory.Limit = &v
		}
		if v := r.MemorySwap; v != 0 {
			out.Memory.Swap = &v
		}
	}
	for size, limit := range r.Hugepages {
		out.HugepageLimits = append(out.HugepageLimits, specs.LinuxHugepageLimit{Pagesize: size, Limit: limit})
	}
	return out
}

// maxSeccomp is the largest profile that is read from disk.
const maxSeccomp = 1 << 20

func (b *specBuilder) seccomp() (err error) {
	sec := b.container.Spec.Security
	b.out.Linux.Seccomp = nil
	switch {
	case sec.Privileged || sec.Seccomp == SeccompUnconfined:
	case sec.Seccomp == SeccompLocalhost:
		b.out.Linux.Seccomp, err = loadSeccomp(sec.SeccompProfile)
	default:
		b.out.Linux.Seccomp, err = b.writer.DefaultSeccomp(b.out.Process.Capabilities.Bounding)
	}
	return err
}

func loadSeccomp(file string) (*specs.LinuxSeccomp, error) {
	if !filepath.IsAbs(file) {
		return nil, invalid("seccomp profile %q must be an absolute path on the node", file)
	}
	info, err := os.Stat(file)
	if err != nil {
		return nil, invalid("seccomp profile: %v", err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxSeccomp {
		return nil, invalid("seccomp profile %q is not a file of at most %s bytes", file, strconv.Itoa(maxSeccomp))
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("seccomp profile: %w", err)
	}
	var s specs.LinuxSeccomp
	if err := json.Unmarshal(raw, &s); err != nil {
		return nil, invalid("seccomp profile %q: %v", file, err)
	}
	return &s, nil
}
