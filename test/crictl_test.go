package test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"

	"github.com/11f9778f/berth/internal/node"
)

// crictl is upstream's command line of the CRI, with a node that it talks to.
type crictl struct {
	*machine
	bin, config string
}

func newCrictl(m *machine) *crictl {
	m.t.Helper()
	bin, err := filepath.Abs("../.cache/bin/crictl")
	if err != nil {
		m.t.Fatal(err)
	}
	if _, err := os.Stat(bin); err != nil {
		m.t.Skip("needs crictl, which make crictl builds")
	}
	return &crictl{machine: m, bin: bin, config: m.file("crictl.yaml", "")}
}

func (c *crictl) prepare(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, c.bin, append([]string{"--config", c.config, "--runtime-endpoint", "unix://" + c.criSocket(), "--timeout", "30s"}, args...)...)
}

// do runs a command to its end.
func (c *crictl) do(in io.Reader, args ...string) result {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	cmd := c.prepare(ctx, args...)
	var out, errs growing
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, &out, &errs
	err := cmd.Run()
	r := result{stdout: out.String(), stderr: errs.String()}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		r.code = exit.ExitCode()
	} else if err != nil {
		c.t.Fatalf("crictl %s: %v", strings.Join(args, " "), err)
	}
	return r
}

// ok is do for commands that have to work; it returns what they print.
func (c *crictl) ok(args ...string) string {
	c.t.Helper()
	r := c.do(nil, args...)
	if r.code != 0 {
		c.t.Fatalf("crictl %s: exit code %d\n%s%s", strings.Join(args, " "), r.code, r.stdout, r.stderr)
	}
	return r.stdout
}

// shows runs a command and looks for texts in what it prints.
func (c *crictl) shows(args []string, want ...string) {
	c.t.Helper()
	out := c.ok(args...)
	for _, w := range want {
		if !strings.Contains(out, w) {
			c.t.Errorf("crictl %s lacks %q:\n%s", strings.Join(args, " "), w, out)
		}
	}
}

// follow starts a command that does not end by itself.
func (c *crictl) follow(args ...string) *command {
	c.t.Helper()
	f := &command{t: c.t, what: "crictl " + strings.Join(args, " "), out: &growing{}, err: &growing{}, ended: make(chan struct{})}
	f.cmd = c.prepare(context.Background(), args...)
	f.cmd.Stdout, f.cmd.Stderr = f.out, f.err
	stdin, err := f.cmd.StdinPipe()
	if err == nil {
		err = f.cmd.Start()
	}
	if err != nil {
		c.t.Fatal(err)
	}
	go func() { defer close(f.ended); f.cmd.Wait() }()
	c.t.Cleanup(func() { stdin.Close(); f.kill() })
	return f
}

// with is c for a part of a test.
func (c *crictl) with(t *testing.T) *crictl {
	m := *c.machine
	m.t = t
	return &crictl{machine: &m, bin: c.bin, config: c.config}
}

func (c *crictl) json(name string, v any) string {
	c.t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		c.t.Fatal(err)
	}
	return c.file(name, string(b))
}

type object = map[string]any

func (c *crictl) podConfig(name string) string {
	return c.json(name+".json", object{
		"metadata": object{"name": name, "namespace": "default", "uid": "uid-" + name}, "hostname": name,
		"log_directory": filepath.Join(c.dir, "logs"), "labels": object{"app": name}, "linux": object{"security_context": object{}},
	})
}

func (c *crictl) containerConfig(name, image string, attempt int, more object) string {
	// crictl logs -p wants the names that the kubelet gives; the folder is the kubelet's to make.
	if err := os.MkdirAll(filepath.Join(c.dir, "logs", name), 0o755); err != nil {
		c.t.Fatal(err)
	}
	config := object{
		"metadata": object{"name": name, "attempt": attempt}, "image": object{"image": image}, "log_path": fmt.Sprintf("%s/%d.log", name, attempt),
		"labels": object{"io.kubernetes.container.name": name}, "linux": object{"resources": object{"memory_limit_in_bytes": 64 << 20}},
	}
	for k, v := range more {
		config[k] = v
	}
	return c.json(fmt.Sprintf("%s.%d.json", name, attempt), config)
}

// Every command of crictl that a person uses.
func TestCrictl(t *testing.T) {
	m := newMachine(t)
	c := newCrictl(m)
	img := busybox(t)
	shop := newWarehouse(t)
	ref := shop.push("tools/busybox:1", img)
	m.criDaemon(nil)
	t.Run("images", func(t *testing.T) { c.with(t).images(shop, ref) })

	podFile := c.podConfig("shell")
	pod := strings.TrimSpace(c.ok("runp", podFile))
	create := func(name string, attempt int, more object) string {
		t.Helper()
		return strings.TrimSpace(c.ok("create", pod, c.containerConfig(name, ref, attempt, more), podFile))
	}
	id := create("app", 0, object{"command": []string{"sh", "-c", "echo first; while read l; do echo got $l; done; httpd -f -p 8099"}, "stdin": true, "stdin_once": true})
	c.shows([]string{"ps", "-a"}, "Created", "app")
	c.ok("start", id)

	t.Run("lists", func(t *testing.T) { c.with(t).lists(pod, id) })
	t.Run("exec", func(t *testing.T) { c.with(t).execs(id) })
	t.Run("attach and port-forward", func(t *testing.T) { c.with(t).streams(pod, id) })
	t.Run("websocket", func(t *testing.T) {
		c := c.with(t)
		c.execOver("websocket", id)
		c.forwardOver("websocket", pod)
	})
	t.Run("numbers", func(t *testing.T) { c.with(t).numbers(pod, id) })
	t.Run("logs", func(t *testing.T) { c.with(t).logs(create) })
	t.Run("run", func(t *testing.T) { c.with(t).runs(ref) })
	t.Run("end", func(t *testing.T) { c.with(t).ends(pod, id) })
	t.Run("checkpoint", func(t *testing.T) { c.with(t).checkpoint(create) })
	t.Run("metricsp", func(t *testing.T) { c.with(t).metricsp(pod) })

	c.ok("stopp", pod)
	c.shows([]string{"pods", "--state", "notready"}, "shell")
	c.ok("rmp", pod)
	if out := c.ok("pods", "-q"); strings.TrimSpace(out) != "" {
		t.Errorf("pods after rmp: %s", out)
	}
	c.clean()
	stopCRI(m)
}

// stopCRI ends the node's CRI daemon.
func stopCRI(m *machine) {
	m.t.Helper()
	m.eventually("no daemon is left", func() bool {
		none := true
		for pid, what := range m.processes(node.NamesFor(m.run).CgroupParent) {
			if strings.HasSuffix(what, " cri") {
				none = false
				syscall.Kill(pid, syscall.SIGTERM)
			}
		}
		return none
	})
}

func (c *crictl) images(shop *warehouse, ref string) {
	t := c.t
	shop.lock("shopper", "secret")
	if r := c.do(nil, "pull", ref); r.code == 0 || !strings.Contains(strings.ToLower(r.stderr), "unauthorized") {
		t.Errorf("pull without credentials: exit code %d, %s", r.code, r.stderr)
	}
	if r := c.do(nil, "pull", "--creds", "shopper:wrong", ref); r.code == 0 {
		t.Error("pulled with wrong credentials")
	}
	c.shows([]string{"pull", "--creds", "shopper:secret", ref}, "sha256:")
	shop.lock("", "")
	c.shows([]string{"images"}, "tools/busybox")
	c.shows([]string{"images", "-v", "--digests"}, "RepoTags: "+ref)
	c.shows([]string{"inspecti", ref}, `"repoTags"`, ref)
	c.shows([]string{"imagefsinfo"}, "imageFilesystems", "usedBytes")
	c.shows([]string{"pull", "berth.local/demo:latest"}, "sha256:")
	c.shows([]string{"rmi", "berth.local/demo:latest"}, "Deleted: berth.local/demo:latest")
	if out := c.ok("images", "-q"); strings.Count(out, "sha256:") != 1 {
		t.Errorf("images after rmi: %s", out)
	}
	c.shows([]string{"version"}, "RuntimeName:  berth", "RuntimeApiVersion:  v1")
	c.shows([]string{"info"}, "RuntimeReady", "NetworkReady")
	c.shows([]string{"runtime-config"}, "cgroup driver")
}

func (c *crictl) lists(pod, id string) {
	c.shows([]string{"pods"}, pod[:13], "Ready", "shell")
	c.shows([]string{"pods", "--name", "shell", "--state", "ready", "-v"}, "app -> shell")
	c.shows([]string{"pods", "--label", "app=shell", "-q"}, pod)
	if out := c.ok("pods", "--label", "app=other", "-q"); strings.TrimSpace(out) != "" {
		c.t.Errorf("pods with a label that none has: %s", out)
	}
	c.shows([]string{"ps"}, id[:13], "Running", "app")
	c.shows([]string{"ps", "--pod", pod[:10], "--state", "Running", "-q"}, id)
	c.shows([]string{"inspect", id[:12]}, `"state": "CONTAINER_RUNNING"`, `"pid":`, `"logPath": "`+c.dir+`/logs/app/0.log"`)
	c.shows([]string{"inspect", "-o", "go-template", "--template", "{{.status.id}}", id}, id)
	c.shows([]string{"inspectp", pod[:12]}, `"state": "SANDBOX_READY"`, `"ip":`)
}

func (c *crictl) execs(id string) {
	t := c.t
	c.shows([]string{"exec", "--sync", id, "echo", "in one go"}, "in one go")
	if r := c.do(nil, "exec", "--sync", id, "sh", "-c", "echo oops >&2; exit 3"); r.code == 0 || !strings.Contains(r.stdout+r.stderr, "oops") {
		t.Errorf("exec --sync that fails: %+v", r)
	}
	if r := c.do(nil, "exec", "--sync", "--timeout", "1", id, "sleep", "60"); r.code == 0 || !strings.Contains(r.stderr, "timed out") {
		t.Errorf("exec --sync that hangs: %+v", r)
	}
	c.execOver("spdy", id)
	cmd := c.prepare(context.Background(), "exec", "-it", id, "sh")
	tty, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 33, Cols: 99})
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close()
	defer cmd.Process.Kill()
	screen := &growing{}
	done := make(chan struct{})
	go func() { io.Copy(screen, tty); close(done) }()
	tty.WriteString("stty size; echo $((6*7))\n")
	c.eventually("the terminal shows its size and 42", func() bool {
		return strings.Contains(screen.String(), "33 99") && strings.Contains(screen.String(), "42")
	})
	tty.WriteString("exit\n")
	cmd.Wait()
	<-done
}

// execOver streams by SPDY or WebSocket.
func (c *crictl) execOver(transport, id string) {
	r := c.do(nil, "exec", "--transport", transport, id, "sh", "-c", "echo out; echo err >&2; exit 3")
	if strings.Contains(r.stderr, "403 Forbidden") {
		c.t.Skip("crictl asks for the protocol v5.channel.k8s.io, which k8s.io/cri-streaming does not speak")
	}
	if r.stdout != "out\n" || !strings.Contains(r.stderr, "err\n") || r.code == 0 {
		c.t.Errorf("exec by %s: %+v", transport, r)
	}
	if r := c.do(strings.NewReader("typed\n"), "exec", "--transport", transport, "-i", id, "cat"); r.stdout != "typed\n" || r.code != 0 {
		c.t.Errorf("exec -i by %s: %+v", transport, r)
	}
}

func (c *crictl) streams(pod, id string) {
	t := c.t
	attached := c.prepare(context.Background(), "attach", "-i", id)
	out := &growing{}
	attached.Stdout, attached.Stderr = out, out
	stdin, err := attached.StdinPipe()
	if err == nil {
		err = attached.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer attached.Process.Kill()
	c.eventually("the container answers what is typed", func() bool {
		io.WriteString(stdin, "hello\n")
		time.Sleep(50 * time.Millisecond)
		return strings.Contains(out.String(), "got hello")
	})
	stdin.Close()           // stdin_once: the loop ends, and httpd begins
	attached.Process.Kill() // it would go on to show what the container says
	attached.Wait()
	c.eventually("httpd serves", func() bool {
		return c.do(nil, "exec", id, "wget", "-q", "-O", "/dev/null", "http://127.0.0.1:8099/etc/passwd").code == 0
	})
	c.forwardOver("spdy", pod)
}

// forwardOver fetches a page through a port-forward.
func (c *crictl) forwardOver(transport, pod string) {
	port := freePort(c.t)
	f := c.follow("port-forward", "--transport", transport, pod, fmt.Sprintf("%d:8099", port))
	defer f.kill()
	c.eventually("the page is served through "+transport, func() bool {
		if f.over() {
			c.t.Fatalf("port-forward by %s ended: %s%s", transport, f.out, f.err)
		}
		resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/etc/passwd", port))
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return strings.Contains(string(b), "root:x:0:0")
	})
}

func (c *crictl) numbers(pod, id string) {
	c.shows([]string{"stats", "-o", "json"}, id, `"workingSetBytes"`, `"usageCoreNanoSeconds"`)
	c.shows([]string{"stats", id}, "app")
	c.shows([]string{"statsp", "-o", "json"}, pod, `"linux"`)
	c.ok("update", "--memory", "100663296", "--cpu-share", "700", id)
	c.shows([]string{"inspect", id}, "100663296")
	shown := c.ok("exec", "--sync", id, "cat", "/proc/self/cgroup")
	if strings.TrimSpace(shown) == "" {
		c.t.Error("the container sees no cgroup")
	}
}

func (c *crictl) logs(create func(string, int, object) string) {
	t := c.t
	script := func(s string) object { return object{"command": []string{"sh", "-c", s}} }
	first := create("talker", 0, script("echo one; echo three; echo two >&2; exit 1"))
	events := c.follow("events")
	attempt := 0
	c.eventually("crictl listens", func() bool { // it does not say so itself
		attempt++
		c.ok("rm", create("heard", attempt, script("true")))
		return events.out.String() != ""
	})
	c.ok("start", first)
	events.says("CONTAINER_STOPPED_EVENT")
	events.kill()
	c.eventually("the container ends", func() bool { return strings.Contains(c.ok("ps", "-a", "--id", first), "Exited") })
	if r := c.do(nil, "logs", first); r.stdout != "one\nthree\n" || r.stderr != "two\n" {
		t.Errorf("logs: %+v", r)
	}
	if out := c.ok("logs", "--since", "1h", first); !strings.Contains(out, "one") {
		t.Errorf("logs --since 1h: %s", out)
	}
	if r := c.do(nil, "logs", "--since", time.Now().Add(time.Minute).UTC().Format(time.RFC3339), first); r.stdout != "" {
		t.Errorf("logs --since a minute from now: %+v", r)
	}
	c.shows([]string{"logs", "--timestamps", first}, "T", " one")
	second := create("talker", 1, script("echo again; sleep 2; echo later; sleep 3600"))
	c.ok("start", second)
	f := c.follow("logs", "-f", second)
	f.says("again")
	f.says("later")
	f.kill()
	if r := c.do(nil, "logs", "-p", second); !strings.Contains(r.stdout, "one") {
		t.Errorf("logs -p: %+v", r)
	}
	counted := create("counter", 0, script("seq 8"))
	c.ok("start", counted)
	c.eventually("the counter ends", func() bool { return strings.Contains(c.ok("ps", "-a", "--id", counted), "Exited") })
	if r := c.do(nil, "logs", "--tail", "3", counted); r.stdout != "6\n7\n8\n" {
		t.Errorf("logs --tail 3: %+v", r)
	}
	c.ok("stop", "--timeout", "0", second)
	c.ok("rm", first, second, counted)
}

// runs does runp, create and start in one.
func (c *crictl) runs(ref string) {
	id := strings.TrimSpace(c.ok("run", "--no-pull", c.containerConfig("quick", ref, 0, object{"command": []string{"sleep", "3600"}}), c.podConfig("quick")))
	c.shows([]string{"ps", "--id", id}, "Running", "quick")
	if r := c.do(nil, "rm", id); r.code == 0 {
		c.t.Error("a running container was removed without --force")
	}
	c.ok("rm", "--force", id)
	pod := strings.TrimSpace(c.ok("pods", "--name", "quick", "-q"))
	c.ok("rmp", "--force", pod)
}

func (c *crictl) ends(pod, id string) {
	c.ok("stop", "--timeout", "1", id)
	c.shows([]string{"ps", "-a", "--id", id}, "Exited")
	c.ok("stop", id) // again is no error
	c.ok("rm", id)
	if r := c.do(nil, "inspect", id); r.code == 0 || !strings.Contains(strings.ToLower(r.stderr), "not found") {
		c.t.Errorf("inspect of what was removed: %+v", r)
	}
	if out := c.ok("ps", "-a", "--pod", pod, "-q"); strings.TrimSpace(out) != "" {
		c.t.Errorf("containers left: %s", out)
	}
}

// unimplemented skips where the daemon says that it can't yet, or that the machine can't.
func (c *crictl) unimplemented(r result) {
	c.t.Helper()
	if strings.Contains(r.stderr, "Unimplemented") || strings.Contains(r.stderr, "FailedPrecondition") {
		c.t.Skip(strings.TrimSpace(r.stderr))
	}
}

func (c *crictl) checkpoint(create func(string, int, object) string) {
	id := create("saved", 0, object{"command": []string{"sleep", "3600"}})
	defer c.ok("rm", "--force", id)
	c.ok("start", id)
	archive := filepath.Join(c.dir, "checkpoint.tar")
	r := c.do(nil, "--timeout", "60s", "checkpoint", "--export", archive, id)
	c.unimplemented(r)
	if info, err := os.Stat(archive); r.code != 0 || err != nil || info.Size() == 0 {
		c.t.Errorf("checkpoint: %+v, %v", r, err)
	}
	c.shows([]string{"ps", "--id", id}, "Running")
}

func (c *crictl) metricsp(pod string) {
	r := c.do(nil, "metricsp")
	c.unimplemented(r)
	if r.code != 0 || !strings.Contains(r.stdout, pod) || !strings.Contains(r.stdout, "container_network") {
		c.t.Errorf("metricsp: %+v", r)
	}
	c.shows([]string{"metricdescs"}, "container_cpu_usage_seconds_total")
}
