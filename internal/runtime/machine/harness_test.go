package machine_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
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
