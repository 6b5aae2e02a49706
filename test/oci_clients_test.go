package test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// clients are programs of Debian's that call an OCI runtime. They are fetched and not installed: no service
// of theirs is ever started by the system.
type clients struct {
	t        *testing.T
	bin, dir string
	env      []string
	runtime  string
}

func needClients(t *testing.T) *clients {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: it runs containers")
	}
	if _, err := os.Stat("/usr/bin/busybox"); err != nil {
		t.Skip("needs Debian's busybox-static: " + err.Error())
	}
	runtime, err := filepath.Abs("../bin/berth-oci")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(runtime); err != nil {
		t.Skip("needs bin/berth-oci, which make builds")
	}
	debian, err := filepath.Abs("../.cache/oci/debian")
	if err != nil {
		t.Fatal(err)
	}
	fetchDebian(t, debian, "docker.io", "containerd", "runc")
	// Short, for sockets; no TempDir, whose name is long.
	dir, err := os.MkdirTemp("", "oci")
	if err != nil {
		t.Fatal(err)
	}
	c := &clients{t: t, dir: dir, runtime: runtime, bin: debian}
	c.env = append(os.Environ(), "PATH="+debian+"/usr/bin:"+debian+"/usr/sbin:"+os.Getenv("PATH"), "HOME="+dir, "DOCKER_CONFIG="+dir)
	t.Cleanup(c.nothingLeft)
	return c
}

// fetchDebian downloads packages and unpacks them into dir, unless they are there.
func fetchDebian(t *testing.T, dir string, packages ...string) {
	t.Helper()
	if _, err := os.Stat(filepath.Join(dir, "complete")); err == nil {
		return
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	run := func(name string, args ...string) error {
		cmd := exec.Command(name, args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
		}
		return nil
	}
	download := append([]string{"download", "-q"}, packages...)
	if err := run("apt-get", download...); err != nil {
		run("apt-get", "update", "-q")
		if err := run("apt-get", download...); err != nil {
			t.Skipf("needs Debian's %s: %v", strings.Join(packages, ", "), err)
		}
	}
	debs, _ := filepath.Glob(filepath.Join(dir, "*.deb"))
	for _, deb := range debs {
		if err := run("dpkg", "-x", deb, dir); err != nil {
			t.Fatal(err)
		}
		os.Remove(deb)
	}
	if err := os.WriteFile(filepath.Join(dir, "complete"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
}

// daemon starts one and ends it by its number at the end of the test, before the check that nothing is left.
func (c *clients) daemon(name string, args ...string) {
	c.t.Helper()
	log, err := os.Create(filepath.Join(c.dir, name+".log"))
	if err != nil {
		c.t.Fatal(err)
	}
	cmd := exec.Command("/bin/sh", append([]string{"-c", `exec "$0" "$@"`, name}, args...)...) // found in our PATH
	cmd.Env, cmd.Stdout, cmd.Stderr = c.env, log, log
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		timer := time.AfterFunc(20*time.Second, func() { cmd.Process.Kill() })
		cmd.Wait()
		timer.Stop()
		if c.t.Failed() {
			b, _ := os.ReadFile(log.Name())
			c.t.Logf("%s said:\n%s", name, b[max(0, len(b)-4000):])
		}
	})
}

// ask runs a client's command and returns its output and exit code.
func (c *clients) ask(args ...string) (string, int) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/bin/sh", append([]string{"-c", `exec "$0" "$@"`}, args...)...)
	cmd.Env = c.env
	cmd.WaitDelay = time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if ctx.Err() != nil {
		c.t.Fatalf("%s hangs: %s", strings.Join(args, " "), out.String())
	}
	if cmd.ProcessState == nil {
		c.t.Fatal(err)
	}
	return out.String(), cmd.ProcessState.ExitCode()
}

// terminal runs a client's command on a terminal.
func (c *clients) terminal(args ...string) (string, int) {
	c.t.Helper()
	return c.ask("script", "-qec", strings.Join(args, " "), "/dev/null")
}

func (c *clients) want(what string, out string, code int, wantOut string, wantCode int) {
	c.t.Helper()
	if code != wantCode || !strings.Contains(out, wantOut) {
		c.t.Errorf("%s: exit code %d, output %q; want %d and %q", what, code, out, wantCode, wantOut)
	}
}

func (c *clients) eventually(what string, ok func() bool) {
	c.t.Helper()
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if ok() {
			return
		}
	}
	c.t.Fatal("timed out: " + what)
}

// nothingLeft fails for mounts and processes below the test's directory, and removes it.
func (c *clients) nothingLeft() {
	for _, m := range lines("/proc/self/mountinfo") {
		f := strings.Fields(m)
		if len(f) > 4 && strings.HasPrefix(f[4], c.dir+"/") {
			// dockerd keeps its network namespace's file mounted when it ends: its own, not the runtime's.
			if !strings.HasSuffix(f[4], "/netns/default") {
				c.t.Errorf("left mounted: %s", m)
			}
			syscall.Unmount(f[4], syscall.MNT_DETACH)
		}
	}
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range procs {
		if b, _ := os.ReadFile(p); bytes.Contains(b, []byte(c.dir+"/")) {
			c.t.Errorf("left running: %s: %s", p, bytes.ReplaceAll(b, []byte{0}, []byte{' '}))
		}
	}
	os.RemoveAll(c.dir)
}

func lines(path string) []string {
	b, _ := os.ReadFile(path)
	return strings.Split(strings.TrimSpace(string(b)), "\n")
}

// rootfs makes a root filesystem of busybox.
func (c *clients) rootfs() string {
	c.t.Helper()
	dir := filepath.Join(c.dir, "rootfs")
	for _, d := range []string{"bin", "etc", "tmp", "proc", "sys", "dev"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			c.t.Fatal(err)
		}
	}
	b, err := os.ReadFile("/usr/bin/busybox")
	if err != nil {
		c.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "bin/busybox"), b, 0o755); err != nil {
		c.t.Fatal(err)
	}
	for _, a := range []string{"sh", "cat", "id", "sleep", "tty", "touch", "ps", "hostname", "true"} {
		if err := os.Symlink("busybox", filepath.Join(dir, "bin", a)); err != nil {
			c.t.Fatal(err)
		}
	}
	os.WriteFile(filepath.Join(dir, "etc/passwd"), []byte("root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n"), 0o644)
	return dir
}

// berth-oci under containerd's own runc shim: BinaryName is all that is changed.
func TestOCIUnderContainerdsRuncShim(t *testing.T) {
	c := needClients(t)
	root := c.rootfs()
	config := fmt.Sprintf("version = 2\nroot = %q\nstate = %q\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = %q\n[ttrpc]\naddress = %q\n",
		c.dir+"/root", c.dir+"/state", c.dir+"/c.sock", c.dir+"/t.sock")
	if err := os.WriteFile(c.dir+"/config.toml", []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	c.daemon("containerd", "--config", c.dir+"/config.toml")
	ns := filepath.Base(c.dir) // also the name of the cgroup's parent
	ctr := func(args ...string) []string {
		return append([]string{"ctr", "-a", c.dir + "/c.sock", "-n", ns}, args...)
	}
	run := func(args ...string) []string {
		return append(ctr("run", "--runtime", "io.containerd.runc.v2", "--runc-binary", c.runtime, "--rootfs"), args...)
	}
	c.eventually("containerd answers", func() bool { _, code := c.ask(ctr("version")...); return code == 0 })
	t.Cleanup(func() {
		dirs, _ := filepath.Glob("/sys/fs/cgroup/*/" + ns)
		for _, d := range append(dirs, "/sys/fs/cgroup/"+ns) {
			os.Remove(d)
		}
		os.RemoveAll("/run/containerd/runc/" + ns)
	})
	out, code := c.ask(run("--rm", root, "a", "sh", "-c", "echo hello; exit 5")...)
	c.want("run", out, code, "hello", 5)
	out, code = c.terminal(run("--rm", "-t", root, "b", "sh", "-c", "'tty; exit 4'")...)
	c.want("run -t", out, code, "/dev/pts/0", 4)
	out, code = c.ask(run("--rm", root, "n", "nosuchprogram")...)
	c.want("no such program", out, code, "executable file not found in $PATH", 1)
	out, code = c.ask(run("-d", root, "d", "sleep", "1000")...)
	c.want("run -d", out, code, "", 0)
	out, code = c.ask(ctr("task", "exec", "--exec-id", "x", "d", "sh", "-c", "echo inside; exit 3")...)
	c.want("exec", out, code, "inside", 3)
	for _, step := range [][2]string{{"pause", "PAUSED"}, {"resume", "RUNNING"}} {
		out, code = c.ask(ctr("task", step[0], "d")...)
		c.want(step[0], out, code, "", 0)
		out, _ = c.ask(ctr("task", "ls")...)
		c.want("ls after "+step[0], out, 0, step[1], 0)
	}
	out, code = c.ask(ctr("task", "metrics", "d")...)
	c.want("metrics", out, code, "memory", 0)
	out, code = c.ask(ctr("task", "kill", "-s", "KILL", "d")...)
	c.want("kill", out, code, "", 0)
	c.eventually("the task has ended", func() bool { out, _ := c.ask(ctr("task", "ls")...); return strings.Contains(out, "STOPPED") })
	c.ask(ctr("task", "rm", "d")...)
	out, code = c.ask(ctr("c", "rm", "d")...)
	c.want("rm", out, code, "", 0)
}
