package test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// refused runs a manifest that can't work: a clear sentence that has all of want, an exit code that
// is not zero, and (when the machine is dismantled) nothing left behind.
func refused(t *testing.T, m *machine, file string, want ...string) {
	t.Helper()
	r := m.berth("run", file)
	if r.code == 0 {
		t.Errorf("exit code 0\n%s%s", r.stdout, r.stderr)
	}
	said := sentenceOf(t, r)
	for _, w := range want {
		if !strings.Contains(strings.ToLower(said), strings.ToLower(w)) {
			t.Errorf("no %q in %q", w, said)
		}
	}
}

// sentenceOf is the error that a verb ended with: what begins with berth's name last, a sentence for each
// thing that is wrong, with no trace of a program in it.
func sentenceOf(t *testing.T, r result) string {
	t.Helper()
	said := r.stderr[max(0, strings.LastIndex("\n"+r.stderr, "\nberth: ")):]
	if !strings.HasPrefix(said, "berth: ") {
		t.Errorf("standard error does not end with a sentence of berth's:\n%s", r.stderr)
	}
	for _, alien := range []string{"goroutine ", "panic:", "rpc error", "(0x", "%!"} {
		if strings.Contains(r.stderr, alien) {
			t.Errorf("%q is nothing for a user:\n%s", alien, r.stderr)
		}
	}
	return said
}

// A manifest that can't be right is refused by name, before anything is made of it.
func TestBadManifests(t *testing.T) {
	m := newMachine(t)
	app := container("app", "demo", "show")
	for _, tt := range []struct {
		name, body string
		want       []string
	}{
		{"unknown field", pod("x", "restartPolice: Never", app), []string{"restartPolice"}},
		{"unknown field of a container", pod("x", "", with(app, "imagePullPolicies: Always")), []string{"imagePullPolicies"}},
		{"field that berth does not do", pod("x", "schedulerName: other\nshareProcessNamespace: true", app), []string{"shareProcessNamespace"}},
		{"impossible value", pod("x", "restartPolicy: Sometimes", app), []string{"restartPolicy", "Sometimes"}},
		{"impossible port", pod("x", "", with(app, "ports: [{containerPort: 70000}]")), []string{"containerPort", "70000"}},
		{"impossible quantity", pod("x", "", with(app, "resources: {limits: {memory: much}}")), []string{"memory"}},
		{"wrong type", pod("x", "terminationGracePeriodSeconds: soon", app), []string{"terminationGracePeriodSeconds"}},
		{"two containers of one name", pod("x", "", app, app), []string{"app"}},
		{"no containers", "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {containers: []}\n", []string{"containers"}},
		{"bad name", pod("Not_A_Name", "", app), []string{"Not_A_Name"}},
		{"other kind", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\n", []string{"Deployment"}},
		{"volume that is not there", pod("x", "", with(app, "volumeMounts: [{name: gone, mountPath: /x}]")), []string{"gone"}},
		{"ConfigMap that is not there", pod("x", "", with(app, "env: [{name: A, valueFrom: {configMapKeyRef: {name: gone, key: a}}}]")), []string{"gone"}},
		{"image without a name", pod("x", "", "  - {name: app, image: \"\"}\n"), []string{"image"}},
		{"image with an impossible name", pod("x", "", "  - {name: app, image: \"UPPER/case:x y\"}\n"), []string{"UPPER/case"}},
		{"no YAML", "kind: Pod\n\tname: {", []string{"yaml"}},
		{"nothing", "\n", []string{"empty"}},
		{"no pod", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata: {a: b}\n", []string{"no pod"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			refused(t, m, m.file("bad.yaml", tt.body), tt.want...)
		})
	}
	t.Run("file that is not there", func(t *testing.T) {
		refused(t, m, filepath.Join(m.dir, "nowhere.yaml"), "nowhere.yaml", "no such file")
	})
	t.Run("file that is no file", func(t *testing.T) { refused(t, m, m.dir, "directory") })
}

// A port that somebody listens on, and a port that another pod has.
func TestPortInUse(t *testing.T) {
	m := newMachine(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := fmt.Sprint(l.Addr().(*net.TCPAddr).Port)
	refused(t, m, m.file("hello.yaml", example(t, "hello.yaml", "8080", port)), port, "in use")

	file, _ := hello(t, m)
	m.must("run", "-d", file)
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	refused(t, m, m.file("second.yaml", strings.Replace(string(b), "name: hello", "name: second", 1)), "host port", "choose another hostPort")
	m.must("rm", "hello")
}

// A disk that is full before the image is in the store.
func TestFullDisk(t *testing.T) {
	m := newMachine(t)
	if err := os.Mkdir(m.root, 0o700); err != nil {
		t.Fatal(err)
	}
	run(t, "mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", m.root)
	defer func() { run(t, "umount", m.root) }()
	refused(t, m, m.file("full.yaml", pod("full", "restartPolicy: Never", container("app", "demo", "show"))), m.root, "full")
}

// Not root: refused first of all, with what to do.
func TestNotRoot(t *testing.T) {
	m := newMachine(t)
	for _, bin := range []string{"berth", "containerd-shim-berth-v1"} {
		b, err := os.ReadFile(binary(bin))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(m.dir, bin), b, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	file := m.file("pod.yaml", pod("x", "", container("app", "demo", "show")))
	for _, args := range [][]string{{"run", file}, {"ps"}, {"node"}, {"image", "ls"}} {
		cmd := exec.Command(filepath.Join(m.dir, "berth"), args...)
		cmd.Dir = m.dir
		cmd.Env = append(os.Environ(), "BERTH_ROOT="+m.root, "BERTH_RUN="+m.run)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		out, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), "must be root") || !strings.Contains(string(out), "sudo") {
			t.Errorf("berth %s as nobody: %v\n%s", args[0], err, out)
		}
	}
	cmd := exec.Command(filepath.Join(m.dir, "berth"), "version")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("berth version as nobody: %v\n%s", err, out)
	}
	for _, bin := range []string{"berth", "containerd-shim-berth-v1", "pod.yaml"} {
		os.Remove(filepath.Join(m.dir, bin))
	}
}

// A kernel without overlayfs: the container gets a copy of its image. The image store's
// check is made to fail, for the kernel here has it.
func TestKernelWithoutOverlayfs(t *testing.T) {
	m := newMachine(t)
	m.env = []string{"BERTH_FAILPOINT=image/overlay=error"}
	m.must("run", m.file("pod.yaml", pod("x", "restartPolicy: Never", container("app", "demo", "show"))))
}

// Two nodes in one run directory: the second one is told.
func TestSecondNodeOnOneRunDirectory(t *testing.T) {
	m := newMachine(t)
	first := m.node()
	r := m.berth("node")
	if said := sentenceOf(t, r); r.code == 0 || !strings.Contains(said, "another node") || !strings.Contains(said, m.run) {
		t.Errorf("exit code %d: %s", r.code, said)
	}
	first.signal(syscall.SIGTERM)
	if r := first.wait(); r.code != 0 {
		t.Errorf("the first node ended with %d:\n%s", r.code, r.stderr)
	}
}

// Words that berth does not know: exit code 2 and where help is.
func TestBadFlags(t *testing.T) {
	m := newMachine(t)
	for _, args := range [][]string{{"run"}, {"run", "--nonsense", "x"}, {"ps", "-o", "xml"}, {"rm"}, {"logs"}, {"exec", "hello"}, {"nonsense"}} {
		r := m.berth(args...)
		if r.code == 0 || !strings.HasPrefix(r.stderr, "berth: ") {
			t.Errorf("berth %s: exit code %d: %s", strings.Join(args, " "), r.code, r.stderr)
		}
	}
}
