package engine

import (
	"maps"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"

	"github.com/11f9778f/berth/internal/engine/caps"
)

// Features says what this engine can do, as runtime-spec's features.md wants it. It is asked of the code
// that does it: a namespace, an action or a flag is listed if it is accepted.
func Features() features.Features {
	no, yes := false, true
	f := features.Features{
		OCIVersionMin: "1.0.0", OCIVersionMax: specs.Version,
		Hooks:        []string{"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"},
		MountOptions: mountOptionNames(),
		Linux: &features.Linux{
			Capabilities: caps.Names(),
			Cgroup:       &features.Cgroup{V1: &yes, V2: &yes, Systemd: &yes, SystemdUser: &no, Rdma: &yes},
			Seccomp:      seccompFeatures(),
			Apparmor:     &features.Apparmor{Enabled: &yes},
			Selinux:      &features.Selinux{Enabled: &yes},
			IntelRdt:     &features.IntelRdt{Enabled: &yes, Schemata: &yes, Monitoring: &yes},
			MemoryPolicy: &features.MemoryPolicy{},
			NetDevices:   &features.NetDevices{Enabled: &yes},
			MountExtensions: &features.MountExtensions{
				IDMap: &features.IDMap{Enabled: &yes},
			},
		},
	}
	for _, ns := range slices.Sorted(maps.Keys(cloneFlags)) {
		s := &specs.Spec{Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.MountNamespace}}}}
		if ns != specs.MountNamespace {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: ns})
		}
		if ns == specs.UserNamespace {
			s.Linux.UIDMappings = []specs.LinuxIDMapping{{Size: 1}}
			s.Linux.GIDMappings = s.Linux.UIDMappings
		}
		if validateNamespaces(s) == nil {
			f.Linux.Namespaces = append(f.Linux.Namespaces, string(ns))
		}
	}
	for _, mode := range slices.Sorted(maps.Keys(memoryModes)) {
		f.Linux.MemoryPolicy.Modes = append(f.Linux.MemoryPolicy.Modes, string(mode))
	}
	for _, flag := range slices.Sorted(maps.Keys(memoryFlags)) {
		f.Linux.MemoryPolicy.Flags = append(f.Linux.MemoryPolicy.Flags, string(flag))
	}
	return f
}

// mountOptionNames are the options that are understood here; a filesystem may know more.
func mountOptionNames() []string {
	names := []string{"async", "bind", "dirsync", "idmap", "lazytime", "nolazytime", "rbind", "remount", "ridmap", "sync", "tmpcopyup"}
	for name := range ignoredOptions {
		if name != "" {
			names = append(names, name)
		}
	}
	for name := range mountAttrs {
		names = append(names, name, "r"+name)
	}
	names = slices.AppendSeq(names, maps.Keys(propagations))
	slices.Sort(names)
	return slices.Compact(names)
}

func seccompFeatures() *features.Seccomp {
	yes := true
	f := &features.Seccomp{Enabled: &yes}
	accepts := func(change func(*specs.LinuxSeccomp)) bool {
		s := &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, ListenerPath: "/agent", Syscalls: []specs.LinuxSyscall{{Names: []string{"acct"}, Action: specs.ActErrno}}}
		change(s)
		_, err := compileSeccomp(s)
		return err == nil
	}
	for _, a := range []specs.LinuxSeccompAction{
		specs.ActAllow, specs.ActErrno, specs.ActKill, specs.ActKillProcess, specs.ActKillThread, specs.ActLog, specs.ActNotify, specs.ActTrace, specs.ActTrap,
	} {
		if accepts(func(s *specs.LinuxSeccomp) { s.Syscalls[0].Action = a }) {
			f.Actions = append(f.Actions, string(a))
		}
	}
	for _, op := range []specs.LinuxSeccompOperator{
		specs.OpEqualTo, specs.OpGreaterEqual, specs.OpGreaterThan, specs.OpLessEqual, specs.OpLessThan, specs.OpMaskedEqual, specs.OpNotEqual,
	} {
		if accepts(func(s *specs.LinuxSeccomp) { s.Syscalls[0].Args = []specs.LinuxSeccompArg{{Op: op}} }) {
			f.Operators = append(f.Operators, string(op))
		}
	}
	for _, arch := range []specs.Arch{specs.ArchX86, specs.ArchX86_64, specs.ArchX32, specs.ArchARM, specs.ArchAARCH64} {
		if accepts(func(s *specs.LinuxSeccomp) { s.Architectures = []specs.Arch{arch} }) {
			f.Archs = append(f.Archs, string(arch))
		}
	}
	for _, flag := range []specs.LinuxSeccompFlag{
		"SECCOMP_FILTER_FLAG_TSYNC", specs.LinuxSeccompFlagLog, specs.LinuxSeccompFlagSpecAllow, specs.LinuxSeccompFlagWaitKillableRecv,
	} {
		if accepts(func(s *specs.LinuxSeccomp) {
			s.Flags = []specs.LinuxSeccompFlag{flag}
			if flag == specs.LinuxSeccompFlagWaitKillableRecv { // only means something with a listener
				s.Syscalls[0].Action = specs.ActNotify
			}
		}) {
			f.KnownFlags = append(f.KnownFlags, string(flag))
			f.SupportedFlags = append(f.SupportedFlags, string(flag))
		}
	}
	return f
}
