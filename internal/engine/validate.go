package engine

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// validate refuses what the engine would otherwise ignore or stumble over later; each error names the field.
func validate(o CreateOptions) error {
	s := o.Spec
	if s == nil || s.Process == nil || s.Linux == nil {
		return errors.New("the spec needs process and linux")
	}
	if o.ID == "" || strings.ContainsAny(o.ID, "/\x00") || o.ID == "." || o.ID == ".." {
		return fmt.Errorf("bad container id %q", o.ID)
	}
	if len(o.Rootfs) == 0 && (s.Root == nil || s.Root.Path == "") {
		return errors.New("root.path is missing")
	}
	if err := validateProcess(s.Process); err != nil {
		return err
	}
	if err := validateNamespaces(s); err != nil {
		return err
	}
	if err := unsupportedFields(s); err != nil {
		return err
	}
	for n, m := range s.Mounts {
		if !filepath.IsAbs(m.Destination) || strings.ContainsRune(m.Destination, 0) {
			return fmt.Errorf("mounts[%d].destination %q is not an absolute path", n, m.Destination)
		}
		if relative(m.Destination) == "." {
			return fmt.Errorf("mounts[%d].destination %q would hide the root filesystem", n, m.Destination)
		}
		if len(m.UIDMappings)+len(m.GIDMappings) > 0 {
			return fmt.Errorf("mounts[%d]: id mappings of a mount are not supported", n)
		}
	}
	for k, v := range s.Linux.Sysctl {
		if err := checkSysctl(s, k, v); err != nil {
			return err
		}
	}
	if p := s.Linux.RootfsPropagation; p != "" {
		if _, ok := propagations[p]; !ok {
			return fmt.Errorf("linux.rootfsPropagation: unknown value %q", p)
		}
	}
	return nil
}

func validateProcess(p *specs.Process) error {
	switch {
	case p == nil:
		return errors.New("process is missing")
	case len(p.Args) == 0 || p.Args[0] == "":
		return errors.New("process.args is empty: there is no program to run")
	case !filepath.IsAbs(p.Cwd):
		return fmt.Errorf("process.cwd %q is not an absolute path", p.Cwd)
	case p.ApparmorProfile != "":
		return errors.New("process.apparmorProfile is not supported")
	case p.SelinuxLabel != "":
		return errors.New("process.selinuxLabel is not supported")
	case p.Scheduler != nil:
		return errors.New("process.scheduler is not supported")
	case p.IOPriority != nil:
		return errors.New("process.ioPriority is not supported")
	case p.ExecCPUAffinity != nil:
		return errors.New("process.execCPUAffinity is not supported")
	}
	for n, s := range append(append([]string{p.Cwd}, p.Args...), p.Env...) {
		if strings.ContainsRune(s, 0) {
			return fmt.Errorf("process: cwd, args and env: string %d holds a NUL byte", n)
		}
	}
	return nil
}

func validateNamespaces(s *specs.Spec) error {
	seen := map[specs.LinuxNamespaceType]specs.LinuxNamespace{}
	for _, ns := range s.Linux.Namespaces {
		switch ns.Type {
		case specs.UserNamespace, specs.TimeNamespace:
			return fmt.Errorf("linux.namespaces: %s namespaces are not supported", ns.Type)
		}
		if _, ok := cloneFlags[ns.Type]; !ok {
			return fmt.Errorf("linux.namespaces: unknown type %q", ns.Type)
		}
		if _, twice := seen[ns.Type]; twice {
			return fmt.Errorf("linux.namespaces: %s is there twice", ns.Type)
		}
		seen[ns.Type] = ns
	}
	if m, ok := seen[specs.MountNamespace]; !ok || m.Path != "" {
		return errors.New("linux.namespaces: a new mount namespace is needed")
	}
	uts, ok := seen[specs.UTSNamespace]
	if (s.Hostname != "" || s.Domainname != "") && (!ok || uts.Path != "") {
		return errors.New("hostname and domainname need a new UTS namespace")
	}
	return nil
}

// unsupportedFields names what is in the spec and not yet in the engine.
func unsupportedFields(s *specs.Spec) error {
	l := s.Linux
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"hooks", s.Hooks != nil},
		{"linux.uidMappings", len(l.UIDMappings)+len(l.GIDMappings) > 0},
		{"linux.timeOffsets", len(l.TimeOffsets) > 0},
		{"linux.intelRdt", l.IntelRdt != nil},
		{"linux.mountLabel", l.MountLabel != ""},
		{"linux.personality", l.Personality != nil},
		{"linux.netDevices", len(l.NetDevices) > 0},
		{"linux.memoryPolicy", l.MemoryPolicy != nil},
		{"solaris, windows, vm, zos or freebsd", s.Solaris != nil || s.Windows != nil || s.VM != nil || s.ZOS != nil},
	} {
		if f.set {
			return fmt.Errorf("%s is not supported", f.name)
		}
	}
	return nil
}
