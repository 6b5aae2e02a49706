package engine

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestTmpCopyUp(t *testing.T) {
	o := options(t, "sh", "-c", "cat /srv/deep/file; readlink /srv/link; stat -c '%a %u:%g' /srv/deep; echo new > /srv/deep/file; touch /var/x 2>/dev/null || echo read-only; cat /var/file")
	root := o.Spec.Root.Path
	for _, d := range []string{"srv/deep", "var"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{"srv/deep/file", "var/file"} {
		if err := os.WriteFile(filepath.Join(root, f), []byte("old\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(root, "srv/link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(filepath.Join(root, "srv/deep"), 7, 8); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(root, "srv/deep"), 0o750); err != nil {
		t.Fatal(err)
	}
	o.Spec.Mounts = append(o.Spec.Mounts,
		specs.Mount{Destination: "/srv", Type: "tmpfs", Source: "tmpfs", Options: []string{"tmpcopyup"}},
		specs.Mount{Destination: "/var", Type: "tmpfs", Source: "tmpfs", Options: []string{"tmpcopyup", "ro"}})
	check(t, o, "old\n/etc/passwd\n750 7:8\nread-only\nold")
	if b, err := os.ReadFile(filepath.Join(root, "srv/deep/file")); err != nil || string(b) != "old\n" {
		t.Errorf("the image has changed: %q, %v", b, err)
	}
}

func TestRemount(t *testing.T) {
	o := options(t, "sh", "-c", `
		touch /x 2>/dev/null || echo root read-only; touch /data/x 2>/dev/null || echo data read-only
		mount | grep ' /dev ' | grep -c 'size=32k'; grep ' /data ' /proc/self/mounts | grep -c nosuid; sh /data/s 2>/dev/null; /data/s 2>/dev/null || echo noexec`)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "s"), []byte("#!/bin/sh\necho ran\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	o.Spec.Mounts = append(o.Spec.Mounts,
		specs.Mount{Destination: "/data", Source: dir, Options: []string{"bind", "nosuid"}},
		specs.Mount{Destination: "/data", Options: []string{"remount", "bind", "ro", "noexec"}},
		specs.Mount{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"remount", "size=32k"}},
		specs.Mount{Destination: "/", Options: []string{"remount", "bind", "ro"}})
	check(t, o, "root read-only\ndata read-only\n1\n1\nran\nnoexec")
}

func TestStackedRootfs(t *testing.T) {
	o := options(t, "sh", "-c", "cat /srv/file; touch /srv/x 2>/dev/null || echo read-only; touch /top; ls /hidden 2>/dev/null || echo hidden")
	base := o.Spec.Root.Path
	for _, d := range []string{"srv"} {
		os.Mkdir(filepath.Join(base, d), 0o755)
	}
	below, data := t.TempDir(), t.TempDir()
	os.WriteFile(filepath.Join(below, "hidden"), nil, 0o644)
	os.WriteFile(filepath.Join(data, "file"), []byte("data\n"), 0o644)
	o.Rootfs = []Mount{
		{Type: "bind", Source: below, Options: []string{"rbind"}},
		{Type: "bind", Source: base, Options: []string{"rbind"}},
		{Type: "bind", Source: data, Options: []string{"rbind", "ro"}, Target: "/srv"},
	}
	before := mountTable(t)
	check(t, o, "data\nread-only\nhidden")
	if mountTable(t) != before {
		t.Error("mounts on the host changed")
	}
	o.Rootfs[2].Target = "/srv/missing"
	o.ID += "b"
	if _, err := Create(context.Background(), o); err == nil || !strings.Contains(err.Error(), "mount 2: target /srv/missing") {
		t.Errorf("got %v", err)
	}
}

// hostMount is a tmpfs of the host's with a submount, in a mount namespace that the test's thread has for itself.
func TestRecursiveAttributesAndPropagation(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(unix.Mount("tmpfs", dir, "tmpfs", 0, ""))
	defer unix.Unmount(dir, unix.MNT_DETACH)
	must(unix.Mount("", dir, "", unix.MS_SHARED, ""))
	sub, later := filepath.Join(dir, "sub"), filepath.Join(dir, "later")
	must(os.Mkdir(sub, 0o777))
	must(os.Mkdir(later, 0o777))
	must(unix.Mount("tmpfs", sub, "tmpfs", 0, ""))
	o := options(t, "sh", "-c", `
		for d in plain deep; do touch /$d/x 2>/dev/null && echo $d top; touch /$d/sub/x 2>/dev/null && echo $d sub; done
		grep -E ' /(slave|shared|private) ' /proc/self/mountinfo | grep -oE ' /(slave|shared|private) |shared:|master:' | tr -d ' \n' | tr -d '0-9'
		while test ! -e /slave/later/here; do sleep 0.1; done; test -e /private/later/here || echo seen`)
	must(os.Symlink("busybox", filepath.Join(o.Spec.Root.Path, "bin/tr")))
	bind := func(to string, options ...string) {
		o.Spec.Mounts = append(o.Spec.Mounts, specs.Mount{Destination: to, Source: dir, Options: append([]string{"rbind"}, options...)})
	}
	bind("/plain", "ro")
	bind("/deep", "rro", "rnosuid", "rnodev", "rnoexec", "rrelatime")
	bind("/slave", "rslave")
	bind("/shared", "rshared")
	bind("/private", "rprivate")
	r, w, err := os.Pipe()
	must(err)
	defer r.Close()
	o.Stdio.Out = w
	c := started(t, o)
	w.Close()
	must(unix.Mount("tmpfs", later, "tmpfs", 0, ""))
	must(os.WriteFile(filepath.Join(later, "here"), nil, 0o644))
	out, _ := finish(t, c.Init(), r)
	if out != "plain sub\n/slavemaster:/sharedshared:/privateseen\n" {
		t.Errorf("output %q", out)
	}
}

func TestRootfsPropagation(t *testing.T) {
	for kind, want := range map[string]string{"private": "", "shared": "shared:", "slave": "", "unbindable": "unbindable", "rslave": "", "": ""} {
		o := options(t, "sh", "-c", "grep ' / / ' /proc/self/mountinfo | grep -oE 'shared:|master:|unbindable' || grep -E '^[0-9]+ [0-9]+ [^ ]+ [^ ]+ / ' /proc/self/mountinfo | grep -oE 'shared:|unbindable'; true")
		o.Spec.Linux.RootfsPropagation = kind
		out, st := run(t, o)
		if strings.TrimSpace(out) != want || st.Code != 0 {
			t.Errorf("%s: %q, want %q (%+v)", kind, out, want, st)
		}
	}
	o := options(t, "true")
	o.Spec.Linux.RootfsPropagation = "nonsense"
	if _, err := Create(context.Background(), o); err == nil || !strings.Contains(err.Error(), "linux.rootfsPropagation") {
		t.Errorf("got %v", err)
	}
}

func TestDevicesOfTheSpec(t *testing.T) {
	o := options(t, "sh", "-c", "stat -c '%F %t:%T %a %u' /dev/deep/one /srv/null /dev/null /there; stat -c %F /srv/fifo")
	root := o.Spec.Root.Path
	if err := unix.Mknod(filepath.Join(root, "there"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 5))); err != nil {
		t.Fatal(err)
	}
	mode, uid := os.FileMode(0o646), uint32(9)
	o.Spec.Linux.Devices = []specs.LinuxDevice{
		{Path: "/dev/deep/one", Type: "c", Major: 1, Minor: 7, FileMode: &mode, UID: &uid},
		{Path: "/srv/null", Type: "u", Major: 1, Minor: 3}, {Path: "/srv/fifo", Type: "p"},
		{Path: "/dev/null", Type: "c", Major: 1, Minor: 3, FileMode: &mode}, {Path: "/there", Type: "c", Major: 1, Minor: 5},
	}
	check(t, o, "character special file 1:7 646 9\ncharacter special file 1:3 666 0\ncharacter special file 1:3 646 0\ncharacter special file 1:5 600 0\nfifo")
	bad := options(t, "true")
	if err := os.WriteFile(filepath.Join(bad.Spec.Root.Path, "there"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	bad.Spec.Linux.Devices = o.Spec.Linux.Devices[4:]
	if _, err := Create(context.Background(), bad); err == nil || !strings.Contains(err.Error(), "/there: there is another file") {
		t.Errorf("got %v", err)
	}
}
