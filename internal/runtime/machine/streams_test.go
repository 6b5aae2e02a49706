package machine_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/11f9778f/berth/internal/runtime"
	"github.com/11f9778f/berth/internal/sys"
)

// buffer is a Writer that a test may read while somebody writes.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) { b.mu.Lock(); defer b.mu.Unlock(); return b.b.Write(p) }
func (b *buffer) String() string              { b.mu.Lock(); defer b.mu.Unlock(); return b.b.String() }

func TestStreams(t *testing.T) {
	p := newPlace(t)
	d := p.open(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	sb, err := d.rt.RunSandbox(ctx, p.pod("web", false))
	if err != nil {
		t.Fatal(err)
	}
	spec := shell("main", "while read x; do echo got $x; done; echo eof; sleep 1000")
	spec.Stdin, spec.StdinOnce = true, true
	c, err := d.start(ctx, sb, spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Run("exec", func(t *testing.T) { d.checkExec(t, ctx, c) })
	t.Run("exec sync", func(t *testing.T) { d.checkExecSync(t, ctx, c) })
	t.Run("attach", func(t *testing.T) { d.checkAttach(t, ctx, c) })
	t.Run("port forward", func(t *testing.T) { d.checkPortForward(t, ctx, sb, c) })
	t.Run("log rotation", func(t *testing.T) { d.checkRotation(t, ctx, p, sb) })
	t.Run("limits", func(t *testing.T) { d.checkLimits(t, ctx, sb) })
	if err := d.rt.RemoveSandbox(ctx, sb); err != nil {
		t.Fatal(err)
	}
	d.checkEmpty(t)
}

func (d *daemon) checkExec(t *testing.T, ctx context.Context, c string) {
	var out, errs buffer
	code, err := d.rt.Exec(ctx, c, []string{"sh", "-c", "cat; echo oops >&2; exit 4"}, runtime.Streams{In: strings.NewReader("hello"), Out: &out, Err: &errs})
	if err != nil || code != 4 || out.String() != "hello" || errs.String() != "oops\n" {
		t.Errorf("code %d, %v, %q, %q", code, err, out.String(), errs.String())
	}
	var tty buffer
	sizes := make(chan runtime.TerminalSize, 1)
	sizes <- runtime.TerminalSize{Width: 99, Height: 33}
	code, err = d.rt.Exec(ctx, c, []string{"sh", "-c", "test -t 0 && echo tty; until test \"$(busybox stty size 2>/dev/null)\" = '33 99'; do sleep 0.05; done; echo fits"}, runtime.Streams{Out: &tty, TTY: true, Resize: sizes})
	if err != nil || code != 0 || tty.String() != "tty\r\nfits\r\n" {
		t.Errorf("tty: code %d, %v, %q", code, err, tty.String())
	}
	if _, err := d.rt.Exec(ctx, c, []string{"/no/such"}, runtime.Streams{Out: &out}); err == nil || !strings.Contains(err.Error(), "/no/such") {
		t.Errorf("exec of nothing: %v", err)
	}
}

func (d *daemon) checkExecSync(t *testing.T, ctx context.Context, c string) {
	r, err := d.rt.ExecSync(ctx, c, []string{"sh", "-c", "dd if=/dev/zero bs=1048576 count=20 2>/dev/null; echo done >&2"}, 0)
	if err != nil || len(r.Stdout) != 16<<20 || string(r.Stderr) != "done\n" || r.ExitCode != 0 {
		t.Errorf("%d bytes, %q, %d, %v", len(r.Stdout), r.Stderr, r.ExitCode, err)
	}
	began := time.Now()
	r, err = d.rt.ExecSync(ctx, c, []string{"sleep", "100"}, 300*time.Millisecond)
	if err != nil || !r.TimedOut || time.Since(began) > 20*time.Second {
		t.Errorf("timeout: %+v, %v", r, err)
	}
}

func (d *daemon) checkAttach(t *testing.T, ctx context.Context, c string) {
	in, give := io.Pipe()
	var out buffer
	done := make(chan error, 1)
	actx, leave := context.WithCancel(ctx)
	defer leave()
	go func() { done <- d.rt.Attach(actx, c, runtime.Streams{In: in, Out: &out}) }()
	io.WriteString(give, "one\ntwo\n")
	eventually(t, "the answer comes", func() bool { return strings.Contains(out.String(), "got one\ngot two\n") })
	give.Close() // stdin once: the process sees the end
	eventually(t, "the end comes", func() bool { return strings.Contains(out.String(), "eof\n") })
	leave()
	<-done
}

type half struct {
	io.Reader
	io.Writer
}

func (half) Close() error { return nil }

func (d *daemon) checkPortForward(t *testing.T, ctx context.Context, sb, c string) {
	if _, err := d.rt.ExecSync(ctx, c, []string{"sh", "-c", "echo page > /tmp/index.html; httpd -p 127.0.0.1:8080 -h /tmp"}, 0); err != nil {
		t.Fatal(err)
	}
	var out buffer
	eventually(t, "the page is there", func() bool {
		return d.rt.PortForward(ctx, sb, 8080, half{strings.NewReader("GET / HTTP/1.0\r\n\r\n"), &out}) == nil
	})
	if !strings.HasSuffix(out.String(), "page\n") {
		t.Errorf("%q", out.String())
	}
	if l, err := net.Dial("tcp", "127.0.0.1:8080"); err == nil {
		l.Close()
		t.Log("something on the host listens at the same port; the pod's is another")
	}
	if err := d.rt.PortForward(ctx, sb, 9, half{strings.NewReader(""), &out}); err == nil {
		t.Error("a port that nobody listens to was forwarded")
	}
}

func (d *daemon) checkRotation(t *testing.T, ctx context.Context, p place, sb string) {
	c, err := d.start(ctx, sb, shell("log", "i=0; while :; do echo line $i; i=$((i+1)); sleep 0.02; done"))
	if err != nil {
		t.Fatal(err)
	}
	st, _ := d.rt.Container(c)
	eventually(t, "there is a log", func() bool { b, _ := os.ReadFile(st.LogPath); return bytes.Contains(b, []byte("line 3")) })
	old := filepath.Join(filepath.Dir(st.LogPath), "old.log")
	if err := os.Rename(st.LogPath, old); err != nil {
		t.Fatal(err)
	}
	if err := d.rt.ReopenLog(ctx, c); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the new log grows", func() bool { b, _ := os.ReadFile(st.LogPath); return bytes.Count(b, []byte("\n")) > 3 })
	if err := d.rt.RemoveContainer(ctx, c); err != nil {
		t.Fatal(err)
	}
	a, _ := os.ReadFile(old)
	b, _ := os.ReadFile(st.LogPath)
	lines := strings.Split(strings.TrimSpace(string(a)+string(b)), "\n")
	for i, l := range lines {
		if want := "stdout F line " + strconv.Itoa(i); !strings.HasSuffix(l, want) {
			t.Fatalf("line %d of both files is %q", i, l)
		}
	}
}

// checkLimits: memory above the limit is an OOM kill that the status tells, and an update is seen.
func (d *daemon) checkLimits(t *testing.T, ctx context.Context, sb string) {
	spec := shell("hog", "sleep 0.5; x=$(dd if=/dev/zero bs=1048576 count=200 | busybox tr '\\0' x); echo ${#x}")
	spec.Resources.MemoryLimit = 32 << 20
	c, err := d.start(ctx, sb, spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.rt.UpdateResources(ctx, c, runtime.Resources{MemoryLimit: 24 << 20}); err != nil {
		t.Error(err)
	}
	if st, err := d.rt.ContainerStats(ctx, c); err != nil || st.Cgroup.MemoryLimit != 24<<20 {
		t.Errorf("limit %d, %v", st.Cgroup.MemoryLimit, err)
	}
	if l, err := d.kernel().Limits(ctx, must(d.rt.Container(c)).CgroupPath); err != nil || l.MemoryLimit != 24<<20 {
		t.Errorf("%+v, %v", l, err)
	}
	eventually(t, "the hog is killed", func() bool { st, _ := d.rt.Container(c); return st.State == runtime.ContainerExited })
	st, _ := d.rt.Container(c)
	if st.Reason != "OOMKilled" || st.ExitCode == 0 {
		t.Errorf("%s %d %s", st.Reason, st.ExitCode, st.Message)
	}
	told := false // the kernel tells of ten victims in five seconds, and of no more
	err = sys.KernelLog(func(text string) {
		told = told || strings.HasPrefix(text, "oom-kill:") && strings.Contains(text, st.CgroupPath)
	})
	if !told {
		t.Log("the kernel does not tell of the victim: ", err)
	} else if !regexp.MustCompile(`^the kernel's OOM killer ended .+ \(pid \d+\)`).MatchString(st.Message) {
		t.Errorf("message %q", st.Message)
	}
}
