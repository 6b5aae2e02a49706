package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/11f9778f/berth/internal/engine/cgroup"
	"github.com/11f9778f/berth/internal/engine/seccomp"
)

func TestRunAndExitCode(t *testing.T) {
	out, st := run(t, options(t, "sh", "-c", "echo pid $$; exit 7"))
	if out != "pid 1\n" || st.Code != 7 || st.Unknown {
		t.Errorf("output %q, status %+v", out, st)
	}
	_, st = run(t, options(t, "sh", "-c", "kill -9 $$; sh -c 'kill -9 $$'; exit $?"))
	if st.Code != 137 { // the first process of a pid namespace ignores its own SIGKILL; its child does not
		t.Errorf("status %+v", st)
	}
}

func TestOverlayRootIsSeenByTheContainerAlone(t *testing.T) {
	o := options(t, "sh", "-c", "echo new > /file; cat /file")
	dir := t.TempDir()
	upper, work := filepath.Join(dir, "upper"), filepath.Join(dir, "work")
	os.Mkdir(upper, 0o755)
	os.Mkdir(work, 0o755)
	o.Rootfs = []Mount{{Type: "overlay", Source: "overlay", Options: []string{"lowerdir=" + o.Spec.Root.Path, "upperdir=" + upper, "workdir=" + work}}}
	before := mountTable(t)
	check(t, o, "new")
	if b, err := os.ReadFile(filepath.Join(upper, "file")); err != nil || string(b) != "new\n" {
		t.Errorf("upper layer: %q, %v", b, err)
	}
	if after := mountTable(t); after != before {
		t.Errorf("mounts on the host changed:\n%s", after)
	}
}

// More layers than fit on the page that mount(2) takes its options on.
func TestOverlayOfManyLayers(t *testing.T) {
	o := options(t, "sh", "-c", "cat /lowest; cat /every")
	dir := t.TempDir()
	var layers []string
	for i := range 80 {
		layer := filepath.Join(dir, fmt.Sprintf("a-layer-with-a-name-as-long-as-those-of-a-store-%064d", i))
		if err := os.Mkdir(layer, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(layer, "every"), fmt.Appendf(nil, "%d\n", i), 0o644); err != nil {
			t.Fatal(err)
		}
		layers = append(layers, layer)
	}
	if err := os.WriteFile(filepath.Join(layers[79], "lowest"), []byte("79\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	upper, work := filepath.Join(dir, "upper"), filepath.Join(dir, "work")
	for _, d := range []string{upper, work} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	lower := strings.Join(append(layers, o.Spec.Root.Path), ":")
	if len(lower) < 2*os.Getpagesize() {
		t.Fatalf("%d bytes of options", len(lower))
	}
	o.Rootfs = []Mount{{Type: "overlay", Source: "overlay", Options: []string{"lowerdir=" + lower, "upperdir=" + upper, "workdir=" + work}}}
	check(t, o, "79\n0")
}

func mountTable(t testing.TB) string {
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	var own strings.Builder // others mount things beside us
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, "/"+strings.Split(t.Name(), "/")[0]) {
			own.WriteString(line)
		}
	}
	return own.String()
}

func TestNamespacesAndNames(t *testing.T) {
	o := options(t, "sh", "-c", "hostname; cat /proc/sys/kernel/domainname; ls /proc | grep -c '^[0-9]'; cat /proc/self/cgroup | grep -vc ':/$'")
	o.Spec.Hostname, o.Spec.Domainname = "berthed", "example.test"
	out, _ := run(t, o)
	// three processes at most: sh, ls, grep; every cgroup path is the namespace's root
	if lines := strings.Fields(out); len(lines) != 4 || lines[0] != "berthed" || lines[1] != "example.test" || lines[3] != "0" || len(lines[2]) != 1 {
		t.Errorf("output %q", out)
	}
}

func TestUserCapabilitiesAndSeccomp(t *testing.T) {
	o := options(t, "sh", "-c", "id; grep -E 'Cap(Eff|Bnd)|NoNewPrivs|Seccomp:' /proc/self/status; mount -t tmpfs x /tmp 2>/dev/null || echo no mount")
	o.Spec.Process.User = specs.User{UID: 1000, GID: 1001, AdditionalGids: []uint32{5, 6}}
	o.Spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: []string{"CAP_KILL"}}
	filter, err := seccomp.Default(nil)
	if err != nil {
		t.Fatal(err)
	}
	o.Spec.Linux.Seccomp = filter
	out, _ := run(t, o)
	for _, want := range []string{
		"uid=1000 gid=1001 groups=1001,5,6", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000020",
		"NoNewPrivs:\t1", "Seccomp:\t2", "no mount",
	} {
		if !strings.Contains(out, want) && !strings.Contains(strings.ReplaceAll(out, "groups=5,6", "groups=1001,5,6"), want) {
			t.Errorf("%q is missing in\n%s", want, out)
		}
	}
}

func TestMaskedAndReadonlyPaths(t *testing.T) {
	o := options(t, "sh", "-c", `
		ls /proc/acpi /secret | grep -v : ; cat /file
		(echo x > /proc/sys/kernel/hostname) 2>/dev/null || echo read-only
		touch /ro/x 2>/dev/null || echo ro too`)
	root := o.Spec.Root.Path
	os.MkdirAll(filepath.Join(root, "secret/deep"), 0o755)
	os.Mkdir(filepath.Join(root, "ro"), 0o755)
	os.WriteFile(filepath.Join(root, "file"), []byte("plain"), 0o644)
	o.Spec.Linux.MaskedPaths = append(o.Spec.Linux.MaskedPaths, "/secret", "/file", "/not/there")
	o.Spec.Linux.ReadonlyPaths = append(o.Spec.Linux.ReadonlyPaths, "/ro", "/nor/there")
	out, _ := run(t, o)
	if got := strings.Join(strings.Fields(out), " "); got != "read-only ro too" {
		t.Errorf("output %q", out)
	}
}

func TestMounts(t *testing.T) {
	o := options(t, "sh", "-c", `
		cat /data/in /etc/conf; touch /ro/x 2>/dev/null || echo read-only
		touch /data/nested/deep/y && echo nested; stat -c %a /dev/shm; stat -c '%t %T' /dev/null; ls -l /dev/fd | grep -c proc`)
	dir := t.TempDir()
	os.WriteFile(filepath.Join(dir, "in"), []byte("data\n"), 0o644)
	conf := filepath.Join(t.TempDir(), "conf")
	os.WriteFile(conf, []byte("conf\n"), 0o644)
	o.Spec.Mounts = append(o.Spec.Mounts,
		specs.Mount{Destination: "/data", Type: "bind", Source: dir, Options: []string{"rbind"}},
		specs.Mount{Destination: "/data/nested/deep", Type: "tmpfs", Source: "tmpfs"},
		specs.Mount{Destination: "/etc/conf", Source: conf, Options: []string{"bind", "ro"}},
		specs.Mount{Destination: "/ro", Type: "bind", Source: dir, Options: []string{"rbind", "ro"}},
		specs.Mount{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=64k"}})
	check(t, o, "data\nconf\nread-only\nnested\n1777\n1 3\n1")
}

func TestMountDestinationCannotLeaveTheRoot(t *testing.T) {
	canary := t.TempDir()
	o := options(t, "true")
	if err := os.Symlink(canary, filepath.Join(o.Spec.Root.Path, "out")); err != nil {
		t.Fatal(err)
	}
	os.Remove(filepath.Join(o.Spec.Root.Path, "dev"))
	os.Symlink("../../../../.."+canary, filepath.Join(o.Spec.Root.Path, "dev"))
	o.Spec.Mounts = append(o.Spec.Mounts, specs.Mount{Destination: "/out/x/y", Type: "tmpfs", Source: "tmpfs"})
	if c, err := Create(context.Background(), o); err == nil { // a dangling link may also be refused
		c.Delete(context.Background())
	}
	if left, _ := os.ReadDir(canary); len(left) != 0 {
		t.Errorf("HOST PATH WAS CHANGED: %v", left)
	}
}

func TestWorkingDirectoryThroughADescriptorIsRefused(t *testing.T) {
	for fd := range 20 {
		o := options(t, "pwd")
		o.Spec.Process.Cwd = fmt.Sprintf("/proc/self/fd/%d", fd)
		c, err := Create(context.Background(), o)
		if err == nil {
			err = c.Start(context.Background())
			c.Delete(context.Background())
		}
		if err == nil {
			t.Errorf("cwd %s was entered (CVE-2024-21626)", o.Spec.Process.Cwd)
		}
	}
}

func TestOnlyStdioIsInherited(t *testing.T) {
	o := options(t, "sleep", "1000")
	c := newContainer(t, o)
	if err := c.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	r, w, _ := os.Pipe()
	defer r.Close()
	p := *o.Spec.Process
	p.Args = []string{"ls", "-l", "/proc/1/fd", "/proc/self/fd", "/proc/1/exe"}
	proc, err := c.Exec(context.Background(), ExecOptions{ID: "e", Process: &p, Stdio: Stdio{Out: w}})
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	out, _ := finish(t, proc, r)
	// three each, and the link; what ls itself reads is closed when it looks
	if n := strings.Count(out, " -> "); n != 3+3+1 || !strings.Contains(out, "/bin/busybox") || strings.Contains(out, "memfd") {
		t.Errorf("descriptors of the first process and of an exec'd one:\n%s", out)
	}
}

func TestProgramNotFound(t *testing.T) {
	for _, tc := range []struct{ program, want string }{
		{"nonsense", `exec: "nonsense": executable file not found in $PATH`},
		{"/bin/nonsense", `exec: "/bin/nonsense": no such file`},
		{"/etc", `exec: "/etc": permission denied`},
	} {
		o := options(t, tc.program)
		c := newContainer(t, o)
		if err := c.Start(context.Background()); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", tc.program, err)
		}
	}
}

func TestExec(t *testing.T) {
	o := options(t, "sleep", "1000")
	c := newContainer(t, o)
	if err := c.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	r, w, _ := os.Pipe()
	defer r.Close()
	p := *o.Spec.Process
	p.Args = []string{"sh", "-c", "ps | grep -c sleep; echo $X; pwd; cat /proc/self/cgroup | grep -vc ':/$'; exit 3"}
	p.Env = append(p.Env, "X=y")
	p.Cwd = "/etc"
	proc, err := c.Exec(context.Background(), ExecOptions{ID: "e", Process: &p, Stdio: Stdio{Out: w, Err: w}})
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	out, st := finish(t, proc, r)
	if strings.Fields(out)[1] != "y" || !strings.HasSuffix(out, "/etc\n0\n") || st.Code != 3 {
		t.Errorf("output %q, status %+v", out, st)
	}
	bad := p
	bad.Args = []string{"nonsense"}
	if _, err := c.Exec(context.Background(), ExecOptions{ID: "e", Process: &bad}); err == nil || !strings.Contains(err.Error(), "not found in $PATH") {
		t.Errorf("exec of nonsense: %v", err)
	}
	c.Kill(context.Background())
	if _, err := c.Init().Wait(context.Background()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Exec(context.Background(), ExecOptions{ID: "e", Process: &p}); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("exec after the end: %v", err)
	}
}

func TestTerminal(t *testing.T) {
	o := options(t, "sh", "-c", "tty; stty size; echo on console > /dev/console; read x; echo got $x")
	o.Spec.Process.Terminal = true
	o.Spec.Process.ConsoleSize = &specs.Box{Height: 31, Width: 97}
	c := newContainer(t, o)
	if err := c.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	console := c.Init().Console()
	fmt.Fprintln(console, "input")
	var out bytes.Buffer
	buf := make([]byte, 4096)
	for {
		n, err := console.Read(buf)
		out.Write(buf[:n])
		if err != nil {
			break
		}
	}
	for _, want := range []string{"/dev/pts/0", "31 97", "on console", "got input"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing in %q", want, out.String())
		}
	}
}

func TestPauseKillAndStats(t *testing.T) {
	o := options(t, "sh", "-c", "trap '' TERM; sleep 1000 & sleep 1000")
	limit := int64(64 << 20)
	o.Spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit}
	c := newContainer(t, o)
	ctx := context.Background()
	if err := c.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := c.Pause(ctx); err != nil || !c.State().Paused {
		t.Fatal(err)
	}
	if err := c.Resume(ctx); err != nil {
		t.Fatal(err)
	}
	st, err := c.Stats()
	if err != nil || st.Memory.Limit != uint64(limit) || st.Memory.Usage == 0 || st.Pids.Current == 0 {
		t.Errorf("stats %+v, %v", st, err)
	}
	c.Init().Signal(syscall.SIGTERM) // ignored
	if err := c.Kill(ctx); err != nil {
		t.Fatal(err)
	}
	if st, err := c.Init().Wait(ctx); err != nil || st.Code != 137 || st.Signal != 9 {
		t.Errorf("status %+v, %v", st, err)
	}
	if pids, err := c.Pids(); err != nil || len(pids) != 0 {
		t.Errorf("pids %v, %v", pids, err)
	}
}

func TestAdopt(t *testing.T) {
	o := options(t, "sh", "-c", "while test ! -e /tmp/go; do sleep 1; done; exit 5")
	c := newContainer(t, o)
	if err := c.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	a, err := Adopt(context.Background(), c.State(), o.Spec, AdoptOptions{})
	if err != nil {
		t.Fatal(err)
	}
	p := *o.Spec.Process
	p.Args = []string{"touch", "/tmp/go"}
	if _, err := a.Exec(context.Background(), ExecOptions{ID: "e", Process: &p}); err != nil { // nobody waits for it
		t.Fatal(err)
	}
	// Somebody else reaps it, as the host's init does for a shim that died.
	if st, err := c.Init().Wait(context.Background()); err != nil || st.Code != 5 {
		t.Fatalf("status %+v, %v", st, err)
	}
	st, err := a.Init().Wait(context.Background())
	if err != nil || (st.Code != 5 && !st.Unknown) {
		t.Errorf("adopted: status %+v, %v", st, err)
	}
}

func TestSysctl(t *testing.T) {
	o := options(t, "sh", "-c", "cat /proc/sys/kernel/shmmni")
	o.Spec.Linux.Sysctl = map[string]string{"kernel.shmmni": "4095"}
	check(t, o, "4095")
	for _, key := range []string{"kernel.core_pattern", "vm.swappiness", "net.ipv4.ip_forward"} { // the host's
		bad := options(t, "true")
		bad.Spec.Linux.Sysctl = map[string]string{key: "1"}
		if _, err := Create(context.Background(), bad); err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("%s: %v", key, err)
		}
	}
}

func TestFailedCreateLeavesNothing(t *testing.T) {
	o := options(t, "true")
	o.Spec.Mounts = append(o.Spec.Mounts, specs.Mount{Destination: "/x", Type: "nonsensefs"})
	_, err := Create(context.Background(), o)
	if err == nil || !strings.Contains(err.Error(), "nonsensefs") {
		t.Errorf("got %v", err)
	}
	g, err := cgroup.Load(o.Spec.Linux.CgroupsPath)
	if err != nil || g.Exists() {
		t.Errorf("cgroup %s is left (%v)", g.Path(), err)
	}
}

func TestPinNamespaces(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	o := PinOptions{Dir: dir, IPC: true, UTS: true, Hostname: "pod"}
	for range 2 { // the second time it is all there
		if err := PinNamespaces(context.Background(), o); err != nil {
			t.Fatal(err)
		}
	}
	defer UnpinNamespaces(dir)
	c := options(t, "hostname")
	for n, ns := range c.Spec.Linux.Namespaces {
		if ns.Type == specs.IPCNamespace || ns.Type == specs.UTSNamespace {
			c.Spec.Linux.Namespaces[n].Path = filepath.Join(dir, string(ns.Type))
		}
	}
	check(t, c, "pod")
	if err := errors.Join(UnpinNamespaces(dir), UnpinNamespaces(dir)); err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 || strings.Contains(mountTable(t), dir) {
		t.Errorf("left: %v", left)
	}
}

func BenchmarkCreateStartDelete(b *testing.B) {
	o := options(b, "true")
	filter, err := seccomp.Default(nil)
	if err != nil {
		b.Log(err)
	}
	o.Spec.Linux.Seccomp = filter
	for b.Loop() {
		c, err := Create(context.Background(), o)
		if err != nil {
			b.Fatal(err)
		}
		if err := c.Start(context.Background()); err != nil {
			b.Fatal(err)
		}
		c.Init().Wait(context.Background())
		if err := c.Delete(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
}
