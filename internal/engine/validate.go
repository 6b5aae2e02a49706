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
	for _, err := range []error{
		otherSystems(s), validateCallerMounts(s), validateHooks(s.Hooks), validateDomains(s.Linux), validateRDT(s.Linux.IntelRdt), validateNetDevices(s),
	} {
		if err != nil {
			return err
		}
	}
	if s.Linux.MountLabel != "" && !hasSELinux() {
		return fmt.Errorf("linux.mountLabel %q: this kernel has no SELinux, or it is switched off", s.Linux.MountLabel)
	}
	for n, m := range s.Mounts {
		if err := validateMount(m); err != nil {
			return fmt.Errorf("mounts[%d].%w", n, err)
		}
	}
	for n, d := range s.Linux.Devices {
		if err := validateDevice(d); err != nil {
			return fmt.Errorf("linux.devices[%d] %s: %w", n, d.Path, err)
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

// validateMount checks a mount. A relative destination starts at the root, as old bundles have it.
func validateMount(m specs.Mount) error {
	opts, err := parseMountOptions(m.Options)
	if err != nil {
		return fmt.Errorf("options: %w", err)
	}
	switch {
	case m.Destination == "" || strings.ContainsRune(m.Destination+m.Source+m.Type, 0):
		return fmt.Errorf("destination %q: it is empty, or a NUL byte is in it, the source or the type", m.Destination)
	case relative(m.Destination) == "." && !opts.remount:
		return fmt.Errorf("destination %q would hide the root filesystem", m.Destination)
	case len(m.UIDMappings)+len(m.GIDMappings) > 0:
		if err := (IDMappings{UID: m.UIDMappings, GID: m.GIDMappings}).check("uidMappings and gidMappings"); err != nil {
			return err
		}
	}
	return nil
}

func validateDevice(d specs.LinuxDevice) error {
	switch {
	case deviceModes[d.Type] == 0:
		return fmt.Errorf("unknown type %q", d.Type)
	case !filepath.IsAbs(d.Path) || relative(d.Path) == "." || strings.ContainsRune(d.Path, 0):
		return errors.New("the path is not an absolute one of a file")
	case d.Type != "p" && (d.Major < 0 || d.Major > 1<<12-1 || d.Minor < 0 || d.Minor > 1<<20-1):
		return fmt.Errorf("there is no device number %d:%d", d.Major, d.Minor)
	}
	return nil
}

func validateProcess(p *specs.Process) error {
	switch {
	case p == nil:
		return errors.New("process is missing")
	case p.CommandLine != "":
		return errors.New("process.commandLine is for Windows: the program and its arguments go into process.args")
	case len(p.Args) == 0 || p.Args[0] == "":
		return errors.New("process.args is empty: there is no program to run")
	case !filepath.IsAbs(p.Cwd):
		return fmt.Errorf("process.cwd %q is not an absolute path", p.Cwd)
	}
	for n, s := range append(append([]string{p.Cwd}, p.Args...), p.Env...) {
		if strings.ContainsRune(s, 0) {
			return fmt.Errorf("process: cwd, args and env: string %d holds a NUL byte", n)
		}
	}
	if err := checkLabels(p); err != nil {
		return err
	}
	return validateAttributes(p)
}

func validateNamespaces(s *specs.Spec) error {
	seen := map[specs.LinuxNamespaceType]specs.LinuxNamespace{}
	for _, ns := range s.Linux.Namespaces {
		if _, ok := cloneFlags[ns.Type]; !ok {
			return fmt.Errorf("linux.namespaces: unknown type %q", ns.Type)
		}
		if _, twice := seen[ns.Type]; twice {
			return fmt.Errorf("linux.namespaces: %s is there twice", ns.Type)
		}
		seen[ns.Type] = ns
	}
	if err := validateMaps(s.Linux, seen); err != nil {
		return err
	}
	if _, ok := seen[specs.UTSNamespace]; !ok && (s.Hostname != "" || s.Domainname != "") {
		return errors.New("hostname and domainname need a UTS namespace of the container")
	}
	return nil
}

// validateMaps checks what only means something with a namespace.
func validateMaps(l *specs.Linux, seen map[specs.LinuxNamespaceType]specs.LinuxNamespace) error {
	user, ok := seen[specs.UserNamespace]
	switch mapped := len(l.UIDMappings)+len(l.GIDMappings) > 0; {
	case mapped && !ok:
		return errors.New("linux.uidMappings and gidMappings need a user namespace")
	case mapped || ok && user.Path == "":
		if err := (IDMappings{UID: l.UIDMappings, GID: l.GIDMappings}).check("linux.uidMappings and gidMappings"); err != nil {
			return err
		}
	}
	if len(l.TimeOffsets) == 0 {
		return nil
	}
	if t, ok := seen[specs.TimeNamespace]; !ok || t.Path != "" {
		return errors.New("linux.timeOffsets need a new time namespace")
	}
	for clock := range l.TimeOffsets {
		if clock != "monotonic" && clock != "boottime" {
			return fmt.Errorf("linux.timeOffsets: there is no clock %q, only monotonic and boottime", clock)
		}
	}
	return nil
}

// otherSystems refuses what is for another kind of container.
func otherSystems(s *specs.Spec) error {
	if s.Solaris != nil || s.Windows != nil || s.VM != nil || s.ZOS != nil || s.FreeBSD != nil {
		return errors.New("the spec is for Solaris, Windows, FreeBSD, z/OS or a virtual machine")
	}
	return nil
}
