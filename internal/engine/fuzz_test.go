package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/11f9778f/berth/internal/engine/cgroup"
)

// FuzzSpec feeds hostile configurations to the engine: to everything that looks at one before a process exists, and, where
// it is root, to a whole Create whose namespaces and cgroup are the test's own. No panic, an error that says what is
// wrong, and nothing of the host's changes.
func FuzzSpec(f *testing.F) {
	b, err := json.Marshal(DefaultSpec())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	for _, s := range []string{
		`{"process":{"args":["x"],"cwd":"/"},"root":{"path":"r"},"linux":{"namespaces":[{"type":"mount"}],"sysctl":{"net.x":"1"}},"mounts":[{"destination":"/a/../..","options":["r","rr","bind","=",""]}]}`,
		`{"process":{"args":["x"],"cwd":"/","scheduler":{"policy":"SCHED_RR","flags":["SCHED_FLAG_RECLAIM"]},"ioPriority":{"class":"IOPRIO_CLASS_RT","priority":-1},"execCPUAffinity":{"initial":"0-99999999999"}},"linux":{"namespaces":[{"type":"mount"},{"type":"user"}],"uidMappings":[{"size":4294967295,"hostID":1}],"gidMappings":[{}]}}`,
		`{"hooks":{"prestart":[{"path":"x","timeout":0}],"poststop":[{"path":"/\u0000"}]},"process":{"args":["x"],"cwd":"/"},"linux":{"namespaces":[{"type":"mount"}],"devices":[{"path":"/../../dev/x","type":"c","major":-1}],"memoryPolicy":{"mode":"MPOL_BIND","nodes":"9-1"},"personality":{"domain":"LINUX32","flags":["x"]},"netDevices":{"../lo":{}},"intelRdt":{"closID":".."}}}`,
		`{"process":{"args":["x"],"cwd":"/","apparmorProfile":"\n","selinuxLabel":"\u0000"},"linux":{"namespaces":[{"type":"mount"},{"type":"time"}],"timeOffsets":{"x":{"secs":-1}},"maskedPaths":["../../.."],"readonlyPaths":["/proc/../../.."],"seccomp":{"defaultAction":"SCMP_ACT_NOTIFY"}},"mounts":[{"destination":"x","type":"tmpfs","options":["tmpcopyup","remount","idmap","size=-1"]},{"destination":"/","options":["remount","bind","ro"]}]}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		spec, err := ParseSpec(b)
		if err != nil {
			return
		}
		o := CreateOptions{ID: "fuzz", Bundle: "/nonexistent", Spec: spec}
		if validate(o) != nil {
			return
		}
		for _, m := range spec.Mounts {
			parseMountOptions(m.Options)
			parseRootOptions(m.Options)
			splitLayers(m.Source)
			parseOverlay(m.Options)
		}
		if os.Getuid() == 0 {
			createHostile(t, o)
		}
	})
}

// createHostile creates the container with what could touch the host taken out: joined namespaces, binds of the host's
// files, devices of the host's, and programs that the host would run.
func createHostile(t *testing.T, o CreateOptions) {
	s, root := o.Spec, t.TempDir()
	for _, d := range []string{"proc", "dev", "sys", "etc"} {
		os.Mkdir(filepath.Join(root, d), 0o755)
	}
	s.Root = &specs.Root{Path: root}
	s.Hooks, s.Linux.Resources, s.Linux.NetDevices, s.Linux.IntelRdt, s.Process.Terminal = nil, nil, nil, nil, false
	s.Linux.CgroupsPath = fmt.Sprintf("/berth-engine-fuzz-%d/fuzz", os.Getpid())
	defer func() {
		if parent, err := cgroup.Load(filepath.Dir(s.Linux.CgroupsPath)); err == nil {
			parent.Delete(context.Background())
		}
	}()
	namespaces := []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.NetworkNamespace}}
	for _, ns := range s.Linux.Namespaces {
		if ns.Path == "" && (ns.Type == specs.UserNamespace || ns.Type == specs.TimeNamespace || ns.Type == specs.CgroupNamespace) {
			namespaces = append(namespaces, ns)
		}
	}
	s.Linux.Namespaces = namespaces
	for n := range s.Mounts {
		if m := &s.Mounts[n]; !pseudo[m.Type] {
			m.Type = "tmpfs"
		} else if m.Type == "overlay" || strings.HasPrefix(m.Type, "cgroup") {
			m.Type = "mqueue"
		}
		options := s.Mounts[n].Options[:0:0]
		for _, opt := range s.Mounts[n].Options {
			if !strings.HasSuffix(opt, "bind") {
				options = append(options, opt)
			}
		}
		s.Mounts[n].Options = options
	}
	c, err := Create(context.Background(), o)
	if err != nil {
		if err.Error() == "" {
			t.Error("an error without words")
		}
		return
	}
	if err := c.Delete(context.Background()); err != nil {
		t.Error(err)
	}
}
