package engine

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// TestAppArmor needs a kernel with AppArmor: `make test-vm` has one.
func TestAppArmor(t *testing.T) {
	if !hasAppArmor() {
		t.Skip("this kernel has no AppArmor, or it is switched off")
	}
	parser := os.Getenv("APPARMOR_PARSER")
	if parser == "" {
		parser = "apparmor_parser"
	}
	if _, err := exec.LookPath(parser); err != nil {
		t.Skip("needs Debian's apparmor: " + err.Error())
	}
	profile := filepath.Join(t.TempDir(), "profile")
	name := fmt.Sprintf("berth-test-%d", os.Getpid())
	text := "profile " + name + " flags=(attach_disconnected,mediate_deleted) { file, capability, signal, ptrace, unix, deny /etc/secret rw, }\n"
	if err := os.WriteFile(profile, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	load := func(how string) error {
		b, err := exec.Command(parser, "-K", "-S", profile).Output() // compiled; written below, so that no feature file is needed
		if err != nil {
			return fmt.Errorf("%w: %s", err, b)
		}
		return os.WriteFile("/sys/kernel/security/apparmor/"+how, b, 0)
	}
	if err := load(".load"); err != nil {
		t.Fatal(err)
	}
	defer os.WriteFile("/sys/kernel/security/apparmor/.remove", []byte(name), 0)
	for _, nnp := range []bool{true, false} {
		o := options(t, "sh", "-c", "cat /proc/self/attr/current; cat /etc/secret 2>/dev/null || echo denied; sleep 1000")
		o.Spec.Process.NoNewPrivileges = nnp
		if err := os.WriteFile(filepath.Join(o.Spec.Root.Path, "etc/secret"), []byte("secret"), 0o644); err != nil {
			t.Fatal(err)
		}
		o.Spec.Process.ApparmorProfile = name
		c := started(t, o)
		p := *o.Spec.Process
		p.Args = []string{"sh", "-c", "cat /proc/self/attr/current; cat /etc/secret 2>/dev/null || echo denied"}
		r, w, _ := os.Pipe()
		proc, err := c.Exec(context.Background(), ExecOptions{ID: "e", Process: &p, Stdio: Stdio{Out: w}})
		w.Close()
		if err != nil {
			t.Fatal(err)
		}
		if out, _ := finish(t, proc, r); out != name+" (enforce)\ndenied\n" {
			t.Errorf("exec'd process: %q", out)
		}
		r.Close()
		if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/attr/current", c.Pid())); err != nil || string(b) != name+" (enforce)\n" {
			t.Errorf("first process: %q, %v", b, err)
		}
	}
	o := options(t, "true")
	o.Spec.Process.ApparmorProfile = "not-there"
	c := newContainer(t, o)
	if err := c.Start(context.Background()); err == nil || !strings.Contains(err.Error(), "process.apparmorProfile not-there") {
		t.Errorf("unknown profile: %v", err)
	}
}

// A score below this process's own takes CAP_SYS_RESOURCE; without it the lowest allowed is taken.
func TestOOMScore(t *testing.T) {
	own, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "CapEff:\t")
	eff, err := strconv.ParseUint(strings.Fields(rest)[0], 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	const sysResource = 24
	for _, score := range []int{-777, 555} {
		o := options(t, "cat", "/proc/self/oom_score_adj")
		o.Spec.Process.OOMScoreAdj = &score
		want := strconv.Itoa(score)
		if score < 0 && eff>>sysResource&1 == 0 {
			want = strings.TrimSpace(string(own))
		}
		check(t, o, want)
	}
}
