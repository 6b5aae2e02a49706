package stage

import (
	"context"
	"errors"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/11f9778f/berth/internal/sys"
)

func start(t testing.TB, a Attr) *Stage {
	t.Helper()
	l, err := NewLauncher()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	s, err := l.Start(a)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Close()
		var ws unix.WaitStatus
		unix.Wait4(s.Pid, &ws, 0, nil)
		s.PidFD.Close()
	})
	return s
}

func TestResultsAndCells(t *testing.T) {
	s := start(t, Attr{})
	keep, err := s.NewCell()
	if err != nil {
		t.Fatal(err)
	}
	var p Program
	p.Do("getpid", unix.SYS_GETPID).Into(Answered(0))
	p.Do("open", unix.SYS_OPENAT, Int(unix.AT_FDCWD), p.String("/etc"), Int(unix.O_PATH|unix.O_CLOEXEC), Int(0)).Into(keep)
	if err := s.Run(context.Background(), &p); err != nil {
		t.Fatal(err)
	}
	if got := s.Answer(0); got != int64(s.Pid) {
		t.Errorf("getpid in the child: %d, want %d", got, s.Pid)
	}
	var q Program // the descriptor lives on in the next batch
	q.Do("chdir", unix.SYS_FCHDIR, keep.Value())
	if err := s.Run(context.Background(), &q); err != nil {
		t.Fatal(err)
	}
	if cwd, _ := os.Readlink("/proc/" + itoa(s.Pid) + "/cwd"); cwd != "/etc" {
		t.Errorf("cwd of the child: %q", cwd)
	}
}

// TestChildIsPunctual: the child does not inherit its parent's timer slack.
func TestChildIsPunctual(t *testing.T) {
	if err := sys.SlackTimers(time.Millisecond); err != nil {
		t.Skipf("it takes CAP_SYS_NICE: %v", err)
	}
	t.Cleanup(func() { _ = sys.SlackTimers(50 * time.Microsecond) })
	s := start(t, Attr{})
	if got, err := os.ReadFile("/proc/" + itoa(s.Pid) + "/timerslack_ns"); err != nil || string(got) != "50000\n" {
		t.Errorf("timer slack of the child: %q, %v, want 50000", got, err)
	}
}

func itoa(n int) string { return strconv.Itoa(n) }

func TestFailureNamesTheCall(t *testing.T) {
	s := start(t, Attr{})
	var p Program
	p.Do("tolerated", unix.SYS_CLOSE, Int(900)).Tolerate(unix.ENOENT, unix.EBADF)
	p.Do("look for /nowhere", unix.SYS_OPENAT, Int(unix.AT_FDCWD), p.String("/nowhere"), Int(0), Int(0))
	err := s.Run(context.Background(), &p)
	var e *Error
	if !errors.As(err, &e) || e.Index != 1 || e.Errno != unix.ENOENT || err.Error() != "look for /nowhere: no such file or directory" {
		t.Fatalf("got %v", err)
	}
	var q Program // and the child still listens
	q.Do("getpid", unix.SYS_GETPID)
	if err := s.Run(context.Background(), &q); err != nil {
		t.Fatal(err)
	}
}

func TestJumps(t *testing.T) {
	s := start(t, Attr{})
	var p Program
	var other, done Label
	p.Do("fails", unix.SYS_CLOSE, Int(900)).TolerateAny().ElseGoTo(&other)
	p.Do("skipped", unix.SYS_GETPID).Into(Answered(0))
	p.Mark(&other)
	p.Do("reached", unix.SYS_GETPID).Into(Answered(1))
	p.GoTo(&done)
	p.Do("jumped over", unix.SYS_GETPID).Into(Answered(2))
	p.Mark(&done)
	if err := s.Run(context.Background(), &p); err != nil {
		t.Fatal(err)
	}
	if s.Answer(0) != 0 || s.Answer(1) != int64(s.Pid) || s.Answer(2) != 0 {
		t.Errorf("cells: %d %d %d", s.Answer(0), s.Answer(1), s.Answer(2))
	}
}

func TestDescriptorsAndExecute(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for _, size := range []int{1, 100_000} { // within the packet, and mapped from a memfd
		s := start(t, Attr{})
		var p Program
		p.Do("stdout", unix.SYS_DUP3, p.File(w), Int(1), Int(0))
		big := strings.Repeat("x", size)
		env := []string{"A=" + big, "B=" + big}
		p.Do("execute", unix.SYS_EXECVE, p.String("/bin/sh"), p.Strings([]string{"sh", "-c", "echo ${#A} ${#B}"}), p.Strings(env))
		if err := s.Run(context.Background(), &p); !errors.Is(err, ErrExecuted) {
			t.Fatalf("size %d: %v", size, err)
		}
		var b [64]byte
		n, err := r.Read(b[:])
		if want := itoa(size) + " " + itoa(size) + "\n"; err != nil || string(b[:n]) != want {
			t.Errorf("output %q, %v; want %q", b[:n], err, want)
		}
	}
	w.Close()
}

func TestCancelledContext(t *testing.T) {
	s := start(t, Attr{})
	ctx, cancel := context.WithCancel(context.Background())
	var p Program
	p.Do("wait for ever", unix.SYS_PPOLL, Int(0), Int(0), Int(0), Int(0))
	go cancel()
	if err := s.Run(ctx, &p); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	unix.Kill(s.Pid, unix.SIGKILL)
}

func TestParentGone(t *testing.T) {
	s := start(t, Attr{})
	var p Program
	p.Do("getpid", unix.SYS_GETPID)
	if err := s.Run(context.Background(), &p); err != nil {
		t.Fatal(err)
	}
	s.Close()
	var ws unix.WaitStatus
	if _, err := unix.Wait4(s.Pid, &ws, 0, nil); err != nil || ws.ExitStatus() != 127 {
		t.Errorf("status %v, %v", ws, err)
	}
}

func BenchmarkStart(b *testing.B) {
	l, err := NewLauncher()
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	for b.Loop() {
		s, err := l.Start(Attr{})
		if err != nil {
			b.Fatal(err)
		}
		var p Program
		p.Do("getpid", unix.SYS_GETPID)
		if err := s.Run(context.Background(), &p); err != nil {
			b.Fatal(err)
		}
		s.Close()
		var ws unix.WaitStatus
		unix.Wait4(s.Pid, &ws, 0, nil)
		s.PidFD.Close()
	}
}

func TestParkedChildIsCalledByAnother(t *testing.T) {
	s := start(t, Attr{})
	var p Program
	p.Do("getpid", unix.SYS_GETPID)
	if err := s.Run(context.Background(), &p); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir() + "/" + strings.Repeat("long", 30) // longer than a socket's address
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := dir + "/start.sock"
	if err := s.Park(path); err != nil {
		t.Fatal(err)
	}
	s.Close() // the creator ends
	link, err := os.Readlink("/proc/" + itoa(s.Pid) + "/exe")
	if err != nil || !IsExecutable(link) {
		t.Fatalf("%q is not the stage, %v", link, err)
	}
	other, err := Call(path, s.Pid, s.PidFD)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	var q Program
	q.Do("getpid", unix.SYS_GETPID).Into(Answered(3))
	q.Do("look for /nowhere", unix.SYS_OPENAT, Int(unix.AT_FDCWD), q.String("/nowhere"), Int(0), Int(0))
	if err := other.Run(context.Background(), &q); err == nil || err.Error() != "look for /nowhere: no such file or directory" {
		t.Fatalf("got %v", err)
	}
	if other.Answer(3) != int64(s.Pid) {
		t.Errorf("pid %d, want %d", other.Answer(3), s.Pid)
	}
	var e Program
	e.Do("execute", unix.SYS_EXECVE, e.String("/bin/true"), e.Strings([]string{"true"}), e.Strings(nil))
	if err := other.Run(context.Background(), &e); !errors.Is(err, ErrExecuted) {
		t.Fatalf("got %v", err)
	}
	if _, err := Call(path, s.Pid, s.PidFD); err == nil {
		t.Error("a second call was answered")
	}
}
