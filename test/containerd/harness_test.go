package containerd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// patience bounds every command and every wait. It is no verdict on speed.
const patience = 60 * time.Second

// daemon is a containerd of the tests' own. They share it, but for those that kill it.
type daemon struct {
	dir, bin string // dir is short, for the sake of sockets
	cmd      *exec.Cmd
	log      *os.File
}

// applets are what the containers run; `ls` is also a program that is a link.
var applets = []string{"sh", "sleep", "echo", "cat", "ls", "ps", "stty", "tty", "true", "seq", "kill", "env", "dd", "head", "yes", "mkdir", "wc", "trap"}

func repository() string {
	dir, err := os.Getwd()
	if err != nil {
		panic(err)
	}
	return filepath.Dir(filepath.Dir(dir))
}

// newDaemon starts a containerd, or skips.
func newDaemon(t *testing.T) *daemon {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	bin := filepath.Join(repository(), ".cache/containerd/bin")
	for _, file := range []string{filepath.Join(bin, "containerd"), filepath.Join(bin, "ctr"), filepath.Join(repository(), "bin/containerd-shim-berth-v1"), "/bin/busybox"} {
		if _, err := os.Stat(file); err != nil {
			t.Skipf("needs %v (make build containerd busybox)", err)
		}
	}
	dir, err := os.MkdirTemp("/tmp", "ctrd-")
	if err != nil {
		t.Fatal(err)
	}
	d := &daemon{dir: dir, bin: bin}
	if err := errors.Join(d.prepare(), d.start()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.end(t) })
	return d
}

// prepare writes the configuration and a root filesystem.
func (d *daemon) prepare() error {
	config := fmt.Sprintf(`version = 3
root = "%[1]s/root"
state = "%[1]s/state"
disabled_plugins = ["io.containerd.cri.v1.runtime", "io.containerd.cri.v1.images", "io.containerd.grpc.v1.cri", "io.containerd.nri.v1.nri"]
[grpc]
  address = "%[1]s/c.sock"
[ttrpc]
  address = "%[1]s/c.sock.ttrpc"
`, d.dir)
	rootfs := filepath.Join(d.dir, "rootfs")
	for _, sub := range []string{"bin", "proc", "sys", "dev", "tmp", "etc"} {
		if err := os.MkdirAll(filepath.Join(rootfs, sub), 0o755); err != nil {
			return err
		}
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(rootfs, "bin/busybox"), busybox, 0o755); err != nil {
		return err
	}
	for _, a := range applets {
		if err := os.Symlink("busybox", filepath.Join(rootfs, "bin", a)); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(d.dir, "config.toml"), []byte(config), 0o600)
}

func (d *daemon) env() []string {
	return append(os.Environ(), "PATH="+filepath.Join(repository(), "bin")+":"+d.bin+":"+os.Getenv("PATH"),
		"BERTH_SHIM_STATE="+filepath.Join(d.dir, "s"), "CONTAINERD_ADDRESS="+d.socket(), "CONTAINERD_SUPPRESS_DEPRECATION_WARNINGS=true",
		"XDG_RUNTIME_DIR="+d.dir) // where it unpacks checkpoints, and leaves them
}

func (d *daemon) socket() string { return filepath.Join(d.dir, "c.sock") }

// start starts containerd and waits for its answer.
func (d *daemon) start() (err error) {
	if d.log, err = os.OpenFile(filepath.Join(d.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
		return err
	}
	d.cmd = exec.Command(filepath.Join(d.bin, "containerd"), "-c", filepath.Join(d.dir, "config.toml"), "-l", "debug")
	d.cmd.Env, d.cmd.Stdout, d.cmd.Stderr = d.env(), d.log, d.log
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := d.cmd.Start(); err != nil {
		return err
	}
	deadline := time.Now().Add(patience)
	for {
		_, err := d.ctr("version")
		if err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// kill ends containerd as the kernel would.
func (d *daemon) kill() {
	d.cmd.Process.Kill()
	d.cmd.Wait()
	d.log.Close()
}

// end stops containerd and removes its folder.
func (d *daemon) end(t *testing.T) {
	d.cmd.Process.Signal(syscall.SIGTERM)
	d.cmd.Wait()
	d.log.Close()
	if t.Failed() {
		b, _ := os.ReadFile(d.log.Name())
		t.Logf("containerd's log:\n%s", b[max(0, len(b)-8000):])
	}
	if left, _ := filepath.Glob(filepath.Join(d.dir, "s", "*")); len(left) > 0 {
		t.Errorf("shims left %v", left)
	}
	if err := os.RemoveAll(d.dir); err != nil {
		t.Error(err)
	}
}

// ctr runs ctr. Its standard error is in the error if it fails.
func (d *daemon) ctr(args ...string) (string, error) { return d.ctrIn("", args...) }

func (d *daemon) ctrIn(stdin string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(d.bin, "ctr"), args...)
	cmd.Env = d.env()
	cmd.WaitDelay = time.Second
	var out, err bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &err
	if rerr := cmd.Run(); rerr != nil {
		return out.String(), &failure{rerr, err.String(), cmd.ProcessState.ExitCode()}
	}
	return out.String(), nil
}

// failure is ctr's.
type failure struct {
	err    error
	stderr string
	code   int
}

func (f *failure) Error() string { return fmt.Sprintf("%v: %s", f.err, f.stderr) }

// space is a containerd namespace of one test.
type space struct {
	*daemon
	t  *testing.T
	ns string
}

// space makes a namespace, and at the test's end proves that nothing of it is left.
func (d *daemon) space(t *testing.T) *space {
	t.Helper()
	s := &space{daemon: d, t: t, ns: filepath.Base(d.dir) + "-" + strings.ToLower(t.Name()[strings.LastIndexByte(t.Name(), '/')+1:])}
	t.Cleanup(s.close)
	return s
}

func (s *space) ctr(args ...string) (string, error) {
	s.t.Helper()
	return s.daemon.ctr(append([]string{"-n", s.ns}, args...)...)
}

// must runs ctr and fails the test if ctr does.
func (s *space) must(args ...string) string {
	s.t.Helper()
	out, err := s.ctr(args...)
	if err != nil {
		s.t.Fatalf("ctr %s: %v", strings.Join(args, " "), err)
	}
	return out
}

// fails runs ctr, which must end with the code.
func (s *space) fails(code int, args ...string) (stdout, stderr string) {
	s.t.Helper()
	out, err := s.ctr(args...)
	var f *failure
	if !errors.As(err, &f) || f.code != code {
		s.t.Fatalf("ctr %s: %v (it said %q), want exit code %d", strings.Join(args, " "), err, out, code)
	}
	return out, f.stderr
}

// run are the arguments of `ctr run` for a program in our root filesystem.
func (s *space) run(flags string, id string, program ...string) []string {
	args := append([]string{"run", "--runtime", "io.containerd.berth.v1", "--rootfs"}, strings.Fields(flags)...)
	return append(append(args, filepath.Join(s.dir, "rootfs"), id), program...)
}

// until waits for a condition.
func (s *space) until(what string, ok func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("in vain waited for %s", what)
		}
	}
}

// status is what `ctr tasks ls` says of a task, "" if it knows none.
func (s *space) status(id string) string {
	s.t.Helper()
	for line := range strings.Lines(s.must("tasks", "ls")) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == id {
			return f[2]
		}
	}
	return ""
}

// shims are the processes of shims that keep something of the namespace.
func (s *space) shims() (pids []string) {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		cmdline, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		if bytes.Contains(cmdline, []byte("\x00"+s.ns+"\x00")) && bytes.Contains(cmdline, []byte("shim-berth")) {
			pids = append(pids, filepath.Base(dir))
		}
	}
	return pids
}

// cgroups are those of the namespace's containers.
func (s *space) cgroups() (dirs []string) {
	tops, _ := filepath.Glob("/sys/fs/cgroup/*/" + s.ns)
	for _, top := range append(tops, "/sys/fs/cgroup/"+s.ns) {
		filepath.WalkDir(top, func(path string, e fs.DirEntry, err error) error {
			if err == nil && e.IsDir() && path != top {
				dirs = append(dirs, path)
			}
			return nil
		})
	}
	return dirs
}

// close removes what a failed test left, and tells of what the shim did.
func (s *space) close() {
	ids, _ := s.ctr("containers", "ls", "-q")
	for id := range strings.FieldsSeq(ids) {
		s.ctr("tasks", "kill", "-s", "SIGKILL", "-a", id)
		s.ctr("tasks", "rm", "-f", id)
		s.ctr("containers", "rm", id)
	}
	var left []string
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
		left = append(s.cgroups(), s.mounts()...)
		for _, pid := range s.shims() {
			left = append(left, "shim "+pid)
		}
		if len(left) == 0 || time.Now().After(deadline) {
			break
		}
	}
	if len(left) > 0 {
		s.t.Errorf("left behind:\n  %s", strings.Join(left, "\n  "))
	}
	s.ctr("namespaces", "rm", s.ns)
	tops, _ := filepath.Glob("/sys/fs/cgroup/*/" + s.ns)
	for _, top := range tops {
		os.Remove(top)
	}
}

func (s *space) mounts() (left []string) {
	b, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, " "+s.dir+"/") && strings.Contains(line, s.ns) {
			left = append(left, "mount "+line)
		}
	}
	return left
}
