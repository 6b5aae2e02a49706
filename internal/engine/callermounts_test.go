package engine

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// sharedOptions is a container in this process's mount namespace; with path it is joined, else just not listed.
func sharedOptions(t *testing.T, path string, args ...string) CreateOptions {
	t.Helper()
	o := options(t, args...)
	o.Spec.Linux.Namespaces = slices.DeleteFunc(o.Spec.Linux.Namespaces, func(ns specs.LinuxNamespace) bool {
		return ns.Type == specs.MountNamespace
	})
	if path != "" {
		o.Spec.Linux.Namespaces = append(o.Spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.MountNamespace, Path: path})
	}
	return o
}

// A container without a mount namespace is in its creator's, with all its mounts, and nothing of it is mounted there.
func TestCallersMountNamespace(t *testing.T) {
	own, err := os.Readlink(callerMountsFile)
	if err != nil {
		t.Skip(err)
	}
	for name, path := range map[string]string{"not listed": "", "joined": "/proc/self/ns/mnt"} {
		t.Run(name, func(t *testing.T) {
			o := sharedOptions(t, path, "sh", "-c", `readlink /proc/self/ns/mnt; echo $$; cat /dev/null /vol/file; echo x > /tmp/x
				touch /refused 2>/dev/null || echo read-only; wc -c < /proc/timer_list; cat /tmp/x; sleep 1000`)
			vol := t.TempDir()
			os.WriteFile(filepath.Join(vol, "file"), []byte("bound\n"), 0o644)
			o.Spec.Root.Readonly = true
			o.Spec.Mounts = append(o.Spec.Mounts,
				specs.Mount{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs"},
				specs.Mount{Destination: "/vol", Type: "bind", Source: vol, Options: []string{"rbind", "ro"}})
			os.Mkdir(filepath.Join(o.Spec.Root.Path, "vol"), 0o755)
			c, r := begin(t, o)
			want := own + "\n1\nbound\nread-only\n0\nx\n"
			var out bytes.Buffer
			r.SetReadDeadline(time.Now().Add(2 * time.Minute))
			for buf := make([]byte, 4096); out.Len() < len(want); {
				n, err := r.Read(buf)
				out.Write(buf[:n])
				if err != nil {
					break
				}
			}
			if out.String() != want {
				t.Errorf("output %q, want %q", out.String(), want)
			}
			if m := mountTable(t); m != "" {
				t.Errorf("it is mounted in its creator's mount namespace: %q", m)
			}
			if got := execOutput(t, c, "sh", "-c", "readlink /proc/self/ns/mnt; cat /tmp/x; ls /vol; pwd"); got != own+"\nx\nfile\n/\n" {
				t.Errorf("exec: %q", got)
			}
		})
	}
}

func execOutput(t *testing.T, c *Container, args ...string) string {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	p := *DefaultSpec().Process
	p.Args = args
	x, err := c.Exec(context.Background(), ExecOptions{ID: "x", Process: &p, Stdio: Stdio{Out: w, Err: w}})
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	out, _ := finish(t, x, r)
	return out
}

func TestCallersMountNamespaceTerminalAndOverlay(t *testing.T) {
	o := sharedOptions(t, "", "sh", "-c", "tty; test -c /dev/console && echo console; echo new > /etc/new; stty size")
	upper, work := t.TempDir(), t.TempDir()
	o.Rootfs = []Mount{{Type: "overlay", Source: "overlay", Options: []string{
		"lowerdir=" + o.Spec.Root.Path, "upperdir=" + upper, "workdir=" + work,
	}}}
	o.Spec.Process.Terminal = true
	o.Spec.Process.ConsoleSize = &specs.Box{Height: 20, Width: 70}
	c := newContainer(t, o)
	if err := c.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	if m := mountTable(t); m != "" {
		t.Errorf("mounted on the host: %q", m)
	}
	out, _ := finish(t, c.Init(), c.Init().Console())
	if want := "/dev/pts/0\r\nconsole\r\n20 70\r\n"; out != want {
		t.Errorf("output %q, want %q", out, want)
	}
	if b, err := os.ReadFile(filepath.Join(upper, "etc/new")); string(b) != "new\n" {
		t.Errorf("upper layer: %q, %v", b, err)
	}
}

func TestCallersMountNamespaceRefusals(t *testing.T) {
	o := sharedOptions(t, "", "true")
	o.Spec.Mounts = append(o.Spec.Mounts, specs.Mount{Destination: "/tmp", Type: "tmpfs", Options: []string{"unbindable"}})
	if _, err := Create(context.Background(), o); err == nil || !strings.Contains(err.Error(), "unbindable") {
		t.Errorf("an unbindable mount: %v", err)
	}
	o = sharedOptions(t, "", "true")
	o.Spec.Linux.Namespaces = append(o.Spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	o.Spec.Linux.UIDMappings, o.Spec.Linux.GIDMappings = podMaps(), podMaps()
	if _, err := Create(context.Background(), o); err == nil || !strings.Contains(err.Error(), "user namespace without a mount namespace") {
		t.Errorf("a user namespace: %v", err)
	}
}

// exec in a container that did not pivot has its root, where hooks had it attached elsewhere too.
func TestExecWithoutPivot(t *testing.T) {
	dir := t.TempDir()
	o := hookOptions(t, dir, "sleep", "1000")
	o.NoPivot = true
	o.Spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{hook(dir, "createRuntime", "")}}
	c := newContainer(t, o)
	if err := c.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got := execOutput(t, c, "sh", "-c", "test -d /usr && echo the host; ls -d /bin"); got != "/bin\n" {
		t.Errorf("exec sees %q", got)
	}
}
