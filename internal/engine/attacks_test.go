package engine

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Attacks that container engines have fallen to. Each test plants the attack, and fails with HOST PATH WAS CHANGED, or
// what else the attack is after.

// canary is a directory of the host that nobody in a container may change.
func canary(t *testing.T) (dir string, check func()) {
	t.Helper()
	dir = t.TempDir()
	for _, name := range []string{"file", "null", "hosts"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("canary"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir, func() {
		t.Helper()
		var found []string
		err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			content := ""
			if info.Mode().IsRegular() {
				b, err := os.ReadFile(p)
				if err != nil {
					return err
				}
				content = string(b)
			}
			found = append(found, strings.TrimPrefix(p, dir)+" "+info.Mode().String()+" "+content)
			return nil
		})
		want := " drwxr-xr-x |/file -rw------- canary|/hosts -rw------- canary|/null -rw------- canary"
		if got := strings.Join(found, "|"); err != nil || got != want {
			t.Errorf("HOST PATH WAS CHANGED: %v, %v", got, err)
		}
		if strings.Contains(mountTable(t), dir+" ") {
			t.Error("HOST PATH WAS CHANGED: something is mounted on it")
		}
	}
}

// out is a link in the root filesystem that leads to the host's path p for whoever resolves it from the host's root, and,
// with its many "..", for whoever resolves it lexically below the root filesystem.
func out(t *testing.T, o CreateOptions, name, p string) {
	t.Helper()
	link := filepath.Join(o.Spec.Root.Path, name)
	if err := os.RemoveAll(link); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(strings.Repeat("../", 30)+p, link); err != nil {
		t.Fatal(err)
	}
}

// try creates and starts a container that an attack may make impossible, and ends it.
func try(t *testing.T, o CreateOptions) error {
	t.Helper()
	c, err := Create(context.Background(), o)
	if err != nil {
		return err
	}
	defer func() {
		if err := c.Delete(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	if err := c.Start(context.Background()); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	_, err = c.Init().Wait(ctx)
	return err
}

func hashOf(t *testing.T, path string) [32]byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return sha256.Sum256(b)
}

// CVE-2019-5736: the binary that enters a container is overwritten through /proc/PID/exe.
func TestAttackOnTheExecutable(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	before := hashOf(t, self)
	o := options(t, "sh", "-c", `echo '#!/bin/evil' > /tmp/evil; while :; do for p in /proc/[0-9]*/exe; do
		case $p in /proc/1/exe|/proc/$$/exe) continue;; esac
		cat /tmp/evil > $p; done 2>/dev/null; done`)
	c := started(t, o)
	for n := range 10 {
		p := *o.Spec.Process
		p.Args = []string{"true"}
		proc, err := c.Exec(context.Background(), ExecOptions{ID: strconv.Itoa(n), Process: &p})
		if err != nil {
			t.Fatal(err)
		}
		proc.Wait(context.Background())
	}
	if hashOf(t, self) != before {
		t.Error("HOST PATH WAS CHANGED: " + self)
	}
	l, err := launcher()
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Check(); err != nil {
		t.Errorf("the first program was changed: %v", err)
	}
	check(t, options(t, "echo", "still works"), "still works")
}

// CVE-2024-21626: a working directory behind a descriptor that leaked, of an exec'd process.
func TestAttackOnTheWorkingDirectoryOfExec(t *testing.T) {
	o := options(t, "sleep", "1000")
	c := started(t, o)
	for fd := range 21 {
		for _, pid := range []string{"self", "1"} {
			p := *o.Spec.Process
			p.Args = []string{"pwd"}
			p.Cwd = fmt.Sprintf("/proc/%s/fd/%d/../../../../..", pid, fd)
			if proc, err := c.Exec(context.Background(), ExecOptions{ID: "e", Process: &p}); err == nil {
				proc.Wait(context.Background())
				t.Errorf("cwd %s was entered", p.Cwd)
			}
		}
	}
}

// CVE-2025-31133, CVE-2025-52565, CVE-2026-41579: what the image has at /dev/null, /dev/console, /dev/pts and /dev
// stands in for the engine's own.
func TestAttackOnDevices(t *testing.T) {
	dir, check := canary(t)
	for name, plant := range map[string]func(*CreateOptions){
		"null":    func(o *CreateOptions) { out(t, *o, "dev/null", dir+"/null") },
		"console": func(o *CreateOptions) { out(t, *o, "dev/console", dir+"/file") },
		"pts":     func(o *CreateOptions) { out(t, *o, "dev/pts", dir) },
		"dev":     func(o *CreateOptions) { out(t, *o, "dev", dir) },
		"proc":    func(o *CreateOptions) { out(t, *o, "proc", dir) },
	} {
		for _, bare := range []bool{true, false} { // without and with a filesystem on /dev
			o := options(t, "sh", "-c", "stat -c '%t:%T' /dev/null; wc -c < /file; echo x > /dev/console; echo x > /file; cat /dev/pts/0/x")
			o.Spec.Process.Terminal = true
			if err := os.WriteFile(filepath.Join(o.Spec.Root.Path, "file"), []byte("secret"), 0o644); err != nil {
				t.Fatal(err)
			}
			o.Spec.Linux.MaskedPaths = append(o.Spec.Linux.MaskedPaths, "/file")
			if bare {
				mounts := o.Spec.Mounts[:0:0]
				for _, m := range o.Spec.Mounts {
					if m.Destination != "/dev" {
						mounts = append(mounts, m)
					}
				}
				o.Spec.Mounts = mounts
			}
			plant(&o)
			t.Logf("%s, bare %v: %v", name, bare, try(t, o)) // it may be refused, or work on the container's own files
			check()
			if t.Failed() {
				t.Fatalf("%s, bare %v", name, bare)
			}
		}
	}
}

// The device that masks a file is the kernel's, whatever the image has at /dev/null.
func TestMaskIsTheRealNull(t *testing.T) {
	o := options(t, "sh", "-c", "stat -c '%F %t:%T' /secret")
	if err := os.WriteFile(filepath.Join(o.Spec.Root.Path, "secret"), []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	o.Spec.Mounts = o.Spec.Mounts[:1] // proc
	out(t, o, "dev/null", "secret")
	o.Spec.Linux.MaskedPaths = []string{"/secret"}
	check(t, o, "character special file 1:3")
}

// CVE-2019-19921, CVE-2023-27561, CVE-2023-28642, CVE-2025-52881: a volume over /proc takes the writes of labels and
// kernel parameters.
func TestAttackOnProc(t *testing.T) {
	fake := t.TempDir()
	for _, p := range []string{"self/attr/apparmor", "1/attr", "sys/kernel", "sys/net/core"} {
		if err := os.MkdirAll(filepath.Join(fake, p), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range []string{"self/attr/exec", "self/attr/apparmor/exec", "1/attr/exec", "sys/kernel/shmmni", "sysrq-trigger"} {
		if err := os.WriteFile(filepath.Join(fake, p), []byte("fake"), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	o := options(t, "sh", "-c", "mkdir /p; mount -t proc p /p; cat /p/sys/kernel/shmmni")
	for _, set := range []*[]string{&o.Spec.Process.Capabilities.Bounding, &o.Spec.Process.Capabilities.Effective, &o.Spec.Process.Capabilities.Permitted} {
		*set = append(*set, "CAP_SYS_ADMIN")
	}
	o.Spec.Mounts[0] = specs.Mount{Destination: "/proc", Source: fake, Options: []string{"rbind"}}
	o.Spec.Linux.Sysctl = map[string]string{"kernel.shmmni": "4093"}
	if hasAppArmor() {
		o.Spec.Process.ApparmorProfile = "unconfined"
	}
	check(t, o, "4093")
	for _, p := range []string{"self/attr/exec", "self/attr/apparmor/exec", "1/attr/exec", "sys/kernel/shmmni", "sysrq-trigger"} {
		if b, err := os.ReadFile(filepath.Join(fake, p)); err != nil || string(b) != "fake" {
			t.Errorf("HOST PATH WAS CHANGED: %s holds %q, %v", p, b, err)
		}
	}
}

// CVE-2021-30465, CVE-2024-45310, CVE-2021-25741: somebody who shares the root filesystem exchanges a directory on the way to
// a mount's destination for a link to the host, again and again.
func TestAttackOnMountDestinations(t *testing.T) {
	dir, check := canary(t)
	o := options(t, "true")
	root := o.Spec.Root.Path
	if err := os.MkdirAll(filepath.Join(root, "vol/a"), 0o755); err != nil {
		t.Fatal(err)
	}
	out(t, o, "vol/b", dir)
	stop := make(chan struct{})
	var swapping sync.WaitGroup
	swapping.Go(func() {
		a, b := filepath.Join(root, "vol/a"), filepath.Join(root, "vol/b")
		for {
			select {
			case <-stop:
				return
			default:
				unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
			}
		}
	})
	source := t.TempDir()
	o.Spec.Mounts = append(o.Spec.Mounts,
		specs.Mount{Destination: "/vol/a/new/deep", Type: "tmpfs", Source: "tmpfs"},
		specs.Mount{Destination: "/vol/a", Source: source, Options: []string{"bind"}},
		specs.Mount{Destination: "/vol/a/file", Source: "/dev/null", Options: []string{"bind"}})
	worked := 0
	for n := range 60 {
		o.ID = fmt.Sprintf("%s-%d", o.ID[:strings.LastIndexByte(o.ID, '-')], 1000+n)
		o.Spec.Linux.CgroupsPath = filepath.Dir(o.Spec.Linux.CgroupsPath) + "/" + o.ID
		if try(t, o) == nil {
			worked++
		}
	}
	close(stop)
	swapping.Wait()
	check()
	t.Logf("%d of 60 containers ran", worked)
}

// CVE-2024-5154: /etc is a link, and files are to be bound into it.
func TestAttackOnEtc(t *testing.T) {
	dir, check := canary(t)
	o := options(t, "sh", "-c", "echo evil > /etc/hosts; echo evil > /etc/resolv.conf")
	out(t, o, "etc", dir)
	own := filepath.Join(t.TempDir(), "hosts")
	if err := os.WriteFile(own, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"hosts", "resolv.conf", "new/file"} {
		o.Spec.Mounts = append(o.Spec.Mounts, specs.Mount{Destination: "/etc/" + name, Source: own, Options: []string{"bind"}})
	}
	t.Log(try(t, o))
	check()
}

// CVE-2022-0811: kernel parameters of the host by tricks with names and values.
func TestAttackBySysctls(t *testing.T) {
	pattern, err := os.ReadFile("/proc/sys/kernel/core_pattern")
	if err != nil {
		t.Fatal(err)
	}
	for key, value := range map[string]string{
		"kernel.core_pattern": "|/evil", "kernel/core_pattern": "|/evil", "kernel.shmmni/../core_pattern": "|/evil",
		"net/../kernel/core_pattern": "|/evil", "net.ipv4/../../kernel/core_pattern": "|/evil", "fs.mqueue./../../kernel/core_pattern": "|/evil",
		"kernel.shmmni": "1\nkernel.core_pattern=|/evil", "kernel.shm_rmid_forced": "1+kernel.core_pattern=|/evil",
		"//kernel/core_pattern": "|/evil", "kernel.shmmax\x00": "1",
	} {
		o := options(t, "true")
		o.Spec.Linux.Namespaces = append(o.Spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace})
		o.Spec.Linux.Sysctl = map[string]string{key: value}
		if err := try(t, o); err == nil {
			t.Errorf("%q=%q was accepted", key, value)
		}
	}
	o := options(t, "true") // the host's namespace under another name
	o.Spec.Linux.Namespaces = append(o.Spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: "/proc/self/ns/net"})
	o.Spec.Linux.Sysctl = map[string]string{"net.core.somaxconn": "1"}
	if err := try(t, o); err == nil || !strings.Contains(err.Error(), "host") {
		t.Errorf("sysctl in the host's network namespace: %v", err)
	}
	if after, err := os.ReadFile("/proc/sys/kernel/core_pattern"); err != nil || string(after) != string(pattern) {
		os.WriteFile("/proc/sys/kernel/core_pattern", pattern, 0)
		t.Errorf("HOST PATH WAS CHANGED: kernel.core_pattern is %q", after)
	}
}

// CVE-2022-29162: inheritable capabilities that nobody asked for.
func TestNoInheritableCapabilities(t *testing.T) {
	o := options(t, "sh", "-c", "grep -E 'Cap(Inh|Amb)' /proc/self/status | grep -vc 0000000000000000")
	outText, _ := run(t, o)
	if strings.TrimSpace(outText) != "0" {
		t.Errorf("%s sets are not empty", outText)
	}
}

// CVE-2023-2431: a profile that says nothing must not mean that there is none.
func TestEmptySeccompProfileIsAnError(t *testing.T) {
	o := options(t, "true")
	o.Spec.Linux.Seccomp = &specs.LinuxSeccomp{}
	if err := try(t, o); err == nil || !strings.Contains(err.Error(), "linux.seccomp") {
		t.Errorf("got %v", err)
	}
}

// CVE-2024-21626 again, and CVE-2016-9962: nothing of the engine's is open in the container, at any time.
func TestNothingIsOpenInAStartContainerHook(t *testing.T) {
	dir := t.TempDir()
	o := options(t, "true")
	o.Spec.Mounts = append(o.Spec.Mounts, specs.Mount{Destination: "/log", Source: dir, Options: []string{"bind"}})
	o.Spec.Hooks = &specs.Hooks{StartContainer: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "ls -l /proc/self/fd > /log/fds"}, Env: []string{"PATH=/bin"}}}}
	check(t, o, "")
	b, err := os.ReadFile(filepath.Join(dir, "fds"))
	if n := strings.Count(string(b), " -> "); err != nil || n != 3 { // stdio; what ls itself reads is closed when it looks
		t.Errorf("%d descriptors: %s, %v", n, b, err)
	}
}
