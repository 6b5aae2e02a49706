package machine_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/11f9778f/berth/internal/runtime"
)

// built finds what a make target makes, in the repository's root.
func built(t testing.TB, target, path string) string {
	t.Helper()
	full, err := filepath.Abs(filepath.Join("../../..", path))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(full); err != nil {
		t.Skipf("needs %s (make %s)", path, target)
	}
	return full
}

// foreignPlace is a place with a handler "other": containerd's runc shim over an OCI runtime.
func foreignPlace(t testing.TB, oci string) place {
	shim := built(t, "containerd", ".cache/containerd/bin/containerd-shim-runc-v2")
	p := newPlace(t)
	p.Foreign, p.Options = shim, map[string]any{"BinaryName": oci}
	return p
}

// gvisorPlace is one with gVisor's shim.
func gvisorPlace(t testing.TB) place {
	if os.Getenv("BERTH_TEST_GVISOR") == "" {
		t.Skip("gVisor's part is make test-gvisor's")
	}
	runsc, shim := built(t, "gvisor", ".cache/gvisor/bin/runsc"), built(t, "gvisor", ".cache/gvisor/bin/containerd-shim-runsc-v1")
	p := newPlace(t)
	file := filepath.Join(p.Dir, "runsc.toml")
	config := fmt.Sprintf("binary_name = %q\nroot = %q\n", runsc, filepath.Join(p.Dir, "runsc"))
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Unmount(filepath.Join(p.Dir, "runsc/k8s.io/null-netns"), syscall.MNT_DETACH) }) // runsc keeps it
	p.Foreign, p.Options = shim, map[string]any{"TypeUrl": "io.containerd.runsc.v1.options", "ConfigPath": file}
	return p
}

func (p place) foreignPod(name string) runtime.SandboxSpec {
	s := p.pod(name, false)
	s.Handler = "other"
	s.Annotations = map[string]string{"dev.example/a": "passed on", "other.example/b": "not"}
	return s
}

// foreignPlaces are those with the shims that the machine has.
func foreignPlaces(t *testing.T, each func(t *testing.T, p place)) {
	t.Run("berth-oci", func(t *testing.T) { each(t, foreignPlace(t, built(t, "build", "bin/berth-oci"))) })
	t.Run("runc", func(t *testing.T) {
		path, err := exec.LookPath("runc")
		if err != nil {
			t.Skip("needs runc in PATH (Debian's package runc)")
		}
		each(t, foreignPlace(t, path))
	})
	t.Run("gvisor", func(t *testing.T) { each(t, gvisorPlace(t)) })
}

// What Berth's own shim does for a pod, containerd's runc shim does too.
func TestForeignShim(t *testing.T) {
	foreignPlaces(t, func(t *testing.T, p place) {
		d := p.open(t)
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		sb, err := d.rt.RunSandbox(ctx, p.foreignPod("web"))
		if err != nil {
			t.Fatal(err)
		}
		defer d.rt.RemoveSandbox(context.Background(), sb)
		spec := shell("main", "trap 'echo bye; exit 3' TERM; while read x; do echo got $x; done; echo eof; while :; do sleep 0.1; done")
		spec.Stdin, spec.StdinOnce = true, true
		spec.Security.Seccomp = runtime.SeccompUnconfined
		c, err := d.start(ctx, sb, spec)
		if err != nil {
			t.Fatal(err)
		}
		d.checkInside(t, p, sb, c, false)
		t.Run("annotations", func(t *testing.T) { d.checkPassedOn(t, p, sb, c) })
		t.Run("exec", func(t *testing.T) { d.checkExec(t, ctx, c) })
		t.Run("exec sync", func(t *testing.T) { d.checkExecSync(t, ctx, c) })
		t.Run("attach", func(t *testing.T) { d.checkAttach(t, ctx, c) })
		t.Run("log rotation", func(t *testing.T) { d.checkRotation(t, ctx, p, sb) })
		t.Run("terminal", func(t *testing.T) { d.checkTerminal(t, ctx, sb) })
		if p.Options["ConfigPath"] == nil { // gVisor's loopback and containers are its own kernel's
			t.Run("port forward", func(t *testing.T) { d.checkPortForward(t, ctx, sb, c) })
			if st, err := d.rt.ContainerStats(ctx, c); err != nil || st.Cgroup.MemoryUsage == 0 {
				t.Errorf("stats %+v, %v", st, err)
			}
		}
		if st, err := d.rt.SandboxStats(ctx, sb); err != nil || st.Cgroup.MemoryUsage == 0 {
			t.Errorf("stats of the pod %+v, %v", st, err)
		}
		if err := d.rt.StopContainer(ctx, c, 20*time.Second); err != nil {
			t.Fatal(err)
		}
		if st, _ := d.rt.Container(c); st.State != runtime.ContainerExited || st.ExitCode != 3 {
			t.Errorf("after the stop: %+v", st)
		}
		if b, _ := os.ReadFile(filepath.Join(p.logs(), "web/main/0.log")); !bytes.HasSuffix(b, []byte(" stdout F bye\n")) {
			t.Errorf("log: %s", b)
		}
		if err := d.rt.RemoveSandbox(ctx, sb); err != nil {
			t.Fatal(err)
		}
		d.checkEmpty(t)
	})
}

// checkPassedOn reads the specs that the shim got.
func (d *daemon) checkPassedOn(t *testing.T, p place, sb, c string) {
	for id, kind := range map[string]string{sb: "sandbox", c: "container"} {
		b, err := os.ReadFile(filepath.Join(p.run(), "bundles", id, "config.json"))
		if err != nil {
			t.Fatal(err)
		}
		var s struct{ Annotations map[string]string }
		if err := json.Unmarshal(b, &s); err != nil {
			t.Fatal(err)
		}
		a := s.Annotations
		if a["io.kubernetes.cri.container-type"] != kind || a["io.kubernetes.cri.sandbox-id"] != sb || a["dev.example/a"] != "passed on" || a["other.example/b"] != "" {
			t.Errorf("%s: %v", kind, a)
		}
	}
}

func (d *daemon) checkTerminal(t *testing.T, ctx context.Context, sb string) {
	spec := shell("tty", "until test \"$(busybox stty size 2>/dev/null)\" = '31 91'; do sleep 0.05; done; echo fits; read x; echo got $x")
	spec.TTY, spec.Stdin = true, true
	c, err := d.start(ctx, sb, spec)
	if err != nil {
		t.Fatal(err)
	}
	in, give := newPipe()
	sizes := make(chan runtime.TerminalSize, 1)
	sizes <- runtime.TerminalSize{Width: 91, Height: 31}
	var out buffer
	done := make(chan error, 1)
	go func() { done <- d.rt.Attach(ctx, c, runtime.Streams{In: in, Out: &out, TTY: true, Resize: sizes}) }()
	st, _ := d.rt.Container(c)
	eventually(t, "the size has come", func() bool { b, _ := os.ReadFile(st.LogPath); return strings.Contains(string(b), "fits") })
	give("x\n")
	if err := <-done; err != nil {
		t.Error(err)
	}
	if !strings.Contains(out.String(), "got x\r\n") {
		t.Errorf("%q", out.String())
	}
	if b, _ := os.ReadFile(st.LogPath); !strings.Contains(string(b), "stdout F got x") {
		t.Errorf("log: %s", b)
	}
}

// The daemon is away: containers of a foreign shim write more than a pipe holds, and end, and the next daemon knows all.
func TestForeignShimOutlivesTheDaemon(t *testing.T) {
	p := foreignPlace(t, built(t, "build", "bin/berth-oci"))
	d, err := openDaemon(context.Background(), p, logger(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	sb, err := d.rt.RunSandbox(ctx, p.foreignPod("keep"))
	if err != nil {
		t.Fatal(err)
	}
	go1 := filepath.Join(p.Dir, "go")
	mount := runtime.Mount{HostPath: p.Dir, ContainerPath: "/tmp", ReadOnly: true}
	script := func(code int) string {
		return fmt.Sprintf("while ! [ -e /tmp/go ]; do sleep 0.05; done; i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done; exit %d", code)
	}
	ids := map[string]int{}
	for name, code := range map[string]int{"a": 0, "b": 7} {
		spec := shell(name, script(code))
		spec.Mounts = []runtime.Mount{mount}
		id, err := d.start(ctx, sb, spec)
		if err != nil {
			t.Fatal(err)
		}
		ids[id] = code
	}
	lives, err := d.start(ctx, sb, shell("lives", "sleep 1000"))
	if err != nil {
		t.Fatal(err)
	}
	before, _ := d.rt.Container(lives)
	var logs []string
	for id := range ids {
		st, _ := d.rt.Container(id)
		logs = append(logs, st.LogPath)
	}
	d.close()
	if err := os.WriteFile(go1, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	// Nobody but the shims is there, and the output is written all the same.
	for _, l := range logs {
		eventually(t, "all of "+l+" is written", func() bool { b, _ := os.ReadFile(l); return bytes.Count(b, []byte("\n")) == 20000 })
	}
	d = p.open(t)
	for id, code := range ids {
		eventually(t, "the end is known", func() bool { st, _ := d.rt.Container(id); return st.State == runtime.ContainerExited })
		if st, _ := d.rt.Container(id); st.ExitCode != code || st.Reason == "ContainerStatusUnknown" {
			t.Errorf("ended with %d: %+v", code, st)
		}
	}
	if after, _ := d.rt.Container(lives); after.State != runtime.ContainerRunning || after.Pid != before.Pid {
		t.Errorf("%+v, was %+v", after, before)
	}
	if got := d.exec(t, lives, "echo still here"); got != "still here" {
		t.Error(got)
	}
	if err := d.rt.RemoveSandbox(ctx, sb); err != nil {
		t.Fatal(err)
	}
	d.checkEmpty(t)
}

// A foreign shim that is killed has no successor: its pod ends, and nothing is left of it.
func TestForeignShimDies(t *testing.T) {
	p := foreignPlace(t, built(t, "build", "bin/berth-oci"))
	d := p.open(t)
	ctx := context.Background()
	sb, err := d.rt.RunSandbox(ctx, p.foreignPod("dies"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := d.start(ctx, sb, shell("main", "sleep 1000"))
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range d.shims.Inventory().Groups {
		if g.Handler == "other" {
			syscall.Kill(g.Pid, syscall.SIGKILL)
		}
	}
	eventually(t, "the container has ended", func() bool { st, _ := d.rt.Container(c); return st.State == runtime.ContainerExited })
	if st, _ := d.rt.Container(c); st.Reason != "ContainerStatusUnknown" {
		t.Errorf("%+v", st)
	}
	if err := d.rt.RemoveSandbox(ctx, sb); err != nil {
		t.Fatal(err)
	}
	eventually(t, "nothing is owed", func() bool {
		rep, err := d.rt.Fsck(ctx, false)
		return err == nil && rep.Clean() && len(rep.Owned)+len(rep.Pending) == 0
	})
	d.checkEmpty(t)
}

// newPipe is an input that stays open.
func newPipe() (in net.Conn, give func(string)) {
	ours, theirs := net.Pipe()
	return theirs, func(s string) { ours.Write([]byte(s)) }
}
