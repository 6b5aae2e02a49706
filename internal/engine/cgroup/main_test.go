package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// roleEnv makes the test binary play a process of a group instead of testing.
const roleEnv = "BERTH_CGROUP_TEST_ROLE"

func TestMain(m *testing.M) {
	role, arg, _ := strings.Cut(os.Getenv(roleEnv), ":")
	switch role {
	case "":
		os.Exit(m.Run())
	case "sleep": // waits to be killed
		fmt.Println("ready")
		time.Sleep(time.Minute)
	case "ignore": // survives SIGTERM
		signal.Ignore(syscall.SIGTERM)
		fmt.Println("ready")
		time.Sleep(time.Minute)
	case "eat": // waits for a line, then takes so many MiB
		fmt.Println("ready")
		fmt.Scanln()
		n, _ := strconv.Atoi(arg)
		b := make([]byte, n<<20)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		fmt.Println("ate", b[0])
	case "bomb": // waits for a line, then each process starts the next ones and ends, so that no list is ever right
		if arg == "" {
			fmt.Println("ready")
			fmt.Scanln()
		}
		for range 2 {
			c := exec.Command("/proc/self/exe")
			c.Env = []string{roleEnv + "=bomb:again"}
			c.Start()
		}
		time.Sleep(2 * time.Millisecond)
	case "open": // waits for a line, then opens a device for reading
		fmt.Println("ready")
		fmt.Scanln()
		f, err := os.Open(arg)
		fmt.Println(describeOpen(err))
		f.Close()
		time.Sleep(time.Minute)
	}
	os.Exit(0)
}

func describeOpen(err error) string {
	switch {
	case err == nil:
		return "opened"
	case errors.Is(err, syscall.EPERM):
		return "EPERM"
	}
	return err.Error()
}

// process is a child that plays a role.
type process struct {
	*exec.Cmd
	in  *os.File
	out *os.File
}

func start(t *testing.T, role string) *process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	inR, inW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{Cmd: exec.Command(self), in: inW, out: outR}
	p.Env = append(os.Environ(), roleEnv+"="+role)
	p.Stdin, p.Stdout = inR, outW
	p.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	inR.Close()
	outW.Close()
	t.Cleanup(func() {
		p.Process.Kill()
		p.Wait()
		inW.Close()
		outR.Close()
	})
	p.expect(t, "ready")
	return p
}

func (p *process) expect(t *testing.T, line string) {
	t.Helper()
	buf := make([]byte, 4096)
	p.out.SetReadDeadline(time.Now().Add(2 * time.Minute))
	n, err := p.out.Read(buf)
	if got := strings.TrimSpace(string(buf[:n])); got != line {
		t.Fatalf("process says %q (%v), want %q", got, err, line)
	}
}

func (p *process) goOn(t *testing.T) {
	t.Helper()
	if _, err := p.in.WriteString("\n"); err != nil {
		t.Fatal(err)
	}
}

// parent is a test's own tree in the real hierarchies; it is removed at the end, and shown if it could not be.
func parent(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: writes to /sys/fs/cgroup")
	}
	name := fmt.Sprintf("/berth-test-%d-%s", os.Getpid(), strings.ToLower(filepath.Base(t.Name())))
	g, err := Load(name)
	if err != nil {
		t.Skipf("needs cgroups: %v", err)
	}
	t.Cleanup(func() {
		ctx := timeout(t, 20*time.Second)
		if err := g.Kill(ctx); err != nil {
			t.Error(err)
		}
		if err := g.Delete(ctx); err != nil {
			t.Error(err)
		}
		if g.Exists() {
			t.Errorf("%s is left over", name)
		}
	})
	return name
}

func timeout(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func create(t *testing.T, path string) *Group {
	t.Helper()
	g, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Create(context.Background()); err != nil {
		t.Fatal(err)
	}
	return g
}

// file returns the path of a group's file; the test is skipped without the controller.
func file(t *testing.T, g *Group, v1, v2 string) string {
	t.Helper()
	name, isV2 := v1, false
	controller, _, _ := strings.Cut(v1, ".")
	h := g.h.byController[controller]
	if h == nil || h.V2 {
		controller, _, _ = strings.Cut(v2, ".")
		h, name, isV2 = g.h.byController[controller], v2, true
	}
	if h == nil || h.V2 != isV2 || name == "" {
		t.Skipf("no %s controller here", controller)
	}
	return h.dir.Path(g.rel + "/" + name)
}

func content(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}
