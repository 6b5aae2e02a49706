package oci

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// A program that is not there is an error of create, and nothing is left.
func TestCreateFindsTheProgram(t *testing.T) {
	b := newBench(t)
	for args, want := range map[string]string{
		"nosuch": "executable file not found in $PATH", "/bin/nosuch": "no such file", "sh": "", "/bin/sh": "", "./nosuch": "",
	} {
		b.configure(args)
		id := b.id()
		out, code := b.ask("create", id)
		if (code != 0) != (want != "") || !strings.Contains(out, want) {
			t.Errorf("create with %s: exit code %d, %q; want %q", args, code, out, want)
		}
		if _, code := b.ask("state", id); (code != 0) != (want != "") {
			t.Errorf("state after create with %s: exit code %d", args, code)
		}
	}
}

// The user of a user namespace owns the pipes that are his stdio, by his number on the host.
func TestStdioBelongsToTheUser(t *testing.T) {
	b := newBench(t)
	s := b.configure("sh", "-c", "echo by name > /dev/stdout; sleep 1000")
	s.Process.User.UID = 7
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	maps := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 300000, Size: 1000}}
	s.Linux.UIDMappings, s.Linux.GIDMappings = maps, maps
	b.write(s)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	id := b.id()
	cmd := b.command("create", id)
	cmd.Stdout, cmd.Stderr = w, w
	err = cmd.Run()
	w.Close()
	if err != nil {
		out := make([]byte, 4096)
		n, _ := r.Read(out)
		t.Fatalf("create: %v: %s", err, out[:n])
	}
	var st syscall.Stat_t
	if err := syscall.Fstat(int(r.Fd()), &st); err != nil || st.Uid != 300007 {
		t.Errorf("owner of the pipe: %d, %v", st.Uid, err)
	}
	if out, code := b.ask("start", id); code != 0 {
		t.Fatalf("start: %s", out)
	}
	line := make([]byte, len("by name\n"))
	if n, _ := r.Read(line); string(line[:n]) != "by name\n" {
		t.Errorf("output %q", line[:n])
	}
}

// events --stats counts by processor where the kernel does, and --no-new-keyring leaves the caller's keyring.
func TestProcessorsAndKeyring(t *testing.T) {
	b := newBench(t)
	b.configure("sleep", "1000")
	id := b.id()
	if out, code := b.ask("run", "-d", "--no-new-keyring", id); code != 0 {
		t.Fatal(out)
	}
	out, _ := b.ask("events", "--stats", id)
	var e struct{ Data stats }
	if err := json.Unmarshal([]byte(out), &e); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	u := e.Data.CPU.Usage
	if _, err := os.Stat("/sys/fs/cgroup/cpuacct/cpuacct.usage_percpu"); err == nil && (len(u.PerCPU) == 0 || slices.Max(u.PerCPU) == 0 || len(u.PerCPUUser) == 0) {
		t.Errorf("processors: %s", out)
	}
	raw, _ := os.ReadFile(b.root + "/" + id + "/state.json")
	if !strings.Contains(string(raw), `"noKeyring":true`) {
		t.Errorf("state.json: %s", raw)
	}
}
