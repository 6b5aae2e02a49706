package client

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/11f9778f/berth/internal/shim/api/pb"
)

// install puts a copy of the shim into a folder of its own, as an installation does.
func (b *bench) install(name string) string {
	b.t.Helper()
	path := filepath.Join(b.dir, name, DefaultBinary)
	data, err := os.ReadFile(b.bin)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(path), 0o755)
	}
	if err == nil {
		err = os.WriteFile(path, data, 0o755)
	}
	if err != nil {
		b.t.Fatal(err)
	}
	return path
}

func executable(pid int) string {
	path, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	return path
}

// lines counts what an attached client gets, and whether the numbers in it go up by one.
type lines struct {
	mu   sync.Mutex
	rest []byte
	last int
	bad  string
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rest = append(l.rest, p...)
	for {
		line, rest, ok := bytes.Cut(l.rest, []byte("\n"))
		if !ok {
			return len(p), nil
		}
		n := 0
		if _, err := fmt.Sscanf(string(line), "line %d", &n); err != nil || l.last != 0 && n != l.last+1 {
			l.bad += fmt.Sprintf("%q after %d; ", line, l.last)
		}
		l.last, l.rest = n, rest
	}
}

func (l *lines) seen() int { l.mu.Lock(); defer l.mu.Unlock(); return l.last }

// A shim executes another binary while containers write, clients are attached and commands run: the same process, the same
// containers, and not a line less, in the logs nor at the clients.
func TestUpgradeUnderLoad(t *testing.T) {
	b := newBench(t)
	s := b.sandbox("pod1")
	b.run(s, counting("c1"))
	b.run(s, ctr{id: "c2", sandbox: "pod1", stdin: true, args: []string{"sh", "-c", "while read x; do echo got $x; done; exit 9"}})
	b.run(s, ctr{id: "c3", sandbox: "pod1", tty: true, stdin: true, args: []string{"sh", "-c", "read x; echo got $x; exit 8"}})
	b.run(s, ctr{id: "c4", sandbox: "pod1", args: []string{"sh", "-c", "exit 7"}})
	b.event("the end of c4", exitOf("c4"))
	shim, pid := s.Pid(), int(b.state(s, "c1").Pid)

	var attached sync.WaitGroup
	got := &lines{}
	attached.Go(func() {
		if exit, err := s.Attach(b.ctx(), "c1", Streams{Stdout: got}); err != nil || exit.Code != 42 {
			t.Errorf("attach: %v, %v", exit, err)
		}
	})
	in, give := io.Pipe()
	var answers bytes.Buffer
	attached.Go(func() {
		if exit, err := s.Attach(b.ctx(), "c2", Streams{Stdin: in, Stdout: &answers}); err != nil || exit.Code != 9 {
			t.Errorf("attach with input: %v, %v", exit, err)
		}
	})
	b.until("the clients are attached", func() bool { return got.seen() > 0 })
	io.WriteString(give, "word 0\n")
	over := make(chan struct{})
	var busy sync.WaitGroup
	for range 2 {
		busy.Go(func() {
			for {
				select {
				case <-over:
					return
				default:
				}
				if x, err := s.ExecSync(b.ctx(), "c1", program("echo", "alive"), 0, 0); err != nil || string(x.Stdout) != "alive\n" {
					t.Errorf("exec: %v, %v", x, err)
				}
			}
		})
	}
	for i := range 4 {
		binary := b.install(fmt.Sprint("release", i))
		for {
			err := s.g.upgrade(b.ctx(), binary)
			if err == nil {
				break
			}
			if !errors.Is(err, errdefs.ErrFailedPrecondition) {
				t.Fatal(err)
			}
			t.Log(err)
		}
		if s.Pid() != shim || executable(shim) != binary {
			t.Fatalf("process %d executes %s, want %d and %s", s.Pid(), executable(shim), shim, binary)
		}
		fmt.Fprintf(give, "word %d\n", i+1)
		at := got.seen()
		b.until("the attached client gets more", func() bool { return got.seen() > at+100 })
	}
	close(over)
	busy.Wait()
	if c := b.state(s, "c1"); int(c.Pid) != pid || c.Status != pb.Status_STATUS_RUNNING {
		t.Errorf("after the upgrades: %v", c)
	}
	if c := b.state(s, "c4"); c.Exit.GetCode() != 7 {
		t.Errorf("after the upgrades: %v", c)
	}
	b.stopCounting("c1")
	give.Close()
	attached.Wait()
	if e := b.event("exit", exitOf("c1")); e.Exit.Code != 42 || e.Exit.Unknown {
		t.Errorf("%v", e.Exit)
	}
	b.checkCount("c1")
	if got.bad != "" {
		t.Errorf("the attached client got %s", got.bad)
	}
	if want := "got word 0\ngot word 1\ngot word 2\ngot word 3\ngot word 4\n"; answers.String() != want {
		t.Errorf("%q", answers.String())
	}
	exit, err := s.Attach(b.ctx(), "c3", Streams{Stdin: strings.NewReader("word\n"), Stdout: io.Discard})
	if err != nil || exit.Code != 8 {
		t.Errorf("terminal: %v, %v", exit, err)
	}
	for _, id := range []string{"c1", "c2", "c3", "c4"} {
		b.remove(s, id)
	}
}

// The daemon of a new installation has the shims of the old one execute the new binary, and leaves the others alone.
func TestNewDaemonUpgradesShims(t *testing.T) {
	b := newBench(t)
	s := b.sandbox("pod1")
	b.run(s, ctr{id: "c1", sandbox: "pod1", args: []string{"sh", "-c", "while [ ! -e /tmp/c1 ]; do usleep 1000; done; exit 42"}})
	shim := s.Pid()
	b.crash()
	b.open()
	if executable(shim) != b.bin {
		t.Errorf("it executes %s", executable(shim))
	}
	b.crash()
	b.cfg.Handlers = map[string]Handler{"": {Binary: b.install("new")}}
	b.open()
	b.until("the upgrade", func() bool { return strings.HasPrefix(executable(shim), b.dir) })
	s, _ = b.m.Lookup("pod1")
	b.until("the shim answers", func() bool { return s.Pid() == shim })
	if !s.StartsAtOnce() {
		t.Error("it is not known to start a container with its creation")
	}
	os.WriteFile(filepath.Join(b.rootfs, "tmp/c1"), nil, 0o644)
	if code := b.wait(s, "c1"); code != 42 {
		t.Errorf("exit code %d", code)
	}
	b.remove(s, "c1")
}

// What is no shim, or does not run, is not executed.
func TestUpgradeToRubbish(t *testing.T) {
	b := newBench(t)
	s := b.sandbox("pod1")
	b.run(s, ctr{id: "c1", sandbox: "pod1", args: []string{"sleep", "1000"}})
	shim := s.Pid()
	text := filepath.Join(b.dir, "text")
	if err := os.WriteFile(text, []byte("no program"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, binary := range []string{text, "/no/such/file", "relative", busybox} {
		if err := s.g.upgrade(b.ctx(), binary); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%s: %v", binary, err)
		}
	}
	if s.Pid() != shim || b.state(s, "c1").Status != pb.Status_STATUS_RUNNING {
		t.Error("the shim is not as it was")
	}
	b.remove(s, "c1")
}
