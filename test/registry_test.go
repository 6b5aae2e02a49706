package test

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// warehouse is a registry on loopback. Spoil, if set, changes a blob's bytes on their way out.
type warehouse struct {
	t     *testing.T
	host  string
	spoil atomic.Pointer[string]    // a digest
	guard atomic.Pointer[[2]string] // user and password that it wants, if any
}

// lock makes the registry ask for a user and a password; empty ones let everybody in again.
func (w *warehouse) lock(user, password string) {
	if user == "" {
		w.guard.Store(nil)
		return
	}
	w.guard.Store(&[2]string{user, password})
}

// admits answers 401 where credentials are wanted and others came.
func (w *warehouse) admits(rw http.ResponseWriter, r *http.Request) bool {
	want := w.guard.Load()
	if user, password, _ := r.BasicAuth(); want == nil || *want == [2]string{user, password} {
		return true
	}
	rw.Header().Set("WWW-Authenticate", `Basic realm="warehouse"`)
	http.Error(rw, `{"errors":[{"code":"UNAUTHORIZED","message":"who are you?"}]}`, http.StatusUnauthorized)
	return false
}

func newWarehouse(t *testing.T) *warehouse {
	t.Helper()
	w := &warehouse{t: t}
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if !w.admits(rw, r) {
			return
		}
		if d := w.spoil.Load(); d != nil && r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, *d) {
			rec := httptest.NewRecorder()
			inner.ServeHTTP(rec, r)
			body := rec.Body.Bytes()
			if len(body) > 0 {
				body[len(body)/2] ^= 0x40
			}
			for k, v := range rec.Header() {
				rw.Header()[k] = v
			}
			rw.WriteHeader(rec.Code)
			rw.Write(body)
			return
		}
		inner.ServeHTTP(rw, r)
	}))
	t.Cleanup(srv.Close)
	w.host = strings.TrimPrefix(srv.URL, "http://")
	return w
}

// push puts an image into the registry and returns its full name.
func (w *warehouse) push(repo string, img v1.Image) string {
	w.t.Helper()
	full := w.host + "/" + repo
	ref, err := name.ParseReference(full, name.Insecure)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		w.t.Fatal(err)
	}
	return full
}

// entry is one entry of a layer.
type entry struct {
	tar.Header
	body []byte
}

// imageOf makes an image for a platform from one layer.
func imageOf(t *testing.T, arch string, entries ...entry) v1.Image {
	t.Helper()
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, e := range entries {
		e.Size = int64(len(e.body))
		if err := tw.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write(e.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(buf.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture = "linux", arch
	cfg.Config.Cmd = []string{"sh"}
	cfg.Config.Env = []string{"PATH=/bin"}
	if img, err = mutate.ConfigFile(img, cfg); err != nil {
		t.Fatal(err)
	}
	return img
}

// thisArch is the architecture as images name it.
func thisArch(t *testing.T) string {
	t.Helper()
	f, err := elf.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if f.Machine == elf.EM_AARCH64 {
		return "arm64"
	}
	return "amd64"
}

// busybox is an image of Debian's busybox-static.
func busybox(t *testing.T) v1.Image {
	t.Helper()
	var bin []byte
	for _, p := range []string{"/bin/busybox", "/usr/bin/busybox"} {
		if b, err := os.ReadFile(p); err == nil {
			bin = b
			break
		}
	}
	if bin == nil {
		t.Skip("needs busybox: apt-get install busybox-static")
	}
	f, err := elf.NewFile(bytes.NewReader(bin))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			t.Skip("needs a static busybox: apt-get install busybox-static")
		}
	}
	entries := []entry{
		{Header: tar.Header{Typeflag: tar.TypeDir, Name: "bin/", Mode: 0o755}},
		{Header: tar.Header{Typeflag: tar.TypeReg, Name: "bin/busybox", Mode: 0o755}, body: bin},
		{Header: tar.Header{Typeflag: tar.TypeDir, Name: "etc/", Mode: 0o755}},
		{Header: tar.Header{Typeflag: tar.TypeReg, Name: "etc/passwd", Mode: 0o644}, body: []byte("root:x:0:0:root:/:/bin/sh\n")},
	}
	for _, applet := range []string{"sh", "cat", "echo", "httpd", "sleep", "stty", "wget", "ls", "kill", "seq"} {
		entries = append(entries, entry{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + applet, Linkname: "busybox", Mode: 0o777}})
	}
	return imageOf(t, thisArch(t), entries...)
}

// The README's second example: an image that comes from a registry.
func TestRegistryExample(t *testing.T) {
	m := newMachine(t)
	ref := newWarehouse(t).push("library/busybox:1.36", busybox(t))
	port := strconv.Itoa(freePort(t))
	file := m.file("registry.yaml", example(t, "registry.yaml", "docker.io/library/busybox:1.36", ref, "8081", port))
	r := m.must("run", file, "--check", "http://127.0.0.1:"+port+"/")
	if !strings.Contains(r.stdout, "Hello from busybox") || !strings.Contains(r.stderr, "pulling "+ref) {
		t.Errorf("stdout:\n%s\nstderr:\n%s", r.stdout, r.stderr)
	}
	if out := m.must("images").stdout; !strings.Contains(out, ref) {
		t.Errorf("berth images:\n%s", out)
	}
	m.must("image", "rm", ref)
	if out := m.must("image", "ls", "-o", "json").stdout; strings.Contains(out, ref) {
		t.Errorf("removed, and still listed:\n%s", out)
	}
}

// An image from an archive, pulled and inspected by the image verbs.
func TestImageVerbs(t *testing.T) {
	m := newMachine(t)
	img := busybox(t)
	tag, err := name.NewTag("example.com/busybox:1")
	if err != nil {
		t.Fatal(err)
	}
	archive := filepath.Join(m.dir, "busybox.tar")
	if err := tarball.WriteToFile(archive, tag, img); err != nil {
		t.Fatal(err)
	}
	if out := m.must("image", "import", archive).stdout; !strings.Contains(out, "example.com/busybox:1") {
		t.Errorf("berth image import: %s", out)
	}
	ref := newWarehouse(t).push("busybox:2", img)
	m.must("image", "pull", ref)
	if out := m.must("image", "inspect", ref).stdout; !strings.Contains(out, "example.com/busybox:1") {
		t.Errorf("one image, two names, and inspect shows only: %s", out)
	}
	r := m.must("run", m.file("imported.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: imported}\nspec:\n  restartPolicy: Never\n  containers:\n  - {name: app, image: \"example.com/busybox:1\", command: [echo, it runs]}\n"))
	if !strings.Contains(r.stdout, "app | it runs") {
		t.Errorf("standard output:\n%s", r.stdout)
	}
	m.must("image", "rm", "example.com/busybox:1")
	if r := m.berth("image", "inspect", ref); r.code == 0 {
		t.Error("an image was removed by one name and is still there by the other")
	}
}

// exec -it: a real terminal, its size, its exit code.
func TestExecWithATerminal(t *testing.T) {
	m := newMachine(t)
	ref := newWarehouse(t).push("busybox:1", busybox(t))
	m.must("run", "-d", m.file("shell.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: shell}\nspec:\n  terminationGracePeriodSeconds: 0\n  containers:\n  - {name: app, image: \""+ref+"\", command: [sleep, \"3600\"]}\n"))

	if r := m.beginReading(strings.NewReader("through and through\n"), "exec", "-i", "shell", "--", "cat").wait(); r.stdout != "through and through\n" || r.code != 0 {
		t.Errorf("exec -i cat: exit code %d, %q, %s", r.code, r.stdout, r.stderr)
	}

	c := m.prepare("exec", "-it", "shell", "--", "sh")
	tty, err := pty.StartWithSize(c, &pty.Winsize{Rows: 33, Cols: 99})
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close()
	screen := &growing{}
	done := make(chan struct{})
	go func() { io.Copy(screen, tty); close(done) }()
	defer c.Process.Kill()
	type step struct{ send, want string }
	for _, s := range []step{{"stty size\n", "33 99"}, {"echo $((6*7))\n", "42"}} {
		tty.WriteString(s.send)
		m.eventually("the terminal shows "+s.want, func() bool { return strings.Contains(screen.String(), s.want) })
	}
	pty.Setsize(tty, &pty.Winsize{Rows: 20, Cols: 70})
	m.eventually("the new size arrives", func() bool {
		tty.WriteString("stty size\n")
		time.Sleep(50 * time.Millisecond)
		return strings.Contains(screen.String(), "20 70")
	})
	tty.WriteString("exit 17\n")
	c.Wait()
	if got := c.ProcessState.ExitCode(); got != 17 {
		t.Errorf("exit code %d, want 17\n%s", got, screen)
	}
	<-done
	m.must("rm", "shell")
}

// Images that must not run, each with a sentence.
func TestBadImages(t *testing.T) {
	m := newMachine(t)
	w := newWarehouse(t)
	hello := entry{Header: tar.Header{Typeflag: tar.TypeReg, Name: "hello", Mode: 0o755}, body: bytes.Repeat([]byte("hello "), 1000)}
	manifest := func(ref string) string {
		return m.file("image.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec:\n  restartPolicy: Never\n  containers:\n  - {name: app, image: \""+ref+"\", command: [/hello]}\n")
	}
	t.Run("does not exist", func(t *testing.T) {
		refused(t, m, manifest(w.host+"/nobody/knows:1"), "has no nobody/knows:1", "check the name")
	})
	t.Run("registry does not exist", func(t *testing.T) {
		refused(t, m, manifest("127.0.0.1:"+strconv.Itoa(freePort(t))+"/x:1"), "127.0.0.1")
	})
	t.Run("other architecture", func(t *testing.T) {
		refused(t, m, manifest(w.push("other:1", imageOf(t, "s390x", hello))), "s390x", thisArch(t))
	})
	t.Run("lies about its digest", func(t *testing.T) {
		img := imageOf(t, thisArch(t), hello)
		ref := w.push("liar:1", img)
		layers, err := img.Layers()
		if err != nil {
			t.Fatal(err)
		}
		d, err := layers[0].Digest()
		if err != nil {
			t.Fatal(err)
		}
		s := d.String()
		w.spoil.Store(&s)
		defer w.spoil.Store(nil)
		refused(t, m, manifest(ref), "another blob than sha256:")
	})
	t.Run("layer with ../", func(t *testing.T) {
		canary := filepath.Join(filepath.Dir(m.dir), "berth-canary")
		evil := entry{Header: tar.Header{Typeflag: tar.TypeReg, Name: "../../../../../../../.." + canary, Mode: 0o644}, body: []byte("HOST PATH WAS CHANGED")}
		r := m.berth("run", manifest(w.push("evil:1", imageOf(t, thisArch(t), evil, hello))))
		if said := sentenceOf(t, r); r.code == 0 || !strings.Contains(said, "..") {
			t.Errorf("exit code %d: %s", r.code, said)
		}
		if _, err := os.Lstat(canary); err == nil {
			os.Remove(canary)
			t.Fatal("HOST PATH WAS CHANGED")
		}
	})
	t.Run("program that is not there", func(t *testing.T) {
		refused(t, m, m.file("gone.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec:\n  restartPolicy: Never\n  containers:\n  - {name: app, image: \""+w.push("good:1", imageOf(t, thisArch(t), hello))+"\", command: [/not-there]}\n"), "/not-there")
	})
}
