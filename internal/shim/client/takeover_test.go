package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	taskv3 "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"

	"github.com/11f9778f/berth/internal/shim/api/pb"
	"github.com/11f9778f/berth/internal/shim/launch"
	"github.com/11f9778f/berth/internal/shim/state"
)

// counting writes numbered lines as fast as it can, and ends with 42 when the file /tmp/<id> appears.
func counting(id string) ctr {
	script := `i=0; while [ ! -e /tmp/` + id + ` ]; do i=$((i+1)); echo line $i; done; echo $i >/tmp/` + id + `.count; exit 42`
	return ctr{id: id, sandbox: "pod1", args: []string{"sh", "-c", script}}
}

func (b *bench) stopCounting(id string) {
	b.t.Helper()
	if err := os.WriteFile(filepath.Join(b.rootfs, "tmp", id), nil, 0o644); err != nil {
		b.t.Fatal(err)
	}
}

// checkCount checks that each line that the container wrote is in its log, once and in order.
func (b *bench) checkCount(id string) {
	b.t.Helper()
	raw, err := os.ReadFile(filepath.Join(b.rootfs, "tmp", id+".count"))
	if err != nil {
		b.t.Fatal(err)
	}
	n, _ := strconv.Atoi(strings.TrimSpace(string(raw)))
	got := b.log(id)
	b.t.Logf("%s wrote %d lines", id, n)
	if len(got) != n {
		b.t.Errorf("%s wrote %d lines, %d are in the log", id, n, len(got))
	}
	for i, line := range got {
		if want := fmt.Sprintf("stdout F line %d", i+1); line != want {
			b.t.Fatalf("record %d of %s is %q", i+1, id, line)
		}
	}
}

func (b *bench) killShim(s *Shim) int {
	b.t.Helper()
	pid := s.Pid()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		b.t.Fatal(err)
	}
	return pid
}

func TestKilledShimIsReplaced(t *testing.T) {
	b := newBench(t)
	s := b.sandbox("pod1")
	b.run(s, counting("c1"))
	b.run(s, ctr{id: "c2", sandbox: "pod1", stdin: true, args: []string{"sh", "-c", "read x; echo got $x; exit 9"}})
	b.run(s, ctr{id: "c3", sandbox: "pod1", tty: true, stdin: true, args: []string{"sh", "-c", "read x; echo got $x; exit 8"}})
	pid := int(b.state(s, "c1").Pid)
	rounds := 8
	if testing.Short() {
		rounds = 2
	}
	for range rounds {
		time.Sleep(50 * time.Millisecond)
		b.forget()
		old := b.killShim(s)
		b.event("loss", kindOf(EventShimLost))
		b.event("replacement", kindOf(EventShimReplaced))
		if s.Pid() == old {
			t.Fatalf("the shim is still %d", old)
		}
		c := b.state(s, "c1")
		if int(c.Pid) != pid || c.Status != pb.Status_STATUS_RUNNING || !c.Adopted {
			t.Fatalf("after the takeover: %v", c)
		}
	}
	// Input and terminal came over, too.
	var out bytes.Buffer
	exit, err := s.Attach(b.ctx(), "c2", Streams{Stdin: strings.NewReader("word\n"), Stdout: &out})
	if err != nil || exit.Code != 9 || out.String() != "got word\n" {
		t.Errorf("attach: %v, %v, %q", exit, err, out.String())
	}
	r, w := io.Pipe()
	go w.Write([]byte("word\n"))
	exit, err = s.Attach(b.ctx(), "c3", Streams{Stdin: r, Stdout: io.Discard})
	w.Close()
	if err != nil || exit.Code != 8 {
		t.Errorf("attach to terminal: %v, %v", exit, err)
	}
	if got := strings.Join(b.log("c3"), ";"); !strings.Contains(got, "got word") {
		t.Errorf("log of the terminal: %q", got)
	}
	x, err := s.ExecSync(b.ctx(), "c1", program("echo", "alive"), 0, 0)
	if err != nil || string(x.Stdout) != "alive\n" {
		t.Errorf("exec: %v, %v", x, err)
	}
	b.stopCounting("c1")
	if e := b.event("exit", exitOf("c1")); e.Exit.Code != 42 || e.Exit.Unknown {
		t.Errorf("%v", e.Exit)
	}
	b.checkCount("c1")
	for _, id := range []string{"c1", "c2", "c3"} {
		b.remove(s, id)
	}
}

func TestEndDuringTakeoverIsKnown(t *testing.T) {
	b := newBench(t)
	s := b.sandbox("pod1")
	b.run(s, ctr{id: "c1", sandbox: "pod1", args: []string{"sh", "-c", "while [ ! -e /tmp/c1 ]; do usleep 1000; done; echo last words; exit 42"}})
	// While nobody looks: the manager is away (the daemon is stopped), the shim dies, and then the container ends.
	shimPid := s.Pid()
	g := s.g
	g.mu.Lock()
	g.ending = true // this manager starts no successor yet
	dead := g.process
	g.mu.Unlock()
	syscall.Kill(shimPid, syscall.SIGKILL)
	<-dead.dead
	pid := containerPid(t, b, "c1")
	os.WriteFile(filepath.Join(b.rootfs, "tmp/c1"), nil, 0o644)
	b.until("the end of the container", func() bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) })
	g.mu.Lock()
	g.ending = false
	g.mu.Unlock()
	if err := g.succeed(b.ctx()); err != nil {
		t.Fatal(err)
	}
	e := b.event("exit", exitOf("c1"))
	if e.Exit.Code != 42 || e.Exit.Unknown {
		t.Errorf("%v", e.Exit)
	}
	if got := strings.Join(b.log("c1"), ";"); got != "stdout F last words" {
		t.Errorf("log %q", got)
	}
	if b.wait(s, "c1") != 42 {
		t.Error("wait says something else")
	}
	b.remove(s, "c1")
}

// containerPid reads a container's pid from the shim's record of it.
func containerPid(t *testing.T, b *bench, id string) int {
	t.Helper()
	files, _ := filepath.Glob(filepath.Join(b.dir, "run/shims/*/containers", id+".json"))
	if len(files) != 1 {
		t.Fatalf("records %q", files)
	}
	raw, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(raw), `"pid":`)
	num, _, _ := strings.Cut(rest, ",")
	pid, err := strconv.Atoi(num)
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

func TestDaemonRestart(t *testing.T) {
	b := newBench(t)
	s := b.sandbox("pod1")
	b.run(s, counting("c1"))
	b.run(s, ctr{id: "c2", sandbox: "pod1", args: []string{"sh", "-c", "while [ ! -e /tmp/c2 ]; do usleep 1000; done; exit 7"}})
	shimPid := s.Pid()
	b.crash()
	b.forget()
	os.WriteFile(filepath.Join(b.rootfs, "tmp/c2"), nil, 0o644)
	time.Sleep(300 * time.Millisecond)
	b.open()
	s, ok := b.m.Lookup("pod1")
	if !ok || s.Pid() != shimPid {
		t.Fatalf("the shim is %v", s)
	}
	// What ended while no daemon was there is sent now, and is in the state.
	if e := b.event("exit", exitOf("c2")); e.Exit.Code != 7 {
		t.Errorf("%v", e)
	}
	if c := b.state(s, "c2"); c.Status != pb.Status_STATUS_STOPPED || c.Exit.Code != 7 {
		t.Errorf("%v", c)
	}
	if c := b.state(s, "c1"); c.Status != pb.Status_STATUS_RUNNING || c.Adopted {
		t.Errorf("%v", c)
	}
	b.stopCounting("c1")
	b.wait(s, "c1")
	b.checkCount("c1")
	b.remove(s, "c1")
	b.remove(s, "c2")
}

func TestDaemonAndShimKilled(t *testing.T) {
	b := newBench(t)
	s := b.sandbox("pod1")
	b.run(s, counting("c1"))
	b.run(s, ctr{id: "c2", sandbox: "pod1", args: []string{"sh", "-c", "while [ ! -e /tmp/c2 ]; do usleep 1000; done; exit 7"}})
	shimPid := s.Pid()
	b.crash()
	syscall.Kill(shimPid, syscall.SIGKILL)
	os.WriteFile(filepath.Join(b.rootfs, "tmp/c2"), nil, 0o644)
	time.Sleep(300 * time.Millisecond)
	b.open()
	s, ok := b.m.Lookup("pod1")
	if !ok || s.Pid() == shimPid || s.Pid() == 0 {
		t.Fatal("no successor")
	}
	if c := b.state(s, "c1"); c.Status != pb.Status_STATUS_RUNNING || !c.Adopted {
		t.Errorf("%v", c)
	}
	// Nobody held a pidfd when this one ended: that it ended is known; how, only while its zombie is there.
	b.until("end", func() bool { return b.state(s, "c2").Status == pb.Status_STATUS_STOPPED })
	x := b.state(s, "c2").Exit
	if unknown := x.Unknown && x.Code == 255 && x.Reason != ""; !unknown && (x.Unknown || x.Code != 7) {
		t.Errorf("%v", x)
	}
	b.stopCounting("c1")
	b.wait(s, "c1")
	b.checkCount("c1")
	b.remove(s, "c1")
	b.remove(s, "c2")
}

func TestCreatedContainerEndsWithItsShim(t *testing.T) {
	b := newBench(t)
	s := b.sandbox("pod1")
	if err := b.create(s, ctr{id: "c1", sandbox: "pod1", args: []string{"true"}}); err != nil {
		t.Fatal(err)
	}
	b.killShim(s)
	b.event("exit", exitOf("c1"))
	if _, err := s.Task().Start(b.ctx(), &taskv3.StartRequest{ID: "c1"}); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("start: %v", err)
	}
	b.remove(s, "c1")
}

func TestKilledInCreate(t *testing.T) {
	for _, place := range []string{"shim/create/intent", "shim/create/made", "shim/start/started", "shim/delete/before", "shim/delete/after"} {
		t.Run(place, func(t *testing.T) {
			t.Setenv("BERTH_FAILPOINT", place+"=kill")
			b := newBench(t)
			s := b.sandbox("pod1")
			os.Unsetenv("BERTH_FAILPOINT") // the successor has none
			c := ctr{id: "c1", sandbox: "pod1", args: []string{"sleep", "1000"}}
			err := b.create(s, c)
			if err == nil {
				_, err = s.Task().Start(b.ctx(), &taskv3.StartRequest{ID: "c1"})
			}
			if err == nil {
				s.Task().Kill(b.ctx(), &taskv3.KillRequest{ID: "c1", Signal: 9})
				b.wait(s, "c1")
				_, err = s.Task().Delete(b.ctx(), &taskv3.DeleteRequest{ID: "c1"})
			}
			if !errors.Is(err, errdefs.ErrUnavailable) {
				t.Fatalf("the call in flight: %v", err)
			}
			b.event("replacement", kindOf(EventShimReplaced))
			list, err := s.Berth().List(b.ctx(), &pb.ListRequest{})
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range list.Containers {
				b.remove(s, c.Id)
			}
			b.remains(s, 0)
			b.run(s, c) // the name is free again
			b.remove(s, "c1")
		})
	}
}

// A daemon that dies between the start of a shim and the shim's first answer leaves one that nobody knows of yet. The
// next daemon waits for it and ends it.
func TestDaemonDiesAsItStartsAShim(t *testing.T) {
	b := newBench(t)
	b.crash()
	dir := filepath.Join(b.dir, "run/shims/half")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := state.Save(filepath.Join(dir, groupFile), groupRecord{ID: "half", Binary: b.bin}); err != nil {
		t.Fatal(err)
	}
	slow := filepath.Join(b.dir, "slow")
	if err := os.WriteFile(slow, []byte("#!/bin/sh\nsleep 0.3\nexec "+b.bin+" \"$@\"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	started := make(chan *exec.Cmd)
	go func() {
		cmd, err := launch.Start(context.Background(), slow, launch.Boot{Dir: dir, Group: "half", Generation: 1, Managed: true}, nil)
		if err != nil {
			t.Error(err)
		}
		started <- cmd
	}()
	b.until("the shim's lock", func() bool { return launch.Lives(dir) })
	b.open()
	if cmd := <-started; cmd != nil {
		cmd.Wait()
	}
	b.until("the end of the directory", func() bool { _, err := os.Stat(dir); return errors.Is(err, os.ErrNotExist) })
}

func TestStoppedShimIsNoticed(t *testing.T) {
	b := newBench(t)
	s := b.sandbox("pod1")
	b.run(s, counting("c1"))
	b.stop(s.Pid())
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	_, err := s.Berth().List(ctx, &pb.ListRequest{})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	b.event("stuck", kindOf(EventShimStuck))
	if g := b.m.Inventory().Groups; len(g) != 1 || !g[0].Stuck {
		t.Errorf("%v", g)
	}
	syscall.Kill(s.Pid(), syscall.SIGCONT)
	b.event("answers", kindOf(EventShimAnswers))
	// A new daemon comes up beside a stopped shim, too.
	b.stop(s.Pid())
	b.crash()
	b.open()
	s, _ = b.m.Lookup("pod1")
	syscall.Kill(s.Pid(), syscall.SIGCONT)
	b.stopCounting("c1")
	b.wait(s, "c1")
	b.checkCount("c1")
	b.remove(s, "c1")
}

func TestGarbageOnTheSockets(t *testing.T) {
	b := newBench(t)
	s := b.sandbox("pod1")
	b.run(s, ctr{id: "c1", sandbox: "pod1", args: []string{"sleep", "1000"}})
	dir := filepath.Join(b.dir, "run/shims", s.Group())
	for _, name := range []string{"shim.sock", "stream.sock"} {
		for _, junk := range [][]byte{
			nil, []byte("\n"), []byte("GET / HTTP/1.1\r\n\r\n"), bytes.Repeat([]byte{0xff}, 1<<20), bytes.Repeat([]byte{0}, 100),
			{0, 0, 0, 4, 0, 0, 0, 1, 1, 0, 0xff, 0xff, 0xff, 0xff}, {0, 0x40, 0, 1, 0, 0, 0, 1, 1, 0},
		} {
			conn, err := net.Dial("unix", filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			conn.SetDeadline(time.Now().Add(time.Second))
			conn.Write(junk)
			conn.Close()
		}
	}
	for _, id := range []string{"", "..", "a/b", strings.Repeat("x", 1000)} {
		if _, err := s.Task().Create(b.ctx(), &taskv3.CreateTaskRequest{ID: id, Bundle: "/"}); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("id %.20q: %v", id, err)
		}
	}
	for _, r := range []*taskv3.CreateTaskRequest{
		{ID: "c2", Bundle: "relative"}, {ID: "c2", Bundle: "/", Stdout: "ftp:///bin/sh"}, {ID: "c2", Bundle: "/", Stdout: "cri://relative"},
		{ID: "c2", Bundle: "/", Stdin: "cri:///x"}, {ID: "c2", Bundle: "/", Stdout: "cri:///x", Stderr: "cri:///y"},
	} {
		if _, err := s.Task().Create(b.ctx(), r); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%v: %v", r, err)
		}
	}
	if _, err := s.Berth().ExecSync(b.ctx(), &pb.ExecSyncRequest{Id: "c1", Process: []byte("{")}); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Error(err)
	}
	if _, err := s.Task().Exec(b.ctx(), &taskv3.ExecProcessRequest{ID: "c1", ExecID: "e"}); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Error(err)
	}
	if c := b.state(s, "c1"); c.Status != pb.Status_STATUS_RUNNING {
		t.Errorf("%v", c)
	}
	b.remove(s, "c1")
}

// TestForeignProtocol drives our own shim as if it were somebody else's, as a stock containerd does.
func TestForeignProtocol(t *testing.T) {
	b := newBench(t)
	t.Setenv("BERTH_SHIM_STATE", filepath.Join(b.dir, "state"))
	b.m.cfg.Handlers["other"] = Handler{Binary: b.bin, Foreign: true}
	c := ctr{id: "pod2", sandbox: "pod2", args: []string{"sh", "-c", "exit 3"}}
	bundle := b.bundle(c)
	s, err := b.m.Acquire(b.ctx(), Placement{SandboxID: "pod2", Tenant: "t", Handler: "other", Bundle: bundle})
	if err != nil {
		t.Fatal(err)
	}
	if s.Berth() != nil {
		t.Error("a foreign shim has our service")
	}
	if _, err := s.Task().Create(b.ctx(), &taskv3.CreateTaskRequest{ID: c.id, Bundle: bundle}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Task().Start(b.ctx(), &taskv3.StartRequest{ID: c.id}); err != nil {
		t.Fatal(err)
	}
	if e := b.event("exit", exitOf("pod2")); e.Exit.Code != 3 {
		t.Errorf("%v", e)
	}
	if _, err := s.Task().Delete(b.ctx(), &taskv3.DeleteRequest{ID: c.id}); err != nil {
		t.Error(err)
	}
	pid := s.Pid()
	if err := b.m.Release(b.ctx(), "pod2"); err != nil {
		t.Fatal(err)
	}
	b.until("the end of the shim", func() bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) || zombie(pid) })
}

// stop stops a process, and sees to it that it does not stay so.
func (b *bench) stop(pid int) {
	b.t.Helper()
	b.t.Cleanup(func() { syscall.Kill(pid, syscall.SIGCONT) }) // before the bench is torn down
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		b.t.Fatal(err)
	}
	b.until("stop", func() bool { // the signal reaches one thread after the other
		raw, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return bytes.Contains(raw, []byte(") T "))
	})
}

func zombie(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && strings.Contains(string(b), ") Z ")
}
