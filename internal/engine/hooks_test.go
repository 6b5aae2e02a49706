package engine

//lint:file-ignore SA1019 prestart hooks are deprecated, and still what many use

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// hook writes its name, its namespaces and its state into a directory that is the same on both sides.
func hook(dir, name, more string) specs.Hook {
	return specs.Hook{Path: "/bin/sh", Args: []string{"sh", "-c", fmt.Sprintf(
		"{ printf '%%s ' %s $PWD $(readlink /proc/self/ns/mnt) $X; cat; echo; } >> %s/log; %s", name, dir, more)}, Env: []string{"PATH=/bin:/usr/bin", "X=x"}}
}

type hookLine struct {
	name, mnt string
	state     specs.State
}

func readHooks(t *testing.T, dir string) (lines []hookLine) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		f := strings.SplitN(line, " ", 5)
		if len(f) != 5 || f[3] != "x" {
			t.Fatalf("hook wrote %q", line)
		}
		l := hookLine{name: f[0], mnt: f[2]}
		if err := json.Unmarshal([]byte(f[4]), &l.state); err != nil {
			t.Fatalf("%s: %v", f[4], err)
		}
		lines = append(lines, l)
	}
	return lines
}

// hookOptions is a container whose hooks write into dir, which is mounted at the same path inside.
func hookOptions(t *testing.T, dir string, args ...string) CreateOptions {
	o := options(t, args...)
	o.Spec.Mounts = append(o.Spec.Mounts, specs.Mount{Destination: dir, Source: dir, Options: []string{"bind"}})
	o.Spec.Annotations = map[string]string{"a": "b"}
	h := func(name string) []specs.Hook { return []specs.Hook{hook(dir, name, "true")} }
	o.Spec.Hooks = &specs.Hooks{
		//lint:ignore SA1019 Docker uses it
		Prestart: h("prestart"), CreateRuntime: append(h("createRuntime"), h("createRuntime2")...), CreateContainer: h("createContainer"),
		StartContainer: h("startContainer"), Poststart: h("poststart"), Poststop: h("poststop"),
	}
	return o
}

func TestHooks(t *testing.T) {
	dir := t.TempDir()
	o := hookOptions(t, dir, "sh", "-c", "echo program >> "+dir+"/order; sleep 100")
	root := o.Spec.Root.Path
	o.Spec.Hooks.CreateContainer[0].Args[2] += "; test -e " + root + "/proc/self/status && echo mounted >> " + dir + "/order"
	c := newContainer(t, o)
	pid := c.Pid()
	if got := len(readHooks(t, dir)); got != 4 {
		t.Errorf("%d hooks ran before start, want 4", got)
	}
	if err := c.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := c.Delete(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	host, _ := os.Readlink("/proc/self/ns/mnt")
	lines := readHooks(t, dir)
	want := []struct {
		name   string
		inside bool
		status specs.ContainerState
		pid    int
	}{
		{"prestart", false, "creating", pid}, {"createRuntime", false, "creating", pid}, {"createRuntime2", false, "creating", pid},
		{"createContainer", true, "creating", 1}, {"startContainer", true, "created", 1}, {"poststart", false, "running", pid},
		{"poststop", false, "stopped", 0},
	}
	if len(lines) != len(want) {
		t.Fatalf("hooks ran: %+v", lines)
	}
	for n, w := range want {
		l := lines[n]
		if l.name != w.name || (l.mnt != host) != w.inside || l.state.Status != w.status || l.state.Pid != w.pid ||
			l.state.ID != o.ID || l.state.Bundle != o.Bundle || l.state.Annotations["a"] != "b" || l.state.Version != specs.Version {
			t.Errorf("hook %d: %+v, want %+v (host's mount namespace %s)", n, l, w, host)
		}
	}
	if b, _ := os.ReadFile(filepath.Join(dir, "order")); !strings.HasPrefix(string(b), "mounted\nprogram\n") {
		t.Errorf("order: %s", b)
	}
}

func TestFailingHooks(t *testing.T) {
	ctx := context.Background()
	for _, name := range []string{"prestart", "createRuntime", "createContainer"} {
		dir := t.TempDir()
		o := hookOptions(t, dir, "sh", "-c", "echo program >> "+dir+"/order")
		bad := []specs.Hook{hook(dir, "bad", "echo why not; exit 3")}
		switch name {
		case "prestart":
			//lint:ignore SA1019 Docker uses it
			o.Spec.Hooks.Prestart = bad
		case "createRuntime":
			o.Spec.Hooks.CreateRuntime = bad
		case "createContainer":
			o.Spec.Hooks.CreateContainer = bad
		}
		_, err := Create(ctx, o)
		if err == nil || !strings.Contains(err.Error(), "hooks."+name+"[0] /bin/sh: exit code 3; it said: why not") {
			t.Errorf("%s: %v", name, err)
		}
		lines := readHooks(t, dir)
		if last := lines[len(lines)-1]; last.name != "poststop" || lines[len(lines)-2].name != "bad" {
			t.Errorf("%s: hooks ran: %+v", name, lines)
		}
	}
	for _, name := range []string{"startContainer", "poststart"} {
		dir := t.TempDir()
		o := hookOptions(t, dir, "sleep", "100")
		bad := []specs.Hook{{Path: "/bin/nonsense"}}
		if name == "poststart" {
			o.Spec.Hooks.Poststart = bad
		} else {
			o.Spec.Hooks.StartContainer = bad
		}
		c := newContainer(t, o)
		if err := c.Start(ctx); err == nil || !strings.Contains(err.Error(), "hooks."+name+"[0] /bin/nonsense") {
			t.Errorf("%s: %v", name, err)
		}
		if _, st := finish(t, c.Init(), strings.NewReader("")); st.Signal != 9 && st.Code != 127 {
			t.Errorf("%s: the container did not end: %+v", name, st)
		}
	}
}

func TestHookTimeoutAndPoststopFailure(t *testing.T) {
	dir, one := t.TempDir(), 1
	for _, inside := range []bool{false, true} {
		o := options(t, "true")
		slow := []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "sleep 1000 & sleep 1000"}, Env: []string{"PATH=/bin:/usr/bin"}, Timeout: &one}}
		o.Spec.Hooks = &specs.Hooks{CreateRuntime: slow}
		if inside {
			o.Spec.Hooks = &specs.Hooks{CreateContainer: slow}
		}
		if _, err := Create(context.Background(), o); err == nil || !strings.Contains(err.Error(), "did not end in time") {
			t.Errorf("inside %v: %v", inside, err)
		}
	}
	var text bytes.Buffer
	o := options(t, "true")
	o.Log = slog.New(slog.NewTextHandler(&text, nil))
	o.Spec.Hooks = &specs.Hooks{Poststop: []specs.Hook{{Path: "/bin/false"}, hook(dir, "second", "true")}}
	c := newContainer(t, o)
	if err := c.Delete(context.Background()); err != nil {
		t.Fatal(err)
	}
	if len(readHooks(t, dir)) != 1 || !strings.Contains(text.String(), "hooks.poststop[0] /bin/false: exit code 1") {
		t.Errorf("log: %s", text.String())
	}
	bad := options(t, "true")
	zero := 0
	for _, h := range []specs.Hook{{Path: "relative"}, {Path: "/x", Timeout: &zero}} {
		bad.Spec.Hooks = &specs.Hooks{Poststart: []specs.Hook{h}}
		if _, err := Create(context.Background(), bad); err == nil || !strings.Contains(err.Error(), "hooks.poststart[0]") {
			t.Errorf("%+v: %v", h, err)
		}
	}
}

func TestHooksInAUserNamespace(t *testing.T) {
	dir := t.TempDir()
	o := userOptions(t, "true")
	o.Spec.Hooks = &specs.Hooks{CreateContainer: []specs.Hook{hook("/tmp", "inside", "cat /proc/self/uid_map > /dev/null")}}
	o.Spec.Hooks.CreateContainer[0].Args[2] = "grep -q 200000 /proc/self/uid_map"
	o.Spec.Hooks.StartContainer = []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "test $(id -u) = 0 && touch /tmp/mine"}, Env: []string{"PATH=/bin"}}}
	_ = dir
	out, st := run(t, o)
	if st.Code != 0 {
		t.Errorf("output %q, status %+v", out, st)
	}
}
