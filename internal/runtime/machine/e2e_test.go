package machine_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/11f9778f/berth/internal/engine/systemd"
	"github.com/11f9778f/berth/internal/image"
	"github.com/11f9778f/berth/internal/network"
	"github.com/11f9778f/berth/internal/runtime"
	"github.com/11f9778f/berth/internal/runtime/machine"
	"github.com/11f9778f/berth/internal/runtime/nri"
	"github.com/11f9778f/berth/internal/shim/client"
)

const busybox = "/usr/bin/busybox"

// place is where a daemon lives: its folders and its names on the machine.
type place struct {
	Dir, Name, Shim string
	GroupSize       int
	NRI             string // socket of plugins; empty is none
	Spare           bool
	Foreign         string // another shim, of the handler "other"
	Options         map[string]any
	Systemd         bool // makes cgroups
}

func (p place) root() string { return filepath.Join(p.Dir, "root") }
func (p place) run() string  { return filepath.Join(p.Dir, "run") }
func (p place) logs() string { return filepath.Join(p.Dir, "logs") }

func (p place) cgroup() string {
	if p.Systemd {
		return "/berthtest" + p.Name + ".slice"
	}
	return "/berth-test-" + p.Name
}

func (p place) kernel() machine.Kernel {
	if p.Systemd {
		return machine.Kernel{Units: &systemd.Lazy{}}
	}
	return machine.Kernel{}
}

// daemon is everything below the CRI, on the real machine.
type daemon struct {
	images *image.Store
	net    *network.Manager
	shims  *client.Manager
	rt     *runtime.Runtime
	nri    *nri.Plugins
}

func openDaemon(ctx context.Context, p place, log *slog.Logger) (_ *daemon, err error) {
	d := &daemon{}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	if err := os.MkdirAll(p.run(), 0o700); err != nil {
		return d, err
	}
	if d.images, err = image.Open(image.Config{Root: p.root()}); err != nil {
		return d, err
	}
	d.net, err = network.Open(network.Config{RunDir: p.run(), Bridge: "bt" + p.Name, Table: "bt" + p.Name, LinkPrefix: "b" + p.Name[:4], Logger: log})
	if err != nil {
		return d, err
	}
	handlers, rows := map[string]client.Handler{"": {Binary: p.Shim}}, map[string]runtime.Handler{}
	if p.Foreign != "" {
		if p.Systemd {
			p.Options = client.WithSystemdCgroup(p.Foreign, p.Options)
		}
		options, err := client.NewOptions(p.Foreign, p.Options)
		if err != nil {
			return d, err
		}
		handlers["other"] = client.Handler{Binary: p.Foreign, Foreign: true, Options: options}
		rows["other"] = runtime.Handler{Foreign: true, SystemdCgroup: p.Systemd, PodAnnotations: []string{"dev.example/*"}}
	}
	d.shims, err = client.Open(ctx, client.Config{
		RunDir: p.run(), Handlers: handlers, GroupSize: p.GroupSize, Spare: p.Spare, Logger: log,
	})
	if err != nil {
		return d, err
	}
	var plugins runtime.Plugins
	if p.NRI != "" {
		if d.nri, err = nri.New(nri.Config{Socket: p.NRI, Version: "test", Logger: log}); err != nil {
			return d, err
		}
		plugins = d.nri
	}
	d.rt, err = runtime.Open(ctx, runtime.Config{
		RunDir: p.run(), CgroupParent: p.cgroup(), Logger: log, Plugins: plugins, Handlers: rows,
		Images: machine.Images(d.images), Network: machine.Network(d.net), Shims: machine.Shims(d.shims), Kernel: p.kernel(), SystemdCgroup: p.Systemd,
	})
	return d, err
}

func (d *daemon) close() {
	if d.nri != nil {
		d.nri.Close()
	}
	if d.rt != nil {
		d.rt.Close()
	}
	if d.shims != nil {
		d.shims.Close()
	}
	if d.net != nil {
		d.net.Close()
	}
	if d.images != nil {
		d.images.Close()
	}
}

// testImage is a root filesystem of one static busybox.
func testImage() (v1.Image, error) {
	bin, err := os.ReadFile(busybox)
	if err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	add := func(h *tar.Header, b []byte) {
		h.Size = int64(len(b))
		w.WriteHeader(h)
		w.Write(b)
	}
	for _, d := range []string{"bin/", "etc/", "tmp/", "proc/", "sys/", "dev/"} {
		add(&tar.Header{Name: d, Typeflag: tar.TypeDir, Mode: 0o755}, nil)
	}
	add(&tar.Header{Name: "bin/busybox", Mode: 0o755}, bin)
	for _, n := range []string{"sh", "sleep", "cat", "echo", "true", "id", "ip", "hostname", "trap", "kill", "ps", "dd", "wget", "nc", "httpd"} {
		add(&tar.Header{Name: "bin/" + n, Typeflag: tar.TypeSymlink, Linkname: "busybox"}, nil)
	}
	add(&tar.Header{Name: "etc/passwd", Mode: 0o644}, []byte("root:x:0:0:root:/root:/bin/sh\nweb:x:33:44::/tmp:/bin/sh\n"))
	add(&tar.Header{Name: "etc/group", Mode: 0o644}, []byte("root:x:0:\nlogs:x:55:web\n"))
	w.Close()
	raw := buf.Bytes()
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(raw)), nil })
	if err != nil {
		return nil, err
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return nil, err
	}
	return mutate.ConfigFile(img, &v1.ConfigFile{
		OS: "linux", Architecture: "amd64", RootFS: must(img.ConfigFile()).RootFS,
		Config: v1.Config{Cmd: []string{"/bin/sleep", "1000"}, Env: []string{"FROM=image"}},
	})
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

var shimBinary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "berth-shim-test-")
	if err != nil {
		return "", err
	}
	bin := filepath.Join(dir, "containerd-shim-berth-v1")
	out, err := exec.Command("go", "build", "-o", bin, "github.com/11f9778f/berth/cmd/containerd-shim-berth-v1").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build shim: %w: %s", err, out)
	}
	return bin, nil
})

// newPlace makes a place with the test image in its store, and checks at the end that nothing is left.
func newPlace(t testing.TB) place {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: it makes namespaces, cgroups and mounts")
	}
	if _, err := os.Stat(busybox); err != nil {
		t.Skip("needs Debian's busybox-static: ", err)
	}
	shim, err := shimBinary()
	if err != nil {
		t.Fatal(err)
	}
	var b [4]byte
	rand.Read(b[:])
	p := place{Dir: t.TempDir(), Name: hex.EncodeToString(b[:]), Shim: shim}
	d, err := openDaemon(context.Background(), p, logger(t))
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	img, err := testImage()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.images.Put(context.Background(), "test.local/busybox:1", img); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.checkClean(t) })
	return p
}

func logger(t testing.TB) *slog.Logger {
	if !testing.Verbose() {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, nil)).With("test", t.Name())
}

// checkClean looks for what a daemon may have left, by its own means, not by Berth's; then it removes it.
func (p place) checkClean(t testing.TB) {
	t.Helper()
	if b, err := os.ReadFile("/proc/self/mountinfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if strings.Contains(line, p.Dir) {
				t.Errorf("left mount: %s", line)
				if f := strings.Fields(line); len(f) > 4 {
					syscall.Unmount(f[4], syscall.MNT_DETACH)
				}
			}
		}
	}
	links, _ := net.Interfaces()
	for _, l := range links {
		if strings.HasPrefix(l.Name, "b"+p.Name[:4]) || l.Name == "bt"+p.Name {
			t.Errorf("left link: %s", l.Name)
			exec.Command("ip", "link", "del", l.Name).Run()
		}
	}
	for _, pid := range p.processes() {
		cmd, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		t.Errorf("left process %d: %q", pid, cmd)
		syscall.Kill(pid, syscall.SIGKILL)
	}
	if left, err := (machine.Kernel{}).Cgroups(context.Background(), p.cgroup()); err != nil || len(left) > 0 {
		t.Errorf("left cgroups: %v, %v", left, err)
	}
	if err := (machine.Kernel{}).RemoveCgroup(context.Background(), p.cgroup()); err != nil {
		t.Errorf("remove cgroup of the test: %v", err)
	}
	for _, d := range []string{"run/bundles", "run/netns", "run/runtime/journal", "run/runtime/sandboxes", "run/runtime/containers", "run/runtime/pods", "run/shims", "root/snapshots"} {
		entries, _ := os.ReadDir(filepath.Join(p.Dir, d))
		for _, e := range entries {
			if e.Name() == ".trash" { // the image room's, for what it deletes in the background
				continue
			}
			t.Errorf("left on disk: %s/%s", d, e.Name())
		}
	}
}

// processes finds those that have the place in their command line: its shims.
func (p place) processes() []int {
	var out []int
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		b, _ := os.ReadFile(d + "/cmdline")
		env, _ := os.ReadFile(d + "/cwd/address")
		pid, _ := strconv.Atoi(filepath.Base(d))
		if pid != os.Getpid() && (bytes.Contains(b, []byte(p.Dir)) || bytes.Contains(env, []byte(p.Dir))) {
			out = append(out, pid)
		}
	}
	return out
}

func (p place) open(t testing.TB) *daemon {
	t.Helper()
	d, err := openDaemon(context.Background(), p, logger(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.close)
	return d
}

func (p place) pod(name string, host bool) runtime.SandboxSpec {
	s := runtime.SandboxSpec{
		Name: name, UID: "uid-" + name, Namespace: "default", Hostname: name, LogDir: filepath.Join(p.logs(), name),
		Namespaces: runtime.Namespaces{PID: runtime.NamespaceContainer}, DNS: &runtime.DNS{Servers: []string{"192.0.2.1"}},
	}
	if host {
		s.Namespaces.Network = runtime.NamespaceNode
	}
	return s
}

func shell(name, script string) runtime.ContainerSpec {
	return runtime.ContainerSpec{Name: name, Image: "test.local/busybox:1", Command: []string{"/bin/sh", "-c", script}, LogPath: name + "/0.log"}
}

// start makes a running container.
func (d *daemon) start(ctx context.Context, sb string, c runtime.ContainerSpec) (string, error) {
	if st, err := d.rt.Sandbox(sb); err == nil && c.LogPath != "" { // a kubelet's duty
		if err := os.MkdirAll(filepath.Dir(filepath.Join(st.Spec.LogDir, c.LogPath)), 0o700); err != nil {
			return "", err
		}
	}
	id, err := d.rt.CreateContainer(ctx, sb, c)
	if err != nil {
		return "", err
	}
	return id, d.rt.StartContainer(ctx, id)
}

func (d *daemon) exec(t *testing.T, id, script string) string {
	t.Helper()
	r, err := d.rt.ExecSync(context.Background(), id, []string{"/bin/sh", "-c", script}, 20*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if r.ExitCode != 0 {
		t.Errorf("%s: exit code %d: %s", script, r.ExitCode, r.Stderr)
	}
	return strings.TrimSpace(string(r.Stdout))
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 4800 {
		if ok() {
			return
		}
		time.Sleep(25 * time.Millisecond)
	}
	t.Fatalf("never happened: %s", what)
}

func TestPods(t *testing.T) {
	for _, host := range []bool{true, false} {
		t.Run(map[bool]string{true: "host network", false: "bridge"}[host], func(t *testing.T) {
			p := newPlace(t)
			d := p.open(t)
			ctx := context.Background()
			spec := p.pod("web", host)
			sb, err := d.rt.RunSandbox(ctx, spec)
			if err != nil {
				t.Fatal(err)
			}
			c, err := d.start(ctx, sb, shell("main", "trap 'echo bye; exit 3' TERM; echo hello; while :; do sleep 0.1; done"))
			if err != nil {
				t.Fatal(err)
			}
			d.checkInside(t, p, sb, c, host)
			log := filepath.Join(spec.LogDir, "main/0.log")
			eventually(t, "the log has a line", func() bool { b, _ := os.ReadFile(log); return strings.Contains(string(b), " stdout F hello\n") })
			if st, err := d.rt.ContainerStats(ctx, c); err != nil || st.Cgroup.MemoryUsage == 0 {
				t.Errorf("stats %+v, %v", st, err)
			}
			if err := d.rt.StopContainer(ctx, c, 10*time.Second); err != nil {
				t.Fatal(err)
			}
			if st, _ := d.rt.Container(c); st.State != runtime.ContainerExited || st.ExitCode != 3 {
				t.Errorf("after the stop: %+v", st)
			}
			if b, _ := os.ReadFile(log); !strings.Contains(string(b), " stdout F bye\n") {
				t.Errorf("log: %s", b)
			}
			if err := d.rt.RemoveSandbox(ctx, sb); err != nil {
				t.Fatal(err)
			}
			d.checkEmpty(t)
		})
	}
}

// checkInside asks the container what it sees.
func (d *daemon) checkInside(t *testing.T, p place, sb, c string, host bool) {
	t.Helper()
	if got := d.exec(t, c, "echo $FROM; cat /proc/1/comm; id -u"); got != "image\nsh\n0" {
		t.Errorf("inside: %q", got)
	}
	if got := d.exec(t, c, "cat /etc/resolv.conf"); got != "nameserver 192.0.2.1" {
		t.Errorf("resolv.conf: %q", got)
	}
	st, err := d.rt.Sandbox(sb)
	if err != nil {
		t.Fatal(err)
	}
	addrs := d.exec(t, c, "ip addr")
	if host {
		if mine, _ := os.Hostname(); d.exec(t, c, "hostname") != mine {
			t.Error("a host-network pod has another host name")
		}
		return
	}
	if len(st.IPs) == 0 || !strings.Contains(addrs, st.IPs[0].String()) {
		t.Errorf("addresses %v: %s", st.IPs, addrs)
	}
	if got := d.exec(t, c, "hostname"); got != "web" {
		t.Errorf("hostname %q", got)
	}
}

// checkEmpty: nothing is owned, pending or orphaned any more.
func (d *daemon) checkEmpty(t *testing.T) {
	t.Helper()
	rep, err := d.rt.Fsck(context.Background(), false)
	if err != nil {
		t.Fatal(err)
	}
	if !rep.Clean() || len(rep.Owned)+len(rep.Pending) > 0 {
		b, _ := json.MarshalIndent(rep, "", " ")
		t.Errorf("fsck: %s", b)
	}
}

func TestStartErrors(t *testing.T) {
	p := newPlace(t)
	d := p.open(t)
	ctx := context.Background()
	sb, err := d.rt.RunSandbox(ctx, p.pod("bad", true))
	if err != nil {
		t.Fatal(err)
	}
	id, err := d.start(ctx, sb, runtime.ContainerSpec{Name: "none", Image: "test.local/busybox:1", Command: []string{"/no/such/program"}})
	if err == nil || !strings.Contains(err.Error(), "/no/such/program") {
		t.Errorf("error %v", err)
	}
	if st, _ := d.rt.Container(id); st.State != runtime.ContainerExited || st.Reason != "StartError" {
		t.Errorf("%+v", st)
	}
	if _, err := d.rt.CreateContainer(ctx, sb, runtime.ContainerSpec{Name: "x", Image: "test.local/ghost:1"}); err == nil {
		t.Error("a container of an image that is not there")
	}
	if err := d.rt.RemoveSandbox(ctx, sb); err != nil {
		t.Fatal(err)
	}
	d.checkEmpty(t)
}

// The daemon ends and comes back: containers have not noticed, and what ended meanwhile is known.
func TestRestart(t *testing.T) {
	p := newPlace(t)
	d, err := openDaemon(context.Background(), p, logger(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	sb, err := d.rt.RunSandbox(ctx, p.pod("keep", false))
	if err != nil {
		t.Fatal(err)
	}
	lives, err := d.start(ctx, sb, shell("lives", "sleep 1000"))
	if err != nil {
		t.Fatal(err)
	}
	ends, err := d.start(ctx, sb, shell("ends", "sleep 0.7; exit 9"))
	if err != nil {
		t.Fatal(err)
	}
	before, _ := d.rt.Container(lives)
	d.close()
	time.Sleep(time.Second)
	d = p.open(t)
	after, err := d.rt.Container(lives)
	if err != nil || after.State != runtime.ContainerRunning || after.Pid != before.Pid {
		t.Errorf("%+v, %v", after, err)
	}
	if got := d.exec(t, lives, "echo here"); got != "here" {
		t.Errorf("exec: %q", got)
	}
	eventually(t, "the end is known", func() bool {
		st, _ := d.rt.Container(ends)
		return st.State == runtime.ContainerExited && st.ExitCode == 9
	})
	if err := d.rt.RemoveSandbox(ctx, sb); err != nil {
		t.Fatal(err)
	}
	d.checkEmpty(t)
}

// A stopped shim keeps nobody from killing; the pod's processes are dead when StopContainer returns.
func TestStoppedShim(t *testing.T) {
	p := newPlace(t)
	d := p.open(t)
	ctx := context.Background()
	sb, err := d.rt.RunSandbox(ctx, p.pod("hung", false))
	if err != nil {
		t.Fatal(err)
	}
	c, err := d.start(ctx, sb, shell("main", "sleep 1000"))
	if err != nil {
		t.Fatal(err)
	}
	st, _ := d.rt.Container(c)
	pid := d.shims.Inventory().Groups[0].Pid
	syscall.Kill(pid, syscall.SIGSTOP)
	if err := d.rt.RemoveSandbox(ctx, sb); err != nil {
		t.Error(err)
	}
	if (machine.Kernel{}).Alive(st.Pid, st.CgroupPath) {
		t.Error("the container's process lives")
	}
	if l := d.rt.Sandboxes(); len(l) > 0 {
		t.Errorf("still listed: %v", l)
	}
	syscall.Kill(pid, syscall.SIGCONT)
	eventually(t, "the shim is told and ends", func() bool {
		rep, err := d.rt.Fsck(ctx, false)
		return err == nil && len(rep.Owned)+len(rep.Pending)+len(rep.Orphans) == 0
	})
}

const childEnv = "BERTH_MACHINE_TEST_DAEMON"

func TestMain(m *testing.M) {
	if s := os.Getenv(childEnv); s != "" {
		if err := daemonLife(s); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	code := m.Run()
	if bin, err := shimBinary(); err == nil && os.Getuid() == 0 {
		os.RemoveAll(filepath.Dir(bin))
	}
	os.Exit(code)
}

// daemonLife is what the daemon does that the test kills.
func daemonLife(arg string) error {
	var p place
	if err := json.Unmarshal([]byte(arg), &p); err != nil {
		return err
	}
	ctx := context.Background()
	d, err := openDaemon(ctx, p, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer d.close()
	sb, err := d.rt.RunSandbox(ctx, p.pod("new", false))
	if err != nil {
		return err
	}
	c, err := d.start(ctx, sb, shell("main", "sleep 1000"))
	if err != nil {
		return err
	}
	return errors.Join(d.rt.StopContainer(ctx, c, 100*time.Millisecond), d.rt.RemoveContainer(ctx, c),
		d.rt.StopSandbox(ctx, sb), d.rt.RemoveSandbox(ctx, sb))
}

func (p place) life(t *testing.T, failpoint string) error {
	t.Helper()
	arg, _ := json.Marshal(p)
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), childEnv+"="+string(arg), "BERTH_FAILPOINT="+failpoint)
	cmd.Stderr = os.Stderr
	return cmd.Run()
}

// Kill -9 before and after every effect, on the real machine.
func TestKilledAtEveryEffect(t *testing.T) {
	if testing.Short() {
		t.Skip("some 60 lives of a daemon")
	}
	p := newPlace(t)
	list := filepath.Join(t.TempDir(), "names")
	if err := p.life(t, "trace:"+list); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(list)
	if err != nil {
		t.Fatal(err)
	}
	d, err := openDaemon(context.Background(), p, logger(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	old, err := d.rt.RunSandbox(ctx, p.pod("old", false))
	if err != nil {
		t.Fatal(err)
	}
	oldC, err := d.start(ctx, old, shell("main", "sleep 1000"))
	if err != nil {
		t.Fatal(err)
	}
	before, _ := d.rt.Container(oldC)
	d.close()
	n := 0
	for _, name := range strings.Fields(string(b)) {
		if !strings.HasPrefix(name, "runtime/") {
			continue
		}
		n++
		t.Run(name, func(t *testing.T) {
			p.killedAt(t, name, oldC, before.Pid)
		})
	}
	if n < 40 {
		t.Errorf("only %d places were reached", n)
	}
	d = p.open(t)
	for _, s := range d.rt.Sandboxes() {
		if err := d.rt.RemoveSandbox(ctx, s.ID); err != nil {
			t.Error(err)
		}
	}
	d.checkEmpty(t)
}

func (p place) killedAt(t *testing.T, name, oldC string, pid int) {
	err := p.life(t, name+"=kill")
	ee, ok := err.(*exec.ExitError)
	if !ok || ee.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the daemon ended with %v", err)
	}
	ctx := context.Background()
	d, err := openDaemon(ctx, p, logger(t))
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	if st, err := d.rt.Container(oldC); err != nil || st.State != runtime.ContainerRunning || st.Pid != pid || !(machine.Kernel{}).Alive(pid, st.CgroupPath) {
		t.Errorf("the old pod's container: %+v, %v", st, err)
	}
	eventually(t, "nothing is without an owner", func() bool {
		rep, err := d.rt.Fsck(ctx, false)
		return err == nil && rep.Clean() && len(rep.Pending) == 0
	})
	for _, s := range d.rt.Sandboxes() {
		if s.Spec.Name != "new" {
			continue
		}
		if err := d.rt.RemoveSandbox(ctx, s.ID); err != nil {
			t.Error(err)
		}
	}
	rep, err := d.rt.Fsck(ctx, false)
	if err != nil || !rep.Clean() || len(rep.Pending) > 0 || len(rep.Owned) != 2 {
		b, _ := json.MarshalIndent(rep, "", " ")
		t.Errorf("after removal: %s %v", b, err)
	}
}

// A shim dies: its containers run on, a successor answers for them, and their ends are known.
func TestKilledShim(t *testing.T) {
	p := newPlace(t)
	d := p.open(t)
	ctx := context.Background()
	sb, err := d.rt.RunSandbox(ctx, p.pod("keep", false))
	if err != nil {
		t.Fatal(err)
	}
	lives, err := d.start(ctx, sb, shell("lives", "i=0; while :; do echo $i; i=$((i+1)); sleep 0.05; done"))
	if err != nil {
		t.Fatal(err)
	}
	ends, err := d.start(ctx, sb, shell("ends", "sleep 0.3; exit 9"))
	if err != nil {
		t.Fatal(err)
	}
	before, _ := d.rt.Container(lives)
	syscall.Kill(d.shims.Inventory().Groups[0].Pid, syscall.SIGKILL)
	eventually(t, "the end is known", func() bool {
		st, _ := d.rt.Container(ends)
		return st.State == runtime.ContainerExited && st.ExitCode == 9
	})
	if got := d.exec(t, lives, "echo here"); got != "here" {
		t.Errorf("exec: %q", got)
	}
	if st, _ := d.rt.Container(lives); st.State != runtime.ContainerRunning || st.Pid != before.Pid {
		t.Errorf("%+v", st)
	}
	more, err := d.start(ctx, sb, shell("more", "sleep 1000"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []string{lives, more} {
		if err := d.rt.StopContainer(ctx, c, 0); err != nil {
			t.Error(err)
		}
		if st, _ := d.rt.Container(c); st.ExitCode != 137 {
			t.Errorf("%+v", st)
		}
	}
	b, _ := os.ReadFile(before.LogPath)
	for i, l := range strings.Split(strings.TrimSpace(string(b)), "\n") {
		if !strings.HasSuffix(l, "stdout F "+strconv.Itoa(i)) {
			t.Fatalf("line %d of the log is %q", i, l)
		}
	}
	if err := d.rt.RemoveSandbox(ctx, sb); err != nil {
		t.Fatal(err)
	}
	d.checkEmpty(t)
}

// Many pods come and go at once, over several shims.
func TestManyAtOnce(t *testing.T) {
	p := newPlace(t)
	p.GroupSize = 8
	d := p.open(t)
	ctx := context.Background()
	var wg sync.WaitGroup
	for i := range 24 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			sb, err := d.rt.RunSandbox(ctx, p.pod(fmt.Sprint("p", i), i%2 == 0))
			if err != nil {
				t.Error(err)
				return
			}
			for _, name := range []string{"a", "b"} {
				if _, err := d.start(ctx, sb, shell(name, "sleep 1000")); err != nil {
					t.Error(err)
				}
			}
			if i%3 == 0 {
				err = d.rt.StopSandbox(ctx, sb)
			}
			if err := errors.Join(err, d.rt.RemoveSandbox(ctx, sb)); err != nil {
				t.Error(err)
			}
		}()
	}
	wg.Wait()
	d.checkEmpty(t)
}
