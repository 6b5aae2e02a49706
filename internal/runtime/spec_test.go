package runtime

import (
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/11f9778f/berth/internal/engine"
)

func builder(t *testing.T, change func(*SandboxSpec, *ContainerSpec, *ImageConfig)) *specBuilder {
	t.Helper()
	sb := pod("a")
	sb.Hostname = "ahost"
	c := web()
	img := ImageConfig{Entrypoint: []string{"/entry"}, Cmd: []string{"cmd"}, Env: []string{"A=image", "PATH=/bin"}, WorkingDir: "srv"}
	if change != nil {
		change(&sb, &c, &img)
	}
	return &specBuilder{writer: &engine.SpecWriter{}, sources: &sources{},
		sandbox:   SandboxStatus{ID: "sb", Spec: sb, NetNS: "/n", IPC: "/i", UTS: "/u", CgroupPath: "/berth/poda"},
		container: ContainerStatus{ID: "c", Spec: c, CgroupPath: "/berth/poda/c"},
		image:     Image{Config: img}, who: identity{uid: 5, gid: 6, groups: []uint32{6}, home: "/home/x"},
		podDir: "/pods/sb", oomAdj: -100, lsm: noLSM{},
	}
}

func build(t *testing.T, change func(*SandboxSpec, *ContainerSpec, *ImageConfig)) *specs.Spec {
	t.Helper()
	s, err := builder(t, change).build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSpecOfAnOrdinaryContainer(t *testing.T) {
	s := build(t, func(_ *SandboxSpec, c *ContainerSpec, _ *ImageConfig) {
		c.Env = []EnvVar{{Key: "A", Value: []byte("own")}, {Key: "B", Value: []byte("\xff")}}
		c.Resources = Resources{CPUShares: 512, CPUQuota: -1, MemoryLimit: 1 << 20, OOMScoreAdj: -997}
	})
	if want := []string{"PATH=/bin", "HOSTNAME=ahost", "HOME=/home/x", "A=own", "B=\xff"}; !cmp.Equal(s.Process.Env, want) {
		t.Errorf("env %q", s.Process.Env)
	}
	if !cmp.Equal(s.Process.Args, []string{"/entry", "cmd"}) || s.Process.Cwd != "/srv" {
		t.Errorf("process %v in %s", s.Process.Args, s.Process.Cwd)
	}
	if *s.Process.OOMScoreAdj != -100 {
		t.Errorf("oom_score_adj %d: less than this process may give", *s.Process.OOMScoreAdj)
	}
	if s.Process.NoNewPrivileges {
		t.Error("no_new_privs is on although nobody asked")
	}
	if c := s.Process.Capabilities; len(c.Inheritable)+len(c.Ambient) > 0 || !slices.Contains(c.Bounding, "CAP_CHOWN") {
		t.Errorf("capabilities %+v", c)
	}
	if r := s.Linux.Resources; *r.CPU.Shares != 512 || *r.CPU.Quota != -1 || *r.Memory.Limit != 1<<20 || r.Devices[0].Allow {
		t.Errorf("resources %+v", r)
	}
	if s.Linux.Seccomp == nil || len(s.Linux.MaskedPaths) == 0 || s.Linux.CgroupsPath != "/berth/poda/c" {
		t.Errorf("linux %+v", s.Linux)
	}
	paths := map[specs.LinuxNamespaceType]string{}
	for _, n := range s.Linux.Namespaces {
		paths[n.Type] = n.Path
	}
	want := map[specs.LinuxNamespaceType]string{"mount": "", "pid": "", "network": "/n", "ipc": "/i", "uts": "/u", "cgroup": ""}
	if !cmp.Equal(paths, want) {
		t.Errorf("namespaces %v", paths)
	}
	if m := mountAt(s, "/dev/shm"); m == nil || m.Source != "/pods/sb/shm" {
		t.Errorf("/dev/shm: %+v", m)
	}
	if m := mountAt(s, "/etc/hosts"); m == nil || m.Source != "/pods/sb/hosts" {
		t.Errorf("/etc/hosts: %+v", m)
	}
}

func mountAt(s *specs.Spec, dst string) *specs.Mount {
	var found *specs.Mount
	for i, m := range s.Mounts {
		if m.Destination == dst {
			if found != nil {
				return nil // twice
			}
			found = &s.Mounts[i]
		}
	}
	return found
}

func TestSpecOfAPrivilegedHostContainer(t *testing.T) {
	s := build(t, func(sb *SandboxSpec, c *ContainerSpec, _ *ImageConfig) {
		sb.Namespaces = Namespaces{Network: NamespaceNode, PID: NamespaceNode, IPC: NamespaceNode}
		c.Security.Privileged = true
	})
	for _, n := range s.Linux.Namespaces {
		if n.Type != specs.MountNamespace {
			t.Errorf("namespace %s", n.Type)
		}
	}
	if s.Linux.Seccomp != nil || s.Linux.MaskedPaths != nil || s.Linux.ReadonlyPaths != nil {
		t.Error("a privileged container is confined")
	}
	if !slices.Contains(s.Process.Capabilities.Bounding, "CAP_SYS_ADMIN") || !s.Linux.Resources.Devices[0].Allow {
		t.Error("a privileged container lacks rights")
	}
	if m := mountAt(s, "/dev/shm"); m == nil || m.Source != "/dev/shm" {
		t.Errorf("/dev/shm: %+v", m)
	}
	if m := mountAt(s, "/sys"); m == nil || slices.Contains(m.Options, "ro") {
		t.Errorf("/sys: %+v", m)
	}
}

func TestSpecCommand(t *testing.T) {
	for _, x := range []struct{ command, args, want []string }{
		{nil, nil, []string{"/entry", "cmd"}},
		{nil, []string{"x"}, []string{"/entry", "x"}},
		{[]string{"c"}, nil, []string{"c"}},
		{[]string{"c"}, []string{"x"}, []string{"c", "x"}},
	} {
		s := build(t, func(_ *SandboxSpec, c *ContainerSpec, _ *ImageConfig) { c.Command, c.Args = x.command, x.args })
		if !cmp.Equal(s.Process.Args, x.want) {
			t.Errorf("command %q args %q: %q", x.command, x.args, s.Process.Args)
		}
	}
	_, err := builder(t, func(_ *SandboxSpec, _ *ContainerSpec, i *ImageConfig) { *i = ImageConfig{} }).build(t.Context())
	if !errdefs.IsInvalidArgument(err) {
		t.Errorf("nothing to run: %v", err)
	}
}

func TestSpecCapabilities(t *testing.T) {
	for _, x := range []struct {
		name      string
		sec       Security
		has, not_ string
		ambient   int
		bad       bool
	}{
		{name: "add", sec: Security{AddCapabilities: []string{"net_admin"}}, has: "CAP_NET_ADMIN"},
		{name: "drop", sec: Security{DropCapabilities: []string{"CAP_CHOWN"}}, not_: "CAP_CHOWN"},
		{name: "drop all, add one", sec: Security{DropCapabilities: []string{"ALL"}, AddCapabilities: []string{"KILL"}}, has: "CAP_KILL", not_: "CAP_CHOWN"},
		{name: "add all, drop one", sec: Security{AddCapabilities: []string{"all"}}, has: "CAP_SYS_ADMIN"},
		{name: "ambient", sec: Security{AmbientCapabilities: []string{"NET_ADMIN"}}, has: "CAP_NET_ADMIN", ambient: 1},
		{name: "unknown", sec: Security{AddCapabilities: []string{"FLY"}}, bad: true},
		{name: "ambient all", sec: Security{AmbientCapabilities: []string{"ALL"}}, bad: true},
	} {
		s, err := builder(t, func(_ *SandboxSpec, c *ContainerSpec, _ *ImageConfig) { c.Security = x.sec }).build(t.Context())
		if x.bad {
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("%s: %v", x.name, err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		set := s.Process.Capabilities
		if x.has != "" && !slices.Contains(set.Bounding, x.has) || slices.Contains(set.Bounding, x.not_) || len(set.Ambient) != x.ambient {
			t.Errorf("%s: %+v", x.name, set)
		}
	}
}

func TestSpecMounts(t *testing.T) {
	dir := t.TempDir()
	os.Mkdir(filepath.Join(dir, "real"), 0o755)
	os.Symlink("real", filepath.Join(dir, "link"))
	s := build(t, func(_ *SandboxSpec, c *ContainerSpec, _ *ImageConfig) {
		c.Mounts = []Mount{
			{ContainerPath: "/a/b/c", HostPath: dir, ReadOnly: true, RecursiveReadOnly: true},
			{ContainerPath: "/a", HostPath: dir + "/link", Propagation: PropagationHostToContainer},
			{ContainerPath: "/etc/hosts", HostPath: dir + "/real", ReadOnly: true},
			{ContainerPath: "/new", HostPath: dir + "/made/here"},
		}
	})
	var order []string
	for _, m := range s.Mounts {
		if strings.HasPrefix(m.Destination, "/a") {
			order = append(order, m.Destination+" "+strings.TrimPrefix(m.Source, dir)+" "+strings.Join(m.Options, ","))
		}
	}
	want := []string{"/a /real rbind,rslave,rw", "/a/b/c  rbind,rprivate,rro"}
	if !cmp.Equal(order, want) {
		t.Errorf("mounts %q", order)
	}
	if m := mountAt(s, "/etc/hosts"); m == nil || m.Source != dir+"/real" {
		t.Errorf("/etc/hosts: %+v", m)
	}
	if _, err := os.Stat(dir + "/made/here"); err != nil {
		t.Error(err)
	}
}

func TestChecks(t *testing.T) {
	r, _ := fake(t)
	for name, change := range map[string]func(*SandboxSpec){
		"empty name":       func(s *SandboxSpec) { s.Name = "" },
		"name with slash":  func(s *SandboxSpec) { s.Name = "../x" },
		"uid with slash":   func(s *SandboxSpec) { s.UID = "a/../../b" },
		"newline":          func(s *SandboxSpec) { s.Namespace = "a\nb" },
		"hostname":         func(s *SandboxSpec) { s.Hostname = strings.Repeat("h", 65) },
		"hostname newline": func(s *SandboxSpec) { s.Hostname = "a\nb" },
		"log dir":          func(s *SandboxSpec) { s.LogDir = "logs" },
		"cgroup root":      func(s *SandboxSpec) { s.CgroupParent = "/" },
		"cgroup ..":        func(s *SandboxSpec) { s.CgroupParent = "/berth/../system.slice" },
		"cgroup relative":  func(s *SandboxSpec) { s.CgroupParent = "x" },
		"handler":          func(s *SandboxSpec) { s.Handler = "nope" },
		"sysctl of host":   func(s *SandboxSpec) { s.Sysctls = map[string]string{"kernel.panic": "1"} },
		"sysctl newline":   func(s *SandboxSpec) { s.Sysctls = map[string]string{"kernel.shm_rmid_forced": "1\n2"} },
		"sysctl two":       func(s *SandboxSpec) { s.Sysctls = map[string]string{"net.x+kernel.core_pattern\n": "1"} },
		"sysctl dots":      func(s *SandboxSpec) { s.Sysctls = map[string]string{"net/../kernel/core_pattern": "1"} },
		"host's net sysctl": func(s *SandboxSpec) {
			s.Namespaces.Network = NamespaceNode
			s.Sysctls = map[string]string{"net.ipv4.ip_forward": "1"}
		},
	} {
		s := pod("a")
		change(&s)
		if err := r.checkSandbox(s); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, change := range map[string]func(*ContainerSpec){
		"name":         func(s *ContainerSpec) { s.Name = "a/b" },
		"no image":     func(s *ContainerSpec) { s.Image = "" },
		"log ..":       func(s *ContainerSpec) { s.LogPath = "../../etc/passwd" },
		"log absolute": func(s *ContainerSpec) { s.LogPath = "/etc/passwd" },
		"signal":       func(s *ContainerSpec) { s.StopSignal = "SIGFOO" },
		"env key":      func(s *ContainerSpec) { s.Env = []EnvVar{{Key: "A=B"}} },
		"env NUL":      func(s *ContainerSpec) { s.Env = []EnvVar{{Key: "A", Value: []byte("a\x00b")}} },
		"mount ..":     func(s *ContainerSpec) { s.Mounts = []Mount{{ContainerPath: "/a/../..", HostPath: "/"}} },
		"mount root":   func(s *ContainerSpec) { s.Mounts = []Mount{{ContainerPath: "//", HostPath: "/tmp"}} },
		"mount rel":    func(s *ContainerSpec) { s.Mounts = []Mount{{ContainerPath: "/a", HostPath: "tmp"}} },
		"mount rro": func(s *ContainerSpec) {
			s.Mounts = []Mount{{ContainerPath: "/a", HostPath: "/t", RecursiveReadOnly: true}}
		},
		"device": func(s *ContainerSpec) { s.Devices = []Device{{ContainerPath: "x", HostPath: "/dev/null"}} },
		"device mode": func(s *ContainerSpec) {
			s.Devices = []Device{{ContainerPath: "/x", HostPath: "/dev/null", Permissions: "rx"}}
		},
	} {
		s := web()
		change(&s)
		if err := checkContainer(s); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestResolveUser(t *testing.T) {
	files := map[string]string{
		"/etc/passwd": "# comment\nroot:x:0:0:root:/root:/bin/sh\nweb:x:33:44:w:/srv:/bin/sh\nbig:x:4294967296:1::/:\nbroken\n",
		"/etc/group":  "root:x:0:\nlogs:x:55:web,other\nmail:x:8:web\n",
	}
	read := func(p string) ([]byte, error) {
		if s, ok := files[p]; ok {
			return []byte(s), nil
		}
		return nil, fs.ErrNotExist
	}
	n := func(i int64) *int64 { return &i }
	for _, x := range []struct {
		name  string
		sec   Security
		image string
		want  identity
		bad   bool
	}{
		{name: "nothing", want: identity{0, 0, []uint32{0}, "/root"}},
		{name: "image name", image: "web", want: identity{33, 44, []uint32{44, 55, 8}, "/srv"}},
		{name: "image number with account", image: "33", want: identity{33, 44, []uint32{44, 55, 8}, "/srv"}},
		{name: "image number without", image: "1234", want: identity{1234, 0, []uint32{0}, "/"}},
		{name: "image name:group", image: "web:logs", want: identity{33, 55, []uint32{55, 8}, "/srv"}},
		{name: "pod's user drops image's group", sec: Security{RunAsUser: n(7)}, image: "web:logs", want: identity{7, 0, []uint32{0}, "/"}},
		{name: "pod's user and group", sec: Security{RunAsUser: n(33), RunAsGroup: n(9)}, want: identity{33, 9, []uint32{9, 55, 8}, "/srv"}},
		{name: "strict", sec: Security{RunAsUsername: "web", StrictGroups: true, SupplementalGroups: []int64{3}}, want: identity{33, 44, []uint32{44, 3}, "/srv"}},
		{name: "unknown name", image: "ghost", bad: true},
		{name: "unknown group", image: "web:ghost", bad: true},
		{name: "overflow to root", image: "4294967296", bad: true},
		{name: "overflow by pod", sec: Security{RunAsUser: n(math.MaxUint32 + 1)}, bad: true},
		{name: "negative", sec: Security{RunAsUser: n(-1)}, bad: true},
		{name: "group overflow", sec: Security{RunAsUser: n(1), RunAsGroup: n(1 << 32)}, bad: true},
		{name: "supplemental overflow", sec: Security{SupplementalGroups: []int64{1 << 32}}, bad: true},
	} {
		got, err := resolveUser(x.sec, x.image, read)
		if x.bad {
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("%s: %+v, %v", x.name, got, err)
			}
		} else if err != nil || !cmp.Equal(got, x.want, cmp.AllowUnexported(identity{})) {
			t.Errorf("%s: %+v, %v; want %+v", x.name, got, err, x.want)
		}
	}
	tooBig := errors.New("too big")
	if _, err := resolveUser(Security{}, "", func(string) ([]byte, error) { return nil, tooBig }); !errors.Is(err, tooBig) {
		t.Errorf("unreadable passwd: %v", err)
	}
}

func FuzzResolveUser(f *testing.F) {
	f.Add("web:logs", "web:x:33:44::/srv:", "logs:x:55:web")
	f.Add("4294967295", ":::::::", "\n:")
	f.Fuzz(func(t *testing.T, user, passwd, group string) {
		id, err := resolveUser(Security{}, user, func(p string) ([]byte, error) {
			if p == "/etc/passwd" {
				return []byte(passwd), nil
			}
			return []byte(group), nil
		})
		if err == nil && (id.uid > math.MaxInt32 || id.gid > math.MaxInt32 || !slices.Contains(id.groups, id.gid)) {
			t.Errorf("%+v", id)
		}
	})
}

func TestSignals(t *testing.T) {
	for s, want := range map[string]int{"SIGTERM": 15, "term": 15, "9": 9, "SIGRTMIN": 34, "SIGRTMIN+3": 37, "RTMAX-1": 63, "SIGRTMAX": 64} {
		if got, err := parseSignal(s); err != nil || int(got) != want {
			t.Errorf("%s: %d, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "SIG", "0", "-1", "65", "RTMIN-1", "RTMIN+31", "RTMAX+1", "FOO"} {
		if got, err := parseSignal(s); err == nil {
			t.Errorf("%q: %d", s, got)
		}
	}
}

func TestResolvConf(t *testing.T) {
	b, err := (&DNS{Servers: []string{"1.1.1.1"}, Searches: []string{"a.b", "c"}, Options: []string{"ndots:5"}}).resolvConf("")
	if want := "search a.b c\nnameserver 1.1.1.1\noptions ndots:5\n"; err != nil || string(b) != want {
		t.Errorf("%q %v", b, err)
	}
	if b, err := (*DNS)(nil).resolvConf("/does/not/exist"); err != nil || b != nil {
		t.Errorf("%q %v", b, err)
	}
}
