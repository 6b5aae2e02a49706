package containerd

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
)

func TestContainerd(t *testing.T) {
	d := newDaemon(t)
	for _, c := range []struct {
		name string
		f    func(*space)
	}{
		{"run", testRun}, {"stdin", testStdin}, {"terminal", testTerminal}, {"exec", testExec}, {"kill", testKill}, {"pause", testPause},
		{"resources", testResources}, {"metrics", testMetrics}, {"attach", testAttach}, {"events", testEvents}, {"logs", testLogURIs},
		{"options", testOptions}, {"namespaces", testNamespaces}, {"groups", testGroups}, {"image", testImage}, {"deadshim", testDeadShim},
		{"bundle", testBundleVanishes}, {"bad", testBadContainers}, {"leftovers", testBackgroundProcess}, {"checkpoint", testCheckpoint},
	} {
		t.Run(c.name, func(t *testing.T) { c.f(d.space(t)) })
	}
}

func testRun(s *space) {
	if out := s.must(s.run("--rm --env A=b", "one", "sh", "-c", "echo $A; echo err >&2")...); out != "b\n" {
		s.t.Errorf("output %q", out)
	}
	if _, stderr := s.fails(7, s.run("--rm", "two", "sh", "-c", "echo err >&2; exit 7")...); !strings.Contains(stderr, "err\n") {
		s.t.Errorf("standard error %q", stderr)
	}
	// Nothing of a lot of output is lost at the end.
	if out := s.must(s.run("--rm", "lots", "seq", "100000")...); len(out) != 588895 {
		s.t.Errorf("%d bytes of output, want 588895", len(out))
	}
}

func testStdin(s *space) {
	for i := range 5 { // a client that leaves at once may do so at any moment of the start
		out, err := s.ctrIn("abc\n", append([]string{"-n", s.ns}, s.run("--rm", fmt.Sprint("cat", i), "cat")...)...)
		if err != nil || out != "abc\n" {
			s.t.Errorf("cat: %q, %v", out, err)
		}
	}
	s.must(s.run("-d", "box", "sleep", "1000")...)
	for i := range 5 {
		out, err := s.ctrIn("abc\n", "-n", s.ns, "tasks", "exec", "--exec-id", fmt.Sprint("e", i), "box", "cat")
		if err != nil || out != "abc\n" {
			s.t.Errorf("exec cat: %q, %v", out, err)
		}
	}
}

// typed runs ctr on a terminal, types something and returns what the terminal showed.
func (s *space) typed(size *pty.Winsize, input string, args ...string) (string, int) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, "ctr"), append([]string{"-n", s.ns}, args...)...)
	cmd.Env = s.env()
	f, err := pty.StartWithSize(cmd, size)
	if err != nil {
		s.t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(input); err != nil {
		s.t.Fatal(err)
	}
	out, _ := io.ReadAll(f) // ends with EIO
	cmd.Wait()
	return string(out), cmd.ProcessState.ExitCode()
}

func testTerminal(s *space) {
	size := &pty.Winsize{Rows: 33, Cols: 77}
	// The size comes with a call of its own, behind the start.
	const script = "tty; while [ \"$(stty size)\" != '33 77' ]; do sleep 0.05; done; echo sized; read x; echo got $x; exit 3"
	out, code := s.typed(size, "hello\n", s.run("-t --rm", "tty", "sh", "-c", script)...)
	if code != 3 || !strings.Contains(out, "/dev/pts/0") || !strings.Contains(out, "sized") || !strings.Contains(out, "got hello") {
		s.t.Errorf("run -t: code %d, %q", code, out)
	}
	s.must(s.run("-d", "box", "sleep", "1000")...)
	out, code = s.typed(size, "hello\n", "tasks", "exec", "-t", "--exec-id", "e", "box", "sh", "-c", script)
	if code != 3 || !strings.Contains(out, "sized") || !strings.Contains(out, "got hello") {
		s.t.Errorf("exec -t: code %d, %q", code, out)
	}
}

func testExec(s *space) {
	s.must(s.run("-d", "box", "sleep", "1000")...)
	if out := s.must("tasks", "exec", "--exec-id", "a", "box", "echo", "hi"); out != "hi\n" {
		s.t.Errorf("output %q", out)
	}
	s.fails(5, "tasks", "exec", "--exec-id", "a", "box", "sh", "-c", "exit 5") // the name is free again
	if _, stderr := s.fails(1, "tasks", "exec", "--exec-id", "b", "box", "/no/such/program"); !strings.Contains(stderr, "/no/such/program") {
		s.t.Errorf("error %q does not name the program", stderr)
	}
	for i := range 20 {
		if out := s.must("tasks", "exec", "--exec-id", fmt.Sprint("many", i), "box", "echo", strconv.Itoa(i)); out != fmt.Sprintln(i) {
			s.t.Errorf("exec %d said %q", i, out)
		}
	}
	if ps := s.must("tasks", "ps", "box"); strings.Count(ps, "\n") != 2 {
		s.t.Errorf("processes left by exec:\n%s", ps)
	}
}

func testKill(s *space) {
	s.must(s.run("-d", "stubborn", "sh", "-c", "trap '' TERM; trap 'exit 9' USR1; while :; do sleep 0.05; done")...)
	s.must("tasks", "kill", "-s", "SIGTERM", "stubborn")
	time.Sleep(200 * time.Millisecond)
	if st := s.status("stubborn"); st != "RUNNING" {
		s.t.Errorf("after SIGTERM it is %s", st)
	}
	s.until("the trap", func() bool {
		s.ctr("tasks", "kill", "-s", "SIGUSR1", "stubborn")
		return s.status("stubborn") == "STOPPED"
	})
	if _, err := s.ctr("tasks", "kill", "-s", "SIGKILL", "stubborn"); err == nil || !strings.Contains(err.Error(), "not found") {
		s.t.Errorf("kill of an ended task: %v", err)
	}
	_, err := s.ctr("tasks", "rm", "stubborn")
	if f, ok := err.(*failure); err != nil && (!ok || !strings.Contains(f.stderr, "exit code 9")) {
		s.t.Errorf("rm: %v", err)
	}
	s.must(s.run("-d", "many", "sh", "-c", "sleep 1000 & sleep 1000 & sleep 1000")...)
	s.must("tasks", "kill", "-a", "-s", "SIGKILL", "many")
	s.until("the end of all", func() bool { return s.status("many") == "STOPPED" })
}

func testPause(s *space) {
	s.must(s.run("-d", "box", "sleep", "1000")...)
	s.must("tasks", "pause", "box")
	if st := s.status("box"); st != "PAUSED" {
		s.t.Errorf("it is %s", st)
	}
	s.must("tasks", "resume", "box")
	if out := s.must("tasks", "exec", "--exec-id", "e", "box", "echo", "on"); out != "on\n" || s.status("box") != "RUNNING" {
		s.t.Errorf("it is %s and said %q", s.status("box"), out)
	}
	s.must("tasks", "pause", "box")
	s.must("tasks", "kill", "-s", "SIGKILL", "box") // a frozen process dies, too
	s.until("its end", func() bool { return s.status("box") == "STOPPED" })
}

func testMetrics(s *space) {
	s.must(s.run("-d --memory-limit 67108864", "box", "sh", "-c", "while :; do :; done")...)
	s.until("CPU time", func() bool {
		out := s.must("tasks", "metrics", "box")
		return strings.Contains(out, "67108864") && strings.Contains(out, "pids.current") && !strings.Contains(out, "cpuacct.usage            0 ")
	})
}

func testAttach(s *space) {
	s.must(s.run("-d", "box", "sh", "-c", "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.05; done")...)
	for range 2 { // and again after the first has left
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		cmd := exec.CommandContext(ctx, filepath.Join(s.bin, "ctr"), "-n", s.ns, "tasks", "attach", "box")
		cmd.Env = s.env()
		out, err := cmd.StdoutPipe()
		if err != nil {
			s.t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			s.t.Fatal(err)
		}
		buf := make([]byte, 200)
		if _, err := io.ReadFull(out, buf); err != nil || !strings.Contains(string(buf), "line ") {
			s.t.Errorf("attached and saw %q: %v", buf, err)
		}
		cmd.Process.Kill()
		cmd.Wait()
		cancel()
	}
	if st := s.status("box"); st != "RUNNING" {
		s.t.Errorf("after its readers have left it is %s", st)
	}
}

// event is a line of `ctr events`.
type event struct {
	topic string
	body  map[string]any
}

// watch collects the namespace's events in the background; the function that it returns stops that.
func (s *space) watch() (stop func() []event) {
	cmd := exec.Command(filepath.Join(s.bin, "ctr"), "events")
	cmd.Env = s.env()
	name := filepath.Join(s.t.TempDir(), "events")
	f, err := os.Create(name)
	if err != nil {
		s.t.Fatal(err)
	}
	cmd.Stdout = f
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	// It listens when it tells of something.
	s.until("the watch", func() bool {
		s.must("namespaces", "label", s.ns, fmt.Sprint("a=", time.Now().UnixNano()))
		b, _ := os.ReadFile(name)
		return len(b) > 0
	})
	return func() (list []event) {
		cmd.Process.Kill()
		cmd.Wait()
		f.Close()
		b, _ := os.ReadFile(name)
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			i := slices.Index(f, s.ns)
			if i < 0 || i+2 >= len(f) || !strings.HasPrefix(f[i+1], "/tasks/") {
				continue
			}
			e := event{topic: f[i+1], body: map[string]any{}}
			json.Unmarshal([]byte(strings.Join(f[i+2:], " ")), &e.body)
			list = append(list, e)
		}
		return list
	}
}

func testEvents(s *space) {
	s.must("namespaces", "create", s.ns)
	stop := s.watch()
	s.must(s.run("-d", "box", "sleep", "1000")...)
	s.fails(4, "tasks", "exec", "--exec-id", "e", "box", "sh", "-c", "exit 4")
	s.must("tasks", "pause", "box")
	s.must("tasks", "resume", "box")
	s.must("tasks", "kill", "-s", "SIGKILL", "box")
	s.until("its end", func() bool { return s.status("box") == "STOPPED" })
	s.ctr("tasks", "rm", "box")
	time.Sleep(2 * time.Second)
	var got []string
	for _, e := range stop() {
		if e.body["container_id"] != "box" {
			s.t.Errorf("event %v is of another container", e)
		}
		got = append(got, strings.TrimPrefix(e.topic, "/tasks/"))
	}
	want := []string{"create", "start", "exec-added", "exec-started", "exit", "paused", "resumed", "exit", "delete"}
	if !slices.Equal(got, want) {
		s.t.Errorf("events %v\nwant   %v", got, want)
	}
}

func testDeadShim(s *space) {
	s.must(s.run("-d", "box", "sh", "-c", "sleep 1000 & sleep 1000")...)
	pids := s.shims()
	if len(pids) != 1 {
		s.t.Fatalf("shims %v", pids)
	}
	pid, _ := strconv.Atoi(pids[0])
	syscall.Kill(pid, syscall.SIGKILL)
	s.until("containerd's notice", func() bool { return s.status("box") != "RUNNING" })
	s.until("the end of its cgroup", func() bool { return len(s.cgroups()) == 0 })
	s.ctr("tasks", "rm", "box")
	s.must("containers", "rm", "box")
	if out := s.must(s.run("--rm", "box", "echo", "again")...); out != "again\n" {
		s.t.Errorf("the name is not free again: %q", out)
	}
}

func testBundleVanishes(s *space) {
	s.must(s.run("-d", "box", "sleep", "1000")...)
	if err := os.RemoveAll(filepath.Join(s.dir, "state/io.containerd.runtime.v2.task", s.ns, "box")); err != nil {
		s.t.Fatal(err)
	}
	if out := s.must("tasks", "exec", "--exec-id", "e", "box", "echo", "still here"); out != "still here\n" {
		s.t.Errorf("exec said %q", out)
	}
	pid, _ := strconv.Atoi(s.shims()[0])
	syscall.Kill(pid, syscall.SIGKILL) // and now the shim goes, too; containerd's delete can't start without the bundle
	s.until("its end", func() bool { return len(s.shims()) == 0 })
	s.must(s.run("--rm", "other", "true")...) // the next shim finds it
	s.until("the end of its cgroup", func() bool { return len(s.cgroups()) == 0 })
}

func testBadContainers(s *space) {
	if _, stderr := s.fails(1, s.run("", "noprogram", "/no/such/program")...); !strings.Contains(stderr, "/no/such/program") {
		s.t.Errorf("error %q does not name the program", stderr)
	}
	if _, stderr := s.fails(1, s.run("--mount type=bind,src=/no/such/folder,dst=/x,options=rbind", "nomount", "true")...); !strings.Contains(stderr, "/no/such/folder") {
		s.t.Errorf("error %q does not name the folder", stderr)
	}
	s.until("the end of the shims", func() bool { return len(s.shims()) == 0 })
}

// A process that an exec leaves behind holds its output open, and up nobody.
func testBackgroundProcess(s *space) {
	s.must(s.run("-d", "box", "sleep", "1000")...)
	s.must("tasks", "exec", "--exec-id", "e", "box", "sh", "-c", "sleep 1000 >/dev/null 2>&1 &")
	s.must("tasks", "kill", "-s", "SIGKILL", "box")
	s.until("its end", func() bool { return s.status("box") == "STOPPED" })
}
