package test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
)

// hello is the example with a host port that is free.
func hello(t *testing.T, m *machine) (file, url string) {
	t.Helper()
	port := fmt.Sprint(freePort(t))
	return m.file("hello.yaml", example(t, "hello.yaml", "8080", port)), "http://127.0.0.1:" + port + "/"
}

// The README's first command: the page is fetched and printed, the pod ended, nothing left.
func TestHelloExample(t *testing.T) {
	m := newMachine(t)
	file, url := hello(t, m)
	r := m.must("run", file, "--check", url)
	if !strings.Contains(r.stdout, "Hello from hello") {
		t.Errorf("the page is not on standard output:\n%s", r.stdout)
	}
	for _, want := range []string{"the start took", url[:len(url)-1] + " → web:80", "pod hello is ready", "pod hello is gone"} {
		if !strings.Contains(r.stderr, want) {
			t.Errorf("standard error lacks %q:\n%s", want, r.stderr)
		}
	}
	for _, want := range []string{"page   | wrote /www/index.html", "web    | serving /www on"} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("the logs lack %q:\n%s", want, r.stdout)
		}
	}
	if strings.Contains(r.stdout, "\x1b[") {
		t.Error("colours without a terminal")
	}
}

// A page that is not there makes --check fail, and the pod is removed all the same.
func TestCheckFailsWhereThePageIsMissing(t *testing.T) {
	m := newMachine(t)
	file, url := hello(t, m)
	r := m.berth("run", file, "--check", url+"nothing-here")
	if r.code != 1 || !strings.Contains(r.stderr, "404") {
		t.Errorf("exit code %d:\n%s", r.code, r.stderr)
	}
}

// Ctrl-C: the containers are asked to end and get to say their last words.
func TestInterruptEndsThePodInItsGracePeriod(t *testing.T) {
	m := newMachine(t)
	file, _ := hello(t, m)
	c := m.begin("run", file)
	c.says("pod hello is ready")
	c.says("reader | /www/index.html:")
	c.signal(syscall.SIGINT)
	r := c.wait()
	if r.code != 0 {
		t.Errorf("exit code %d", r.code)
	}
	for _, want := range []string{"web    | asked to end: good-bye", "reader | asked to end: good-bye"} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("standard output lacks %q:\n%s", want, r.stdout)
		}
	}
	if !strings.Contains(r.stderr, "pod hello is gone") {
		t.Errorf("standard error:\n%s", r.stderr)
	}
}

// A second Ctrl-C does not wait for a container that does not care.
func TestSecondInterruptEndsThePodAtOnce(t *testing.T) {
	m := newMachine(t)
	file := m.file("deaf.yaml", pod("deaf", "terminationGracePeriodSeconds: 600", deaf("app")))
	c := m.begin("run", file)
	c.says("app | deaf")
	c.signal(syscall.SIGINT)
	c.says("Ctrl-C again")
	c.signal(syscall.SIGINT)
	if r := c.wait(); !strings.Contains(r.stderr, "pod deaf is gone") {
		t.Errorf("exit code %d, standard error:\n%s", r.code, r.stderr)
	}
}

// The same pod behind the user's back: every verb that looks at it.
func TestDetachedPodAndTheVerbsForIt(t *testing.T) {
	m := newMachine(t)
	file, url := hello(t, m)
	m.must("run", "--detach", file)
	m.eventually("the page is served", func() bool {
		resp, err := http.Get(url)
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		return err == nil && strings.Contains(string(b), "Hello from hello")
	})
	t.Run("ps", func(t *testing.T) {
		p := m.pod("hello")
		if len(p.Status.ContainerStatuses) != 2 || p.Status.PodIP == "" || p.Status.Phase != "Running" {
			t.Errorf("status: %+v", p.Status)
		}
		if out := m.must("ps").stdout; !strings.Contains(out, "hello") || !strings.Contains(out, "running") || !strings.Contains(out, "→80") {
			t.Errorf("berth ps:\n%s", out)
		}
		if out := m.must("ps", "-o", "wide").stdout; !strings.Contains(out, "berth.local/demo:latest") {
			t.Errorf("berth ps -o wide:\n%s", out)
		}
	})
	t.Run("logs", func(t *testing.T) {
		if out := m.must("logs", "hello").stdout; !strings.Contains(out, "page   | wrote") || !strings.Contains(out, "web    | serving") {
			t.Errorf("berth logs:\n%s", out)
		}
		if out := m.must("logs", "hello", "-c", "web", "--tail", "1").stdout; strings.Count(out, "\n") != 1 || strings.Contains(out, "|") {
			t.Errorf("berth logs -c web --tail 1:\n%s", out)
		}
		c := m.begin("logs", "-f", "hello", "-c", "web")
		c.says("serving")
		if resp, err := http.Get(url + "?marker"); err == nil {
			resp.Body.Close()
		}
		c.says("GET /")
		c.signal(syscall.SIGINT)
		if r := c.wait(); r.code != 0 {
			t.Errorf("berth logs -f after Ctrl-C: exit code %d\n%s", r.code, r.stderr)
		}
	})
	t.Run("exec", func(t *testing.T) {
		r := m.must("exec", "hello", "-c", "web", "--", "/berth", "demo", "show", "--file", "/www/index.html")
		if !strings.Contains(r.stdout, "Hello from hello") {
			t.Errorf("standard output:\n%s", r.stdout)
		}
		r = m.berth("exec", "hello", "--", "/berth", "demo", "show", "--stderr", "to the other side", "--exit", "42")
		if r.code != 42 || !strings.Contains(r.stderr, "to the other side") || strings.Contains(r.stdout, "to the other side") {
			t.Errorf("exit code %d\nstdout:\n%s\nstderr:\n%s", r.code, r.stdout, r.stderr)
		}
		r = m.berth("exec", "hello", "--", "no-such-program")
		if r.code == 0 || !strings.Contains(r.stderr, "no-such-program") {
			t.Errorf("exit code %d: %s", r.code, r.stderr)
		}
	})
	t.Run("fsck", func(t *testing.T) {
		out := m.must("fsck").stdout
		for _, want := range []string{"hello", "cgroup", "netns", "shim"} {
			if !strings.Contains(out, want) {
				t.Errorf("berth fsck lacks %q:\n%s", want, out)
			}
		}
	})
	t.Run("errors", func(t *testing.T) {
		if r := m.berth("logs", "nobody"); r.code != 1 || !strings.Contains(r.stderr, "there is no pod nobody: there is hello") {
			t.Errorf("exit code %d: %s", r.code, r.stderr)
		}
		if r := m.berth("logs", "hello", "-c", "nobody"); r.code != 1 || !strings.Contains(r.stderr, "it has page, web, reader") {
			t.Errorf("exit code %d: %s", r.code, r.stderr)
		}
	})
	if out := m.must("rm", "hello").stdout; !strings.Contains(out, "pod hello removed") {
		t.Errorf("berth rm: %s", out)
	}
	m.must("image", "rm", "berth.local/demo:latest")
}

// --trace shows the start's steps, those inside the shim too.
func TestTraceShowsWhereTheTimeWent(t *testing.T) {
	m := newMachine(t)
	file := m.file("once.yaml", pod("once", "restartPolicy: Never", container("app", "demo", "show", "--wait", "1s")))
	r := m.must("run", "--trace", file)
	for _, want := range []string{"where the start of pod once went", "kubelet.sandbox", "kubelet.start app", "shim.create", "engine.execute"} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("no %q in:\n%s", want, r.stdout)
		}
	}
}
