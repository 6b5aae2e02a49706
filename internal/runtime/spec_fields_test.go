package runtime

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// refuses tells how a container's spec is refused.
func refuses(t *testing.T, says string, change func(*SandboxSpec, *ContainerSpec, *ImageConfig)) {
	t.Helper()
	_, err := builder(t, change).build(t.Context())
	if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), says) {
		t.Errorf("%v, want %q", err, says)
	}
}

func TestPIDNamespaceOfSpec(t *testing.T) {
	for _, x := range []struct {
		pod, own NamespaceMode
		want     []string
	}{
		{NamespaceContainer, NamespacePod, []string{""}},
		{NamespaceNode, NamespacePod, nil},
		{NamespacePod, NamespacePod, []string{"/proc/77/ns/pid"}},
		{NamespacePod, NamespaceContainer, []string{""}},
		{NamespacePod, NamespaceTarget, []string{"/proc/99/ns/pid"}},
		{NamespaceNode, NamespaceTarget, []string{"/proc/99/ns/pid"}},
	} {
		b := builder(t, func(sb *SandboxSpec, c *ContainerSpec, _ *ImageConfig) { sb.Namespaces.PID, c.PID = x.pod, x.own })
		b.sandbox.Pid, b.target = 77, 99
		s, err := b.build(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, n := range s.Linux.Namespaces {
			if n.Type == specs.PIDNamespace {
				got = append(got, n.Path)
			}
		}
		if !slices.Equal(got, x.want) {
			t.Errorf("%+v: %q", x, got)
		}
	}
}

func TestMountOptionsAndMappings(t *testing.T) {
	dir := t.TempDir()
	s := build(t, func(_ *SandboxSpec, c *ContainerSpec, _ *ImageConfig) {
		c.Mounts = []Mount{{
			ContainerPath: "/m", HostPath: dir, Options: []string{"noexec", "nosuid"},
			UIDMap: []IDMapping{{ContainerID: 0, HostID: 1000, Length: 10}}, GIDMap: []IDMapping{{ContainerID: 1, HostID: 2000, Length: 20}},
		}}
	})
	i := slices.IndexFunc(s.Mounts, func(m specs.Mount) bool { return m.Destination == "/m" })
	want := specs.Mount{
		Destination: "/m", Type: "bind", Source: dir, Options: []string{"rbind", "rprivate", "rw", "noexec", "nosuid"},
		UIDMappings: []specs.LinuxIDMapping{{ContainerID: 0, HostID: 1000, Size: 10}},
		GIDMappings: []specs.LinuxIDMapping{{ContainerID: 1, HostID: 2000, Size: 20}},
	}
	if i < 0 || !cmp.Equal(s.Mounts[i], want) {
		t.Errorf("%+v", s.Mounts)
	}
}

const cdiFile = `{"cdiVersion":"0.6.0","kind":"berth.test/dev","devices":[{"name":"one","containerEdits":{
	"deviceNodes":[{"path":"/dev/null","permissions":"rw"}],"env":["FROM_CDI=yes"],
	"mounts":[{"hostPath":"/usr","containerPath":"/cdi","options":["ro","bind"]}]}}]}`

// A CDI device changes the spec as its description says; one that nobody describes is refused.
func TestCDI(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "berth.json"), []byte(cdiFile), 0o644); err != nil {
		t.Fatal(err)
	}
	b := builder(t, func(_ *SandboxSpec, c *ContainerSpec, _ *ImageConfig) { c.CDIDevices = []string{"berth.test/dev=one"} })
	b.cdiDirs = []string{dir}
	s, err := b.build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(s.Process.Env, "FROM_CDI=yes") {
		t.Errorf("env %q", s.Process.Env)
	}
	if !slices.ContainsFunc(s.Linux.Devices, func(d specs.LinuxDevice) bool { return d.Path == "/dev/null" && d.Major == 1 && d.Minor == 3 }) {
		t.Errorf("devices %+v", s.Linux.Devices)
	}
	if !slices.ContainsFunc(s.Mounts, func(m specs.Mount) bool { return m.Destination == "/cdi" && m.Source == "/usr" }) {
		t.Errorf("mounts %+v", s.Mounts)
	}
	os.WriteFile(filepath.Join(dir, "broken.json"), []byte("{"), 0o644)
	b = builder(t, func(_ *SandboxSpec, c *ContainerSpec, _ *ImageConfig) { c.CDIDevices = []string{"berth.test/dev=two"} })
	b.cdiDirs = []string{dir}
	if _, err := b.build(t.Context()); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "berth.test/dev=two") || !strings.Contains(err.Error(), "broken.json") {
		t.Errorf("%v", err)
	}
	// What says the same in an annotation counts for nothing.
	s = build(t, func(_ *SandboxSpec, c *ContainerSpec, _ *ImageConfig) {
		c.Annotations = map[string]string{"cdi.k8s.io/x": "berth.test/dev=one"}
	})
	if slices.Contains(s.Process.Env, "FROM_CDI=yes") {
		t.Error("an annotation brought a device")
	}
}

// fakeLSM is a node with both modules.
type fakeLSM struct{ relabelled *[]string }

func (fakeLSM) AppArmor(_ context.Context, mode ProfileMode, name string) (string, error) {
	return [...]string{"default", "", name}[mode], nil
}
func (fakeLSM) SELinux(o SELinux) (string, string, error) {
	return "u:r:" + o.Type + ":" + o.Level, "u:o:file:" + o.Level, nil
}
func (fakeLSM) Release(string) {}
func (fakeLSM) Reserve(string) {}
func (f fakeLSM) Relabel(path, files string) error {
	*f.relabelled = append(*f.relabelled, path+" "+files)
	return nil
}

func TestLabels(t *testing.T) {
	dir := t.TempDir()
	for _, x := range []struct {
		name                    string
		change                  func(*Security)
		apparmor, process, file string
	}{
		{"nothing said", func(*Security) {}, "default", "u:r:pod:s0:c1,c2", "u:o:pod:s0:c1,c2"},
		{"unconfined", func(s *Security) { s.AppArmor = ProfileUnconfined }, "", "u:r:pod:s0:c1,c2", "u:o:pod:s0:c1,c2"},
		{"by name", func(s *Security) { s.AppArmor, s.AppArmorProfile = ProfileLocalhost, "mine" }, "mine", "u:r:pod:s0:c1,c2", "u:o:pod:s0:c1,c2"},
		{"own type, the pod's level", func(s *Security) { s.SELinux = &SELinux{Type: "x"} }, "default", "u:r:x:s0:c1,c2", "u:o:file:s0:c1,c2"},
		{"own level", func(s *Security) { s.SELinux = &SELinux{Type: "x", Level: "s9"} }, "default", "u:r:x:s9", "u:o:file:s9"},
		{"privileged", func(s *Security) { s.Privileged = true; s.SELinux = &SELinux{Type: "x"} }, "", "", ""},
	} {
		b := builder(t, func(_ *SandboxSpec, c *ContainerSpec, _ *ImageConfig) {
			x.change(&c.Security)
			c.Mounts = []Mount{{ContainerPath: "/m", HostPath: dir, Relabel: true}}
		})
		var relabelled []string
		b.lsm = fakeLSM{&relabelled}
		b.sandbox.SELinuxLabel, b.sandbox.SELinuxMount = "u:r:pod:s0:c1,c2", "u:o:pod:s0:c1,c2"
		s, err := b.build(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if s.Process.ApparmorProfile != x.apparmor || s.Process.SelinuxLabel != x.process || s.Linux.MountLabel != x.file {
			t.Errorf("%s: %q %q %q", x.name, s.Process.ApparmorProfile, s.Process.SelinuxLabel, s.Linux.MountLabel)
		}
		if want := dir + " " + x.file; x.file != "" && !slices.Equal(relabelled, []string{want}) || x.file == "" && len(relabelled) > 0 {
			t.Errorf("%s: relabelled %q", x.name, relabelled)
		}
	}
	refuses(t, "no AppArmor", func(_ *SandboxSpec, c *ContainerSpec, _ *ImageConfig) {
		c.Security.AppArmor, c.Security.AppArmorProfile = ProfileLocalhost, "mine"
	})
}

// A folder stands for all devices in it; what was asked for goes before what is there anyway.
func TestDevices(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: /dev/net is often closed to others")
	}
	s := build(t, func(_ *SandboxSpec, c *ContainerSpec, _ *ImageConfig) {
		c.Devices = []Device{{ContainerPath: "/dev/pair", HostPath: "/dev/null", Permissions: "r"}, {ContainerPath: "/dev/zero", HostPath: "/dev/full", Permissions: "rw"}}
	})
	var last []string
	for _, d := range s.Linux.Devices {
		last = append(last, d.Path)
	}
	if !slices.Equal(last, []string{"/dev/pair", "/dev/zero"}) {
		t.Errorf("devices %q", last)
	}
	rules := s.Linux.Resources.Devices
	if n := len(rules); n < 2 || rules[n-2].Access != "r" || *rules[n-1].Minor != 7 || rules[n-1].Access != "rw" {
		t.Errorf("rules %+v", rules)
	}
	s = build(t, func(sb *SandboxSpec, c *ContainerSpec, _ *ImageConfig) {
		sb.Privileged, c.Security.Privileged = true, true
		c.Devices = []Device{{ContainerPath: "/dev/zero", HostPath: "/dev/full"}}
	})
	n := 0
	for _, d := range s.Linux.Devices {
		if d.Path == "/dev/zero" {
			n++
			if d.Minor != 7 {
				t.Errorf("/dev/zero is %d:%d", d.Major, d.Minor)
			}
		}
	}
	if n != 1 {
		t.Errorf("/dev/zero is there %d times", n)
	}
	refuses(t, "not a device", func(_ *SandboxSpec, c *ContainerSpec, _ *ImageConfig) {
		c.Devices = []Device{{ContainerPath: "/dev/x", HostPath: "/etc/passwd"}}
	})
}

func TestContainersThatCanNeverBe(t *testing.T) {
	one := int64(1)
	for says, change := range map[string]func(*ContainerSpec){
		"mount option \"suid\"": func(c *ContainerSpec) {
			c.Mounts = []Mount{{ContainerPath: "/a", HostPath: "/b", Options: []string{"suid"}}}
		},
		"both by number and by name": func(c *ContainerSpec) { c.Security.RunAsUser, c.Security.RunAsUsername = &one, "x" },
		"belong together": func(c *ContainerSpec) {
			c.Mounts = []Mount{{ContainerPath: "/a", HostPath: "/b", UIDMap: []IDMapping{{Length: 1}}}}
		},
		"of an image or of host path": func(c *ContainerSpec) {
			c.Mounts = []Mount{{ContainerPath: "/a", HostPath: "/b", Image: &ImageVolume{Image: "x"}}}
		},
		"must stay inside the image": func(c *ContainerSpec) {
			c.Mounts = []Mount{{ContainerPath: "/a", Image: &ImageVolume{Image: "x", SubPath: "../x"}}}
		},
		"the target's ID":            func(c *ContainerSpec) { c.PID = NamespaceTarget },
		"is the sandbox's to choose": func(c *ContainerSpec) { c.PID = NamespaceNode },
	} {
		c := web()
		change(&c)
		if err := checkContainer(c); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v", says, err)
		}
	}
}
