package sys

import (
	"errors"
	"os"
	"os/exec"
	"sync/atomic"
	"syscall"
	"testing"
)

func newPoller(t *testing.T) *Poller {
	t.Helper()
	p, err := NewPoller()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func TestPoller(t *testing.T) {
	p := newPoller(t)
	r, w, err := Pipe(0, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	conn, err := r.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan string)
	var running atomic.Int32
	if _, err := p.Add(r, func() bool {
		if running.Add(1) > 1 {
			t.Error("two calls at once")
		}
		defer running.Add(-1)
		b := make([]byte, 16)
		n := 0
		var rerr error
		conn.Control(func(fd uintptr) { n, rerr = ReadFD(fd, b) })
		if errors.Is(rerr, syscall.EAGAIN) {
			return true
		}
		got <- string(b[:n])
		return n > 0
	}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"one", "two", "three"} {
		w.WriteString(want)
		if have := <-got; have != want {
			t.Errorf("%q came, want %q", have, want)
		}
	}
	w.Close()
	if have := <-got; have != "" {
		t.Errorf("%q came at the end", have)
	}
}

func TestPollerStop(t *testing.T) {
	p := newPoller(t)
	r, w, err := Pipe(0, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	stopped, err := p.Add(r, func() bool { t.Error("called after Stop"); return false })
	if err != nil {
		t.Fatal(err)
	}
	stopped.Stop()
	if len(p.polled) != 0 {
		t.Errorf("%d watches are left", len(p.polled))
	}
	w.WriteString("x")
	// The descriptor can be watched again, and its event shows that the poller has come past the first watch.
	again := make(chan bool)
	if _, err := p.Add(r, func() bool { close(again); return false }); err != nil {
		t.Fatal(err)
	}
	<-again
}

func TestPollerPidFD(t *testing.T) {
	p := newPoller(t)
	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Skip(err)
	}
	defer cmd.Wait()
	fd, err := OpenPidFD(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer fd.Close()
	ended := make(chan bool)
	if _, err := p.Add(fd, func() bool { close(ended); return false }); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ended:
		t.Fatal("the process runs, and is said to have ended")
	default:
	}
	in.Close()
	<-ended
}

func TestPollerRefusesFiles(t *testing.T) {
	p := newPoller(t)
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	if _, err := p.Add(f, func() bool { return false }); err == nil {
		t.Error("a closed file is watched")
	}
	if len(p.polled) != 0 {
		t.Errorf("%d watches are left", len(p.polled))
	}
}
