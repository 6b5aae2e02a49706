package nri

import (
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// generator is a spec with the small changes that the interface's library puts adjustments together from.
type generator struct{ s *specs.Spec }

func (g generator) Spec() *specs.Spec { return g.s }

func (g generator) AddAnnotation(key, value string) {
	if g.s.Annotations == nil {
		g.s.Annotations = map[string]string{}
	}
	g.s.Annotations[key] = value
}
func (g generator) RemoveAnnotation(key string) { delete(g.s.Annotations, key) }

func (g generator) AddDevice(d specs.LinuxDevice) {
	g.RemoveDevice(d.Path)
	g.s.Linux.Devices = append(g.s.Linux.Devices, d)
}
func (g generator) RemoveDevice(path string) {
	g.s.Linux.Devices = slices.DeleteFunc(g.s.Linux.Devices, func(d specs.LinuxDevice) bool { return d.Path == path })
}

func (g generator) AddOrReplaceLinuxNamespace(kind, path string) error {
	n := specs.LinuxNamespace{Type: specs.LinuxNamespaceType(kind), Path: path}
	for i := range g.s.Linux.Namespaces {
		if g.s.Linux.Namespaces[i].Type == n.Type {
			g.s.Linux.Namespaces[i] = n
			return nil
		}
	}
	g.s.Linux.Namespaces = append(g.s.Linux.Namespaces, n)
	return nil
}
func (g generator) RemoveLinuxNamespace(kind string) error {
	g.s.Linux.Namespaces = slices.DeleteFunc(g.s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return string(n.Type) == kind })
	return nil
}

func (g generator) hooks() *specs.Hooks {
	if g.s.Hooks == nil {
		g.s.Hooks = &specs.Hooks{}
	}
	return g.s.Hooks
}

//lint:ignore SA1019 the library's interface has it
func (g generator) AddPreStartHook(h specs.Hook) { g.hooks().Prestart = append(g.hooks().Prestart, h) }
func (g generator) AddPostStartHook(h specs.Hook) {
	g.hooks().Poststart = append(g.hooks().Poststart, h)
}
func (g generator) AddPostStopHook(h specs.Hook) { g.hooks().Poststop = append(g.hooks().Poststop, h) }

func (g generator) AddProcessEnv(name, value string) {
	g.s.Process.Env = slices.DeleteFunc(g.s.Process.Env, func(kv string) bool { return strings.HasPrefix(kv, name+"=") })
	g.s.Process.Env = append(g.s.Process.Env, name+"="+value)
}
func (g generator) ClearProcessEnv()             { g.s.Process.Env = nil }
func (g generator) SetProcessArgs(args []string) { g.s.Process.Args = args }
func (g generator) SetProcessOOMScoreAdj(adj int) {
	g.s.Process.OOMScoreAdj = &adj
}

func (g generator) AddMount(m specs.Mount) { g.s.Mounts = append(g.s.Mounts, m) }
func (g generator) RemoveMount(dst string) {
	g.s.Mounts = slices.DeleteFunc(g.s.Mounts, func(m specs.Mount) bool { return m.Destination == dst })
}
func (g generator) ClearMounts()          { g.s.Mounts = nil }
func (g generator) Mounts() []specs.Mount { return g.s.Mounts }
func (g generator) SetLinuxRootPropagation(rp string) error {
	g.s.Linux.RootfsPropagation = rp
	return nil
}

func (g generator) AddLinuxSysctl(key, value string) {
	if g.s.Linux.Sysctl == nil {
		g.s.Linux.Sysctl = map[string]string{}
	}
	g.s.Linux.Sysctl[key] = value
}
func (g generator) RemoveLinuxSysctl(key string)    { delete(g.s.Linux.Sysctl, key) }
func (g generator) SetLinuxCgroupsPath(path string) { g.s.Linux.CgroupsPath = path }

func (g generator) resources() *specs.LinuxResources {
	if g.s.Linux.Resources == nil {
		g.s.Linux.Resources = &specs.LinuxResources{}
	}
	return g.s.Linux.Resources
}

func (g generator) AddLinuxResourcesDevice(allow bool, kind string, major, minor *int64, access string) {
	r := g.resources()
	r.Devices = append(r.Devices, specs.LinuxDeviceCgroup{Allow: allow, Type: kind, Major: major, Minor: minor, Access: access})
}
func (g generator) AddLinuxResourcesHugepageLimit(size string, limit uint64) {
	r := g.resources()
	r.HugepageLimits = slices.DeleteFunc(r.HugepageLimits, func(h specs.LinuxHugepageLimit) bool { return h.Pagesize == size })
	r.HugepageLimits = append(r.HugepageLimits, specs.LinuxHugepageLimit{Pagesize: size, Limit: limit})
}
func (g generator) AddLinuxResourcesUnified(key, value string) {
	r := g.resources()
	if r.Unified == nil {
		r.Unified = map[string]string{}
	}
	r.Unified[key] = value
}

func (g generator) cpu() *specs.LinuxCPU {
	if g.resources().CPU == nil {
		g.resources().CPU = &specs.LinuxCPU{}
	}
	return g.resources().CPU
}
func (g generator) SetLinuxResourcesCPUCpus(v string)           { g.cpu().Cpus = v }
func (g generator) SetLinuxResourcesCPUMems(v string)           { g.cpu().Mems = v }
func (g generator) SetLinuxResourcesCPUPeriod(v uint64)         { g.cpu().Period = &v }
func (g generator) SetLinuxResourcesCPUQuota(v int64)           { g.cpu().Quota = &v }
func (g generator) SetLinuxResourcesCPURealtimePeriod(v uint64) { g.cpu().RealtimePeriod = &v }
func (g generator) SetLinuxResourcesCPURealtimeRuntime(v int64) { g.cpu().RealtimeRuntime = &v }
func (g generator) SetLinuxResourcesCPUShares(v uint64)         { g.cpu().Shares = &v }

func (g generator) memory() *specs.LinuxMemory {
	if g.resources().Memory == nil {
		g.resources().Memory = &specs.LinuxMemory{}
	}
	return g.resources().Memory
}
func (g generator) SetLinuxResourcesMemoryLimit(v int64) { g.memory().Limit = &v }
func (g generator) SetLinuxResourcesMemorySwap(v int64)  { g.memory().Swap = &v }
