package test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/11f9778f/berth/internal/node"
)

// patience is how long a test waits for what must come. It is no verdict on speed.
const patience = 3 * time.Minute

// machine is a node of a test's own: a root and a run directory that nobody else uses.
type machine struct {
	t         *testing.T
	dir       string // short, for sockets' paths are limited
	root, run string
	env       []string // more than this process has
	berthBin  string   // the berth to call, if it is not the built one
}

// newMachine makes the folders, and at the test's end proves that nothing is left of the node.
func newMachine(t *testing.T) *machine {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	if _, err := os.Stat(binary("berth")); err != nil {
		t.Skipf("needs the built binaries, make build: %v", err)
	}
	dir, err := os.MkdirTemp("/tmp", "bt-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	m := &machine{t: t, dir: dir, root: filepath.Join(dir, "root"), run: filepath.Join(dir, "run")}
	t.Cleanup(m.dismantle)
	return m
}

// dismantle ends what a failed test left, tells of it, and removes the folders.
func (m *machine) dismantle() {
	if m.t.Failed() {
		m.autopsy()
	}
	left := m.settled()
	if n := len(left); n > 0 {
		if n > 20 {
			left = append(left[:20], fmt.Sprintf("and %d more", n-20))
		}
		m.t.Errorf("left behind:\n  %s", strings.Join(left, "\n  "))
		m.sweep()
	}
	if err := os.RemoveAll(m.dir); err != nil {
		m.t.Errorf("remove the test's folder: %v", err)
	}
}

// autopsy tells of a failed test what the node and the shims said, and of those that live what all of their
// goroutines are at.
func (m *machine) autopsy() {
	for pid, what := range m.processes(node.NamesFor(m.run).CgroupParent) {
		if strings.Contains(what, "containerd-shim-berth") || strings.Contains(what, " node") || strings.Contains(what, " cri") {
			syscall.Kill(pid, syscall.SIGQUIT)
		}
	}
	time.Sleep(500 * time.Millisecond)
	logs, _ := filepath.Glob(filepath.Join(m.run, "shims", "*", "shim.log"))
	containers, _ := filepath.Glob(filepath.Join(m.root, "logs", "pods", "*", "*", "*.log"))
	for _, path := range append(append(logs, containers...), filepath.Join(m.root, "node.log")) {
		if b, err := os.ReadFile(path); err == nil {
			m.report(path, string(b))
		}
	}
}

// report keeps what somebody said in a file if $BERTH_TEST_AUTOPSY names a folder, else the end of it in the
// test's own output.
func (m *machine) report(who, said string) {
	dir := os.Getenv("BERTH_TEST_AUTOPSY")
	if dir == "" {
		m.t.Logf("%s:\n%s", who, tail(said, 20))
		return
	}
	name := strings.NewReplacer("/", "_", " ", "_").Replace(m.t.Name() + "_" + who)
	if err := os.WriteFile(filepath.Join(dir, name[:min(len(name), 200)]), []byte(said), 0o644); err != nil {
		m.t.Log(err)
	}
}

// settled waits a little until nothing is left (a namespace's links vanish after its last process),
// and returns what is left nevertheless.
func (m *machine) settled() []string {
	deadline := time.Now().Add(2 * time.Minute)
	for {
		left := m.leftovers()
		if len(left) == 0 || time.Now().After(deadline) {
			return left
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func binary(name string) string {
	abs, err := filepath.Abs(filepath.Join("..", "bin", name))
	if err != nil {
		return name
	}
	return abs
}

// result is how a command ended.
type result struct {
	stdout, stderr string
	code           int
}

// berth runs a verb to its end.
func (m *machine) berth(args ...string) result {
	m.t.Helper()
	return m.begin(args...).wait()
}

// must is berth for verbs that have to work.
func (m *machine) must(args ...string) result {
	m.t.Helper()
	r := m.berth(args...)
	if r.code != 0 {
		m.t.Fatalf("berth %s: exit code %d\n%s%s", strings.Join(args, " "), r.code, r.stdout, r.stderr)
	}
	return r
}

// command is a verb that runs.
type command struct {
	t        *testing.T
	what     string
	cmd      *exec.Cmd
	out, err *growing
	ended    chan struct{}
	code     int
}

// begin starts a verb.
func (m *machine) begin(args ...string) *command {
	m.t.Helper()
	return m.beginWith(nil, args...)
}

// beginWith starts a verb with more in its environment.
func (m *machine) beginWith(env []string, args ...string) *command {
	m.t.Helper()
	return m.start(nil, env, args...)
}

// beginReading starts a verb with a standard input.
func (m *machine) beginReading(in io.Reader, args ...string) *command {
	m.t.Helper()
	return m.start(in, nil, args...)
}

// prepare is a verb that has not been started.
func (m *machine) prepare(args ...string) *exec.Cmd {
	cmd := exec.Command(cmp.Or(m.berthBin, binary("berth")), args...)
	cmd.Env = append(append(os.Environ(), "BERTH_ROOT="+m.root, "BERTH_RUN="+m.run), m.env...)
	return cmd
}

func (m *machine) start(in io.Reader, env []string, args ...string) *command {
	m.t.Helper()
	c := &command{t: m.t, what: "berth " + strings.Join(args, " "), out: &growing{}, err: &growing{}, ended: make(chan struct{})}
	c.cmd = m.prepare(args...)
	c.cmd.Env = append(c.cmd.Env, env...)
	c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr = in, c.out, c.err
	if err := c.cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	go func() {
		defer close(c.ended)
		err := c.cmd.Wait()
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			c.code = exit.ExitCode()
		}
	}()
	m.t.Cleanup(func() {
		if m.t.Failed() {
			alive := !c.over()
			if alive {
				c.cmd.Process.Signal(syscall.SIGQUIT)
				time.Sleep(500 * time.Millisecond)
			}
			m.report(fmt.Sprintf("%s (alive: %t, exit code %d)", c.what, alive, c.code), c.err.String())
		}
		c.kill()
	})
	return c
}

// wait returns when the command has ended.
func (c *command) wait() result {
	c.t.Helper()
	select {
	case <-c.ended:
	case <-time.After(2 * patience):
		c.kill()
		c.t.Fatalf("%s did not end\nstdout:\n%s\nstderr:\n%s", c.what, c.out, c.err)
	}
	return result{stdout: c.out.String(), stderr: c.err.String(), code: c.code}
}

// kill ends the command if it has not ended.
func (c *command) kill() {
	if !c.over() {
		c.cmd.Process.Kill()
		<-c.ended
	}
}

func (c *command) signal(s os.Signal) {
	c.t.Helper()
	if err := c.cmd.Process.Signal(s); err != nil {
		c.t.Fatalf("signal %s: %v", c.what, err)
	}
}

// says waits until the command has printed text.
func (c *command) says(text string) {
	c.t.Helper()
	deadline := time.Now().Add(patience)
	for !strings.Contains(c.out.String(), text) && !strings.Contains(c.err.String(), text) {
		select {
		case <-c.ended:
			if strings.Contains(c.out.String()+c.err.String(), text) {
				return
			}
			c.t.Fatalf("%s ended with %d and never said %q\nstdout:\n%s\nstderr:\n%s", c.what, c.code, text, c.out, c.err)
		case <-time.After(5 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("%s has not said %q\nstdout:\n%s\nstderr:\n%s", c.what, text, c.out, c.err)
		}
	}
}

// growing is a buffer that is read while it is written.
type growing struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (g *growing) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.buf.Write(p)
}

func (g *growing) String() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.buf.String()
}

// file writes a manifest and returns its path.
func (m *machine) file(name, body string) string {
	m.t.Helper()
	p := filepath.Join(m.dir, name)
	if err := os.WriteFile(p, []byte(body), 0o644); err != nil {
		m.t.Fatal(err)
	}
	return p
}

// node starts a node in the foreground, with more in its environment, and waits until it answers.
func (m *machine) node(env ...string) *command {
	m.t.Helper()
	c := m.beginWith(env, "node")
	m.eventually("the node answers", func() bool {
		if c.over() {
			m.t.Fatalf("the node ended with %d:\n%s", c.code, c.err)
		}
		return m.answers()
	})
	return c
}

// answers tells whether a node listens.
func (m *machine) answers() bool {
	conn, err := net.Dial("unix", filepath.Join(m.run, "node.sock"))
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

// over tells whether the command has ended.
func (c *command) over() bool {
	select {
	case <-c.ended:
		return true
	default:
		return false
	}
}

// pods is what berth ps tells machines.
func (m *machine) pods() []v1.Pod {
	m.t.Helper()
	var list v1.PodList
	if err := json.Unmarshal([]byte(m.must("ps", "-o", "json").stdout), &list); err != nil {
		m.t.Fatalf("berth ps -o json: %v", err)
	}
	return list.Items
}

// pod is one of them; the test ends if it is not there.
func (m *machine) pod(name string) v1.Pod {
	m.t.Helper()
	for _, p := range m.pods() {
		if p.Name == name {
			return p
		}
	}
	m.t.Fatalf("berth ps knows no pod %s", name)
	return v1.Pod{}
}

// eventually waits for something that must come true.
func (m *machine) eventually(what string, ok func() bool) {
	m.t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			m.t.Fatalf("never came true: %s", what)
		}
	}
}

// freePort is a TCP port of loopback that nobody uses now.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// example reads an example's manifest with one text replaced.
func example(t *testing.T, name string, replace ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "examples", name))
	if err != nil {
		t.Fatal(err)
	}
	return strings.NewReplacer(replace...).Replace(string(b))
}

// tail is the last n lines of s.
func tail(s string, n int) string {
	lines := strings.Split(strings.TrimRight(s, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// run is a command of the machine's own, not berth's.
func run(t *testing.T, name string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if out, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}
