package machine_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/11f9778f/berth/internal/runtime"
)

// consumption is what a process has of the kernel's.
type consumption struct{ threads, files int }

func consumed(pid int) consumption {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	return consumption{len(threads), len(files)}
}

// Hundreds of execs and attaches that end as badly as they can cost the daemon and the shim no thread and no
// descriptor, and leave no process in the container (containerd #9668, Kubernetes #82440, CVE-2025-64329).
func TestExecsLeaveNothing(t *testing.T) {
	p := newPlace(t)
	d := p.open(t)
	ctx := context.Background()
	sb, err := d.rt.RunSandbox(ctx, p.pod("probed", false))
	if err != nil {
		t.Fatal(err)
	}
	spec := shell("main", "while :; do echo tick; sleep 0.02; done")
	spec.Stdin = true
	c, err := d.start(ctx, sb, spec)
	if err != nil {
		t.Fatal(err)
	}
	const slack = 12 // threads come and go with the load
	d.badlyEnded(t, c)
	before := map[int]consumption{os.Getpid(): consumed(os.Getpid())}
	for _, shim := range d.shims.Inventory().Groups {
		before[shim.Pid] = consumed(shim.Pid)
	}
	if len(before) < 2 {
		t.Fatalf("no shim was found: %v", before)
	}
	for range 40 {
		d.badlyEnded(t, c)
	}
	for pid, was := range before {
		eventually(t, fmt.Sprintf("process %d has what it had, %+v", pid, was), func() bool {
			now := consumed(pid)
			return now.threads <= was.threads+slack && now.files <= was.files+slack
		})
	}
	eventually(t, "no process of an exec is left in the container", func() bool {
		return d.exec(t, c, "ps | grep -c ' sleep 100$'; true") == "0"
	})
	if err := d.rt.RemoveSandbox(ctx, sb); err != nil {
		t.Fatal(err)
	}
	d.checkEmpty(t)
}

// badlyEnded is one of each kind.
func (d *daemon) badlyEnded(t *testing.T, c string) {
	t.Helper()
	ctx := context.Background()
	if r, err := d.rt.ExecSync(ctx, c, []string{"sh", "-c", "sleep 0.1 & exit 3"}, time.Minute); err != nil || r.ExitCode != 3 { // its child has the output open
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := d.rt.ExecSync(ctx, c, []string{"/no/such/program"}, time.Minute); err == nil {
		t.Error("nothing was run")
	}
	if r, err := d.rt.ExecSync(ctx, c, []string{"sleep", "100"}, 5*time.Millisecond); err != nil || !r.TimedOut {
		t.Errorf("%+v, %v", r, err)
	}
	for _, tty := range []bool{false, true} { // clients that leave in the middle
		short, leave := context.WithTimeout(ctx, 20*time.Millisecond)
		in, give := io.Pipe()
		sizes := make(chan runtime.TerminalSize, 100)
		for i := range cap(sizes) {
			sizes <- runtime.TerminalSize{Width: uint16(i + 1), Height: 1}
		}
		if _, err := d.rt.Exec(short, c, []string{"sleep", "100"}, runtime.Streams{In: in, Out: io.Discard, TTY: tty, Resize: sizes}); err == nil {
			t.Error("it did not end")
		}
		leave()
		give.Close()
	}
	short, leave := context.WithTimeout(ctx, 20*time.Millisecond)
	defer leave()
	in, give := io.Pipe()
	defer give.Close()
	if err := d.rt.Attach(short, c, runtime.Streams{In: in, Out: brokenWriter{}}); err != nil && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, errBroken) {
		t.Error(err)
	}
}

var errBroken = errors.New("the client has gone")

// brokenWriter is a client whose connection is gone.
type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errBroken }
