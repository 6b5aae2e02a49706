package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/11f9778f/berth/internal/engine/cgroup"
)

// needRoot skips a test where containers can't be made.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: namespaces, mounts and cgroups")
	}
	if _, err := os.Stat("/usr/bin/busybox"); err != nil {
		t.Skip("needs Debian's busybox-static: " + err.Error())
	}
}

var applets = []string{"sh", "cat", "ls", "echo", "id", "mount", "hostname", "sleep", "true", "stat", "touch", "ps", "readlink", "kill", "mknod", "tty", "grep", "test", "pwd", "mkdir", "dd", "wc", "stty"}

// rootfs is a small root filesystem: busybox with links for its applets.
func rootfs(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{"bin", "etc", "proc", "sys", "dev", "tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile("/usr/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "bin/busybox"), b, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, a := range applets {
		if err := os.Symlink("busybox", filepath.Join(dir, "bin", a)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

var serial int

// blank is that of most tests' containers, as a shim has one for all of its; berth-oci has none.
var blank BlankMounts

// options is a container that runs args in a fresh root filesystem.
func options(t testing.TB, args ...string) CreateOptions {
	t.Helper()
	needRoot(t)
	if err := blank.Prepare(); err != nil {
		t.Fatal(err)
	}
	serial++
	s := DefaultSpec()
	s.Root.Path = rootfs(t)
	s.Process.Args = args
	id := fmt.Sprintf("engine-test-%d-%d", os.Getpid(), serial)
	s.Linux.CgroupsPath = cgroupParent() + "/" + id
	return CreateOptions{ID: id, Bundle: t.TempDir(), Spec: s, Blank: &blank}
}

func newContainer(t testing.TB, o CreateOptions) *Container {
	t.Helper()
	c, err := Create(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Delete(context.Background()); err != nil {
			t.Error(err)
		}
		if c.group.Exists() {
			t.Errorf("cgroup %s is left", c.group.Path())
		}
		if parent, err := cgroup.Load(filepath.Dir(c.group.Path())); err == nil {
			parent.Delete(context.Background()) // empty after the last test
		}
	})
	return c
}

// begin starts a container whose output r reads.
func begin(t testing.TB, o CreateOptions) (c *Container, r *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	o.Stdio.Out, o.Stdio.Err = w, w
	c = newContainer(t, o)
	w.Close()
	if err := c.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	return c, r
}

// run runs a container to its end and returns its output.
func run(t testing.TB, o CreateOptions) (string, ExitStatus) {
	t.Helper()
	c, r := begin(t, o)
	return finish(t, c.Init(), r)
}

func finish(t testing.TB, p *Process, r io.Reader) (string, ExitStatus) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	st, err := p.Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(r)
	if err != nil && !errors.Is(err, unix.EIO) { // a terminal's way to say end of file
		t.Fatal(err)
	}
	return string(out), st
}

// check runs a script and compares its output.
func check(t *testing.T, o CreateOptions, want string) {
	t.Helper()
	out, st := run(t, o)
	if strings.TrimSpace(out) != want || st.Code != 0 {
		t.Errorf("output %q, exit code %d; want %q", out, st.Code, want)
	}
}
