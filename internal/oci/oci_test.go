package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/11f9778f/berth/internal/sys"
)

// The test binary is the runtime too, as a process of its own: what one command leaves another one finds.
func TestMain(m *testing.M) {
	if os.Getenv("OCI_TEST_RUNTIME") != "" {
		os.Exit(Main(context.Background(), Invocation{Name: "berth-oci", Version: "test", Args: os.Args[1:], In: os.Stdin, Out: os.Stdout, Err: os.Stderr}))
	}
	os.Exit(m.Run())
}

// bench is a state directory and a bundle.
type bench struct {
	t            *testing.T
	root, bundle string
	env          []string
}

var serial int

func newBench(t *testing.T) *bench {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: namespaces, mounts and cgroups")
	}
	busybox, err := os.ReadFile("/usr/bin/busybox")
	if err != nil {
		t.Skip("needs Debian's busybox-static: " + err.Error())
	}
	b := &bench{t: t, root: filepath.Join(t.TempDir(), "state"), bundle: t.TempDir()}
	for _, d := range []string{"bin", "etc", "proc", "sys", "dev"} {
		if err := os.MkdirAll(filepath.Join(b.bundle, "rootfs", d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(b.bundle, "rootfs/bin/busybox"), busybox, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, a := range []string{"sh", "sleep", "echo", "cat", "tty", "true"} {
		os.Symlink("busybox", filepath.Join(b.bundle, "rootfs/bin", a))
	}
	t.Cleanup(func() {
		out, _ := b.ask("list", "-q")
		for _, id := range strings.Fields(out) {
			b.ask("delete", "-f", id)
		}
	})
	return b
}

// id is one that no other test uses: it is the cgroup's name, too.
func (b *bench) id() string {
	serial++
	return fmt.Sprintf("oci-test-%d-%d", os.Getpid(), serial)
}

// configure writes config.json: the example with another program.
func (b *bench) configure(args ...string) *specs.Spec {
	b.t.Helper()
	s := exampleSpec()
	s.Process.Terminal = false
	s.Process.Args = args
	b.write(s)
	return s
}

func (b *bench) write(s any) {
	b.t.Helper()
	raw, err := json.Marshal(s)
	if err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(b.bundle, "config.json"), raw, 0o600); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) command(args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", append([]string{"--root", b.root}, args...)...)
	cmd.Dir = b.bundle
	cmd.Env = append(append(os.Environ(), "OCI_TEST_RUNTIME=1"), b.env...)
	cmd.WaitDelay = 100 * time.Millisecond // a container that runs on keeps the pipe open
	return cmd
}

func (b *bench) ask(args ...string) (out string, code int) {
	b.t.Helper()
	cmd := b.command(args...)
	raw, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay) {
		b.t.Fatalf("%v: %v", args, err)
	}
	return string(raw), cmd.ProcessState.ExitCode()
}

// step is a command and what must come of it.
type step struct {
	args string
	code int
	out  string
}

func (b *bench) steps(id string, steps []step) {
	b.t.Helper()
	for _, s := range steps {
		args := strings.Fields(strings.ReplaceAll(s.args, "ID", id))
		if out, code := b.ask(args...); code != s.code || !strings.Contains(out, s.out) {
			b.t.Errorf("%s: exit code %d, %q; want %d, %q", s.args, code, out, s.code, s.out)
		}
	}
}

func (b *bench) status(id string) string {
	out, _ := b.ask("state", id)
	var s containerState
	json.Unmarshal([]byte(out), &s)
	return string(s.Status)
}

func (b *bench) until(id, status string) {
	b.t.Helper()
	for end := time.Now().Add(2 * time.Minute); b.status(id) != status; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			b.t.Fatalf("%s is %s, not %s", id, b.status(id), status)
		}
	}
}

// The mistakes that callers make, each with the words and the exit code that callers of runc know.
func TestUsualMistakes(t *testing.T) {
	b := newBench(t)
	b.configure("sleep", "1000")
	id := b.id()
	b.steps(id, []step{
		{"state ID", 1, "container does not exist"},
		{"start ID", 1, "container does not exist"},
		{"kill ID", 1, "container does not exist"},
		{"delete ID", 1, "container does not exist"},
		{"delete --force ID", 0, ""},
		{"exec ID true", 255, "container does not exist"},
		{"create a/../b", 1, "invalid container ID format"},
		{"create ..", 1, "invalid container ID format"},
		{"state a/b", 1, "invalid container ID format"},
		{"delete --force a/b", 1, "invalid container ID format"},
		{"create", 1, "requires exactly 1 argument"},
		{"create ID more", 1, "requires exactly 1 argument"},
		{"kill ID TERM more", 1, "requires a maximum of 2 argument"},
		{"frobnicate", 1, "no such command"},
		{"create --frobnicate ID", 1, "frobnicate"},
		{"create --bundle /nowhere ID", 1, "config.json not found"},
		{"create --pid-file /nowhere/x ID", 1, "pid file"},
		{"create --console-socket /nowhere ID", 1, "cannot use console socket"},
		{"checkpoint --image-path /tmp/nowhere ID", 1, ""},
		{"create ID", 0, ""},
		{"create ID", 1, "container with given ID already exists"},
		{"resume ID", 1, "container not paused"},
		{"start ID", 0, ""},
		{"start ID", 1, "cannot start an already running container"},
		{"delete ID", 1, "that is not stopped: running"},
		{"kill ID SIGNONE", 1, "unknown signal"},
		{"exec ID", 255, "exec args cannot be empty"},
		{"exec ID nosuch", 255, "executable file not found in $PATH"},
		{"exec -u x ID true", 255, "bad uid"},
		{"pause ID", 0, ""},
		{"pause ID", 1, "container not running"},
		{"exec ID true", 255, "cannot exec in a paused container"},
		{"delete ID", 1, "that is not stopped: paused"},
		{"update --memory 1x ID", 1, "invalid value for memory"},
		{"kill ID KILL", 0, ""}, // a frozen one dies, too
	})
	b.until(id, "stopped")
	b.steps(id, []step{
		{"kill ID", 1, "container not running"},
		{"kill --all ID", 0, ""},
		{"start ID", 1, "cannot start a container that has stopped"},
		{"exec ID true", 255, "cannot exec in a stopped container"},
		{"pause ID", 1, "container not running"},
		{"update --memory 64m ID", 1, "container not running"},
		{"delete ID", 0, ""},
		{"delete ID", 1, "container does not exist"},
		{"list -q", 0, ""},
	})
}

// A bundle that is no bundle is refused with the field that is wrong, and nothing is left of the try.
func TestBadBundles(t *testing.T) {
	b := newBench(t)
	good := b.configure("true")
	change := func(f func(*specs.Spec)) *specs.Spec {
		raw, _ := json.Marshal(good)
		var s specs.Spec
		json.Unmarshal(raw, &s)
		f(&s)
		return &s
	}
	for name, bad := range map[string]struct {
		config any
		want   string
	}{
		"null":          {nil, "process"},
		"a list":        {[]int{1}, "config.json"},
		"no process":    {change(func(s *specs.Spec) { s.Process = nil }), "process property must not be empty"},
		"no args":       {change(func(s *specs.Spec) { s.Process.Args = nil }), "args must not be empty"},
		"relative cwd":  {change(func(s *specs.Spec) { s.Process.Cwd = "x" }), "cwd must be an absolute path"},
		"no root":       {change(func(s *specs.Spec) { s.Root = nil }), "root"},
		"no linux":      {change(func(s *specs.Spec) { s.Linux = nil }), "linux"},
		"missing root":  {change(func(s *specs.Spec) { s.Root.Path = "nowhere" }), "nowhere"},
		"bad env":       {change(func(s *specs.Spec) { s.Process.Env = []string{"x"} }), "missing '='"},
		"bad mount":     {change(func(s *specs.Spec) { s.Mounts = []specs.Mount{{Destination: "/x", Type: "nosuchfs"}} }), "nosuchfs"},
		"bad rlimit":    {change(func(s *specs.Spec) { s.Process.Rlimits = []specs.POSIXRlimit{{Type: "X"}} }), "rlimits"},
		"bad namespace": {change(func(s *specs.Spec) { s.Linux.Namespaces[0].Type = "x" }), "namespaces"},
		"bad cgroup":    {change(func(s *specs.Spec) { s.Linux.CgroupsPath = "/../.." }), "cgroup"},
		"tty":           {change(func(s *specs.Spec) { s.Process.Terminal = true }), "console socket"},
	} {
		t.Run(name, func(t *testing.T) {
			b.write(bad.config)
			id := b.id()
			if out, code := b.ask("create", id); code != 1 || !strings.Contains(out, bad.want) {
				t.Errorf("exit code %d, %q; want %q", code, out, bad.want)
			}
			if _, err := os.Lstat(filepath.Join(b.root, id)); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("its state is left: %v", err)
			}
			if left, _ := filepath.Glob("/sys/fs/cgroup/*/berth-oci-" + id); left != nil {
				t.Errorf("its cgroup is left: %v", left)
			}
		})
	}
}

// A create that dies half-way can be deleted, wherever it dies, and then nothing is left.
func TestDeadCreateIsDeletable(t *testing.T) {
	b := newBench(t)
	b.configure("sleep", "1000")
	for _, place := range []string{"oci.create.recorded", "oci.create.made", "oci.create.parked"} {
		t.Run(place, func(t *testing.T) {
			id := b.id()
			b.env = []string{"BERTH_FAILPOINT=" + place + "=kill"}
			if out, code := b.ask("create", id); code != -1 {
				t.Fatalf("it lives: exit code %d, %s", code, out)
			}
			b.env = nil
			if s := b.status(id); s != "stopped" && s != "created" {
				t.Errorf("status %q", s)
			}
			b.steps(id, []step{{"delete ID", 0, ""}, {"state ID", 1, "container does not exist"}})
			if left, _ := filepath.Glob("/sys/fs/cgroup/*/berth-oci-" + id); left != nil {
				t.Errorf("its cgroup is left: %v", left)
			}
		})
	}
}

// What spec writes runs as it is: a shell on a terminal.
func TestSpecRunsAsItIs(t *testing.T) {
	b := newBench(t)
	b.steps("", []step{{"spec", 0, ""}, {"spec", 1, "exists"}})
	cmd := b.command("run", b.id())
	cmd.Stdin = strings.NewReader("tty; echo home $HOME; exit 7\n")
	cmd.WaitDelay = 0
	out, _ := cmd.CombinedOutput()
	if code := cmd.ProcessState.ExitCode(); code != 7 || !strings.Contains(string(out), "/dev/pts/0") || !strings.Contains(string(out), "home /") {
		t.Errorf("exit code %d, output %q", code, out)
	}
	if out, _ := b.ask("list", "-q"); out != "" {
		t.Errorf("left: %q", out)
	}
}

// The log is what callers parse: JSON lines with level and msg; the state directory is nobody else's.
func TestLogPidFileAndState(t *testing.T) {
	b := newBench(t)
	b.configure("sleep", "1000")
	log, pidFile, id := filepath.Join(b.bundle, "log"), filepath.Join(b.bundle, "pid"), b.id()
	b.steps(id, []step{
		{"--log " + log + " --log-format json start ID", 1, "container does not exist\n"},
		{"create --pid-file " + pidFile + " ID", 0, ""},
		{"exec -d --pid-file " + pidFile + "2 -e A=b ID sleep 900", 0, ""},
		{"ps --format json ID", 0, "["},
		{"update --memory 64MiB --pids-limit 20 ID", 0, ""},
		{"events --stats ID", 0, `"limit":67108864`},
		{"list --format json", 0, `"id":"` + id},
		{"features", 0, "ociVersionMax"},
	})
	raw, err := os.ReadFile(log)
	var line struct{ Level, Msg, Time string }
	if err != nil || json.Unmarshal(raw, &line) != nil || line.Level != "error" || line.Msg != "container does not exist" || line.Time == "" {
		t.Errorf("log %q, %v", raw, err)
	}
	pid, _ := os.ReadFile(pidFile)
	if n, err := strconv.Atoi(string(pid)); err != nil || syscall.Kill(n, 0) != nil {
		t.Errorf("pid file %q", pid)
	}
	for _, dir := range []string{b.root, filepath.Join(b.root, id)} {
		if st, err := os.Stat(dir); err != nil || st.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v %v", dir, st.Mode(), err)
		}
	}
	b.steps(id, []step{{"delete -f ID", 0, ""}})
}

// exec --cgroup runs the program in a cgroup below the container's, of one controller under cgroup v1.
func TestExecInSubCgroup(t *testing.T) {
	b := newBench(t)
	b.configure("sleep", "1000")
	pidFile, id := filepath.Join(b.bundle, "pid"), b.id()
	b.steps(id, []step{{"run -d --pid-file " + pidFile + " ID", 0, ""}})
	pid, _ := os.ReadFile(pidFile)
	n, err := strconv.Atoi(string(pid))
	if err != nil {
		t.Fatal(err)
	}
	own, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", n))
	if err != nil {
		t.Fatal(err)
	}
	sub, flag := "", ""
	for line := range strings.Lines(string(own)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		switch {
		case f[1] == "pids":
			sub, flag = "/sys/fs/cgroup/pids"+f[2]+"/sub", "--cgroup pids:sub "
		case f[1] == "" && sub == "" && f[0] == "0":
			sub, flag = "/sys/fs/cgroup"+f[2]+"/sub", "--cgroup sub "
		}
	}
	b.steps(id, []step{
		{"exec " + flag + "ID true", 255, "sub-cgroup"}, // it is not there yet
		{"exec --cgroup nosuch:sub ID true", 255, "nosuch"},
		{"exec --cgroup ../other ID true", 255, "not allowed"},
		{"exec --cgroup a: ID true", 255, "invalid --cgroup"},
		{"exec --cgroup a --cgroup b ID true", 255, "invalid --cgroup"},
	})
	if err := os.Mkdir(sub, 0o755); err != nil {
		t.Skip("needs the usual place of a cgroup hierarchy: ", err)
	}
	b.steps(id, []step{
		{"exec " + flag + "ID cat /proc/self/cgroup", 0, "/sub\n"},
		{"kill ID KILL", 0, ""},
	})
	b.until(id, "stopped")
	b.steps(id, []step{{"delete ID", 0, ""}})
	if _, err := os.Stat(sub); err == nil {
		t.Errorf("%s is left", sub)
	}
}

// The terminal goes to the console socket, and start is another process's.
func TestConsoleSocket(t *testing.T) {
	b := newBench(t)
	s := b.configure("sh", "-c", "tty; echo done")
	s.Process.Terminal = true
	b.write(s)
	socket := filepath.Join(b.bundle, "console.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	id := b.id()
	b.steps(id, []step{{"create --console-socket " + socket + " ID", 0, ""}, {"start ID", 0, ""}})
	conn, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, held, err := sys.RecvFile(conn, make([]byte, 64))
	if err != nil || held == nil {
		t.Fatalf("no terminal: %v", err)
	}
	master := held.File("console")
	defer master.Close()
	var out strings.Builder
	buf := make([]byte, 512)
	for !strings.Contains(out.String(), "done") {
		n, err := master.Read(buf)
		out.Write(buf[:n])
		if err != nil {
			break
		}
	}
	if !strings.Contains(out.String(), "/dev/pts/0") || !strings.Contains(out.String(), "done") {
		t.Errorf("terminal says %q", out.String())
	}
	b.until(id, "stopped")
	b.steps(id, []step{{"delete ID", 0, ""}})
}

// Descriptors from 3 on reach the program.
func TestPreservedDescriptors(t *testing.T) {
	b := newBench(t)
	b.configure("sh", "-c", "cat <&4")
	in, err := os.Open("/proc/sys/kernel/ostype")
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	cmd := b.command("run", "--preserve-fds", "2", b.id())
	cmd.ExtraFiles = []*os.File{null, in}
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != "Linux\n" {
		t.Errorf("%q, %v", out, err)
	}
	b.steps(b.id(), []step{{"run --preserve-fds 50 ID", 1, "preserved-fd"}, {"run --preserve-fds -1 ID", 1, "preserve-fds"}})
}
