package machine_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/11f9778f/berth/internal/runtime"
	"github.com/11f9778f/berth/internal/runtime/machine"
)

const childEnv = "BERTH_MACHINE_TEST_DAEMON"

func TestMain(m *testing.M) {
	if s := os.Getenv(childEnv); s != "" {
		if err := daemonLife(s); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	code := m.Run()
	if bin, err := shimBinary(); err == nil && os.Getuid() == 0 {
		os.RemoveAll(filepath.Dir(bin))
	}
	os.Exit(code)
}

// daemonLife is what the daemon does that the test kills.
func daemonLife(arg string) error {
	var p place
	if err := json.Unmarshal([]byte(arg), &p); err != nil {
		return err
	}
	ctx := context.Background()
	d, err := openDaemon(ctx, p, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer d.close()
	sb, err := d.rt.RunSandbox(ctx, p.pod("new", false))
	if err != nil {
		return err
	}
	c, err := d.start(ctx, sb, shell("main", "sleep 1000"))
	if err != nil {
		return err
	}
	return errors.Join(d.rt.StopContainer(ctx, c, 100*time.Millisecond), d.rt.RemoveContainer(ctx, c),
		d.rt.StopSandbox(ctx, sb), d.rt.RemoveSandbox(ctx, sb))
}

func (p place) life(t *testing.T, failpoint string) error {
	t.Helper()
	arg, _ := json.Marshal(p)
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), childEnv+"="+string(arg), "BERTH_FAILPOINT="+failpoint)
	cmd.Stderr = os.Stderr
	return cmd.Run()
}

// Kill -9 before and after every effect, on the real machine.
func TestKilledAtEveryEffect(t *testing.T) {
	if testing.Short() {
		t.Skip("some 60 lives of a daemon")
	}
	p := newPlace(t)
	list := filepath.Join(t.TempDir(), "names")
	if err := p.life(t, "trace:"+list); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(list)
	if err != nil {
		t.Fatal(err)
	}
	d, err := openDaemon(context.Background(), p, logger(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	old, err := d.rt.RunSandbox(ctx, p.pod("old", false))
	if err != nil {
		t.Fatal(err)
	}
	oldC, err := d.start(ctx, old, shell("main", "sleep 1000"))
	if err != nil {
		t.Fatal(err)
	}
	before, _ := d.rt.Container(oldC)
	d.close()
	n := 0
	for _, name := range strings.Fields(string(b)) {
		if !strings.HasPrefix(name, "runtime/") {
			continue
		}
		n++
		t.Run(name, func(t *testing.T) {
			p.killedAt(t, name, oldC, before.Pid)
		})
	}
	if n < 40 {
		t.Errorf("only %d places were reached", n)
	}
	d = p.open(t)
	for _, s := range d.rt.Sandboxes() {
		if err := d.rt.RemoveSandbox(ctx, s.ID); err != nil {
			t.Error(err)
		}
	}
	d.checkEmpty(t)
}

func (p place) killedAt(t *testing.T, name, oldC string, pid int) {
	err := p.life(t, name+"=kill")
	ee, ok := err.(*exec.ExitError)
	if !ok || ee.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the daemon ended with %v", err)
	}
	ctx := context.Background()
	d, err := openDaemon(ctx, p, logger(t))
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	if st, err := d.rt.Container(oldC); err != nil || st.State != runtime.ContainerRunning || st.Pid != pid || !(machine.Kernel{}).Alive(pid, st.CgroupPath) {
		t.Errorf("the old pod's container: %+v, %v", st, err)
	}
	eventually(t, "nothing is without an owner", func() bool {
		rep, err := d.rt.Fsck(ctx, false)
		return err == nil && rep.Clean() && len(rep.Pending) == 0
	})
	for _, s := range d.rt.Sandboxes() {
		if s.Spec.Name != "new" {
			continue
		}
		if err := d.rt.RemoveSandbox(ctx, s.ID); err != nil {
			t.Error(err)
		}
	}
	rep, err := d.rt.Fsck(ctx, false)
	if err != nil || !rep.Clean() || len(rep.Pending) > 0 || len(rep.Owned) != 2 {
		b, _ := json.MarshalIndent(rep, "", " ")
		t.Errorf("after removal: %s %v", b, err)
	}
}

// A shim dies: its containers run on, a successor answers for them, and their ends are known.
func TestKilledShim(t *testing.T) {
	p := newPlace(t)
	d := p.open(t)
	ctx := context.Background()
	sb, err := d.rt.RunSandbox(ctx, p.pod("keep", false))
	if err != nil {
		t.Fatal(err)
	}
	lives, err := d.start(ctx, sb, shell("lives", "i=0; while :; do echo $i; i=$((i+1)); sleep 0.05; done"))
	if err != nil {
		t.Fatal(err)
	}
	ends, err := d.start(ctx, sb, shell("ends", "sleep 0.3; exit 9"))
	if err != nil {
		t.Fatal(err)
	}
	before, _ := d.rt.Container(lives)
	syscall.Kill(d.shims.Inventory().Groups[0].Pid, syscall.SIGKILL)
	eventually(t, "the end is known", func() bool {
		st, _ := d.rt.Container(ends)
		return st.State == runtime.ContainerExited && st.ExitCode == 9
	})
	if got := d.exec(t, lives, "echo here"); got != "here" {
		t.Errorf("exec: %q", got)
	}
	if st, _ := d.rt.Container(lives); st.State != runtime.ContainerRunning || st.Pid != before.Pid {
		t.Errorf("%+v", st)
	}
	more, err := d.start(ctx, sb, shell("more", "sleep 1000"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []string{lives, more} {
		if err := d.rt.StopContainer(ctx, c, 0); err != nil {
			t.Error(err)
		}
		if st, _ := d.rt.Container(c); st.ExitCode != 137 {
			t.Errorf("%+v", st)
		}
	}
	b, _ := os.ReadFile(before.LogPath)
	for i, l := range strings.Split(strings.TrimSpace(string(b)), "\n") {
		if !strings.HasSuffix(l, "stdout F "+strconv.Itoa(i)) {
			t.Fatalf("line %d of the log is %q", i, l)
		}
	}
	if err := d.rt.RemoveSandbox(ctx, sb); err != nil {
		t.Fatal(err)
	}
	d.checkEmpty(t)
}
