package crilog

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/11f9778f/berth/internal/sys"
)

// fixture is a container's output without the container.
type fixture struct {
	t                *testing.T
	dir, fifo, spool string
	log              *Log
	w                *os.File // the container's end
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	dir := t.TempDir()
	f := &fixture{t: t, dir: dir, fifo: filepath.Join(dir, "fifo"), spool: filepath.Join(dir, "spool")}
	if err := sys.MakeFIFO(f.fifo, 0o600, os.Getuid(), os.Getgid()); err != nil {
		t.Fatal(err)
	}
	var err error
	if f.w, err = sys.OpenFIFO(f.fifo, syscall.O_RDWR); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.w.Close() })
	f.openLog()
	return f
}

// start lets the stream run.
func start(t testing.TB, s *Stream) {
	t.Helper()
	p, err := sys.NewPoller()
	if err == nil {
		err = s.Start(p)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
}

func (f *fixture) openLog() {
	f.t.Helper()
	l, err := Open(filepath.Join(f.dir, "0.log"), Rotation{})
	if err != nil {
		f.t.Fatal(err)
	}
	f.log = l
	f.t.Cleanup(func() { l.Close() })
}

func (f *fixture) follow(tap func([]byte)) *Stream {
	f.t.Helper()
	r, err := sys.OpenFIFO(f.fifo, syscall.O_RDONLY|syscall.O_NONBLOCK)
	if err != nil {
		f.t.Fatal(err)
	}
	s, err := f.log.Follow(Source{Name: Stdout, File: r, Spool: f.spool, Tap: tap})
	if err != nil {
		f.t.Fatal(err)
	}
	return s
}

// texts returns the tag and text of each record of a log file.
func texts(t *testing.T, path string) []string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for line := range strings.Lines(string(b)) {
		f := strings.SplitN(line, " ", 3)
		if len(f) != 3 {
			t.Fatalf("record %q", line)
		}
		if _, err := time.Parse("2006-01-02T15:04:05.999999999Z07:00", f[0]); err != nil {
			t.Fatalf("record %q: %v", line, err)
		}
		out = append(out, f[2])
	}
	return out
}

func (f *fixture) want(want ...string) {
	f.t.Helper()
	if got := texts(f.t, f.log.Path()); strings.Join(got, "") != strings.Join(want, "") {
		f.t.Errorf("log is %q, want %q", got, want)
	}
}

func TestStream(t *testing.T) {
	f := newFixture(t)
	var tapped bytes.Buffer
	s := f.follow(func(p []byte) { tapped.Write(p) })
	start(t, s)
	f.w.WriteString("one\ntwo\nthr")
	s.Drain()
	f.want("F one\n", "F two\n")
	f.w.WriteString("ee\nend")
	f.w.Close()
	<-s.Done()
	f.want("F one\n", "F two\n", "F three\n", "P end\n")
	if tapped.String() != "one\ntwo\nthree\nend" {
		t.Errorf("the tap got %q", tapped.String())
	}
	s.Close()
	if _, err := os.Stat(f.spool); err == nil {
		t.Error("the spool is still there")
	}
}

func TestReopenAfterRotation(t *testing.T) {
	f := newFixture(t)
	s := f.follow(nil)
	start(t, s)
	f.w.WriteString("before\nhalf")
	s.Drain()
	if err := os.Rename(f.log.Path(), f.log.Path()+".1"); err != nil {
		t.Fatal(err)
	}
	f.w.WriteString(" a line\n")
	s.Drain()
	if err := f.log.Reopen(); err != nil {
		t.Fatal(err)
	}
	f.w.WriteString("after\n")
	s.Close()
	f.want("F after\n")
	if got := texts(t, f.log.Path()+".1"); strings.Join(got, "") != "F before\nF half a line\n" {
		t.Errorf("rotated log is %q", got)
	}
}

func TestLogWithoutDirectoryIsOneSentence(t *testing.T) {
	_, err := Open(filepath.Join(t.TempDir(), "missing", "0.log"), Rotation{})
	if err == nil || !strings.Contains(err.Error(), "open container log") {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "0.log")
	os.Symlink("/etc/hostname", link)
	if _, err := Open(link, Rotation{}); err == nil {
		t.Fatal("a link was followed")
	}
}

func TestManyBytesThroughSmallSpool(t *testing.T) {
	f := newFixture(t)
	s := f.follow(nil)
	start(t, s)
	line := strings.Repeat("0123456789", 100) + "\n"
	w := bufio.NewWriter(f.w)
	for range 5000 {
		w.WriteString(line)
	}
	w.Flush()
	s.Drain()
	if st, _ := os.Stat(f.spool); st.Size() > spoolReset+2*maxMove {
		t.Errorf("the spool has grown to %d bytes", st.Size())
	}
	s.Close()
	got := texts(t, f.log.Path())
	if len(got) != 5000 {
		t.Errorf("%d records", len(got))
	}
	for _, g := range got {
		if g != "F "+line {
			t.Fatalf("record %q", g)
		}
	}
}

// TestSettle leaves a spool as a kill between any two steps would, and follows it anew.
func TestSettle(t *testing.T) {
	const have = "F old\n"
	for _, c := range []struct {
		name    string
		written int // bytes of the announced append that are in the log; -1: it was not announced
	}{{"spliced only", -1}, {"announced", 0}, {"partly appended", 7}, {"appended", 1 << 20}} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t)
			s := f.follow(nil)
			start(t, s)
			f.w.WriteString("old\nun")
			s.Drain()
			// From here on, the steps by hand, as this killed writer took them.
			s.polled.Stop()
			s.src.File.Close()
			s.finish()
			sp := s.spool
			sp.logged, sp.end = spoolBase+4, spoolBase+6 // undo the final flush of the unfinished line
			b, _ := os.ReadFile(f.log.Path())
			os.Truncate(f.log.Path(), int64(bytes.Index(b, []byte(have))+len(have)))
			sp.f.WriteAt([]byte("finished\nnext"), sp.end)
			if c.written >= 0 {
				enc, n := encode(nil, []byte("unfinished\n"), Stdout, time.Now(), false, 1<<20)
				f.log.write(func(time.Time) []byte { return enc[:min(c.written, len(enc))] }, func(ino uint64, size int64) {
					sp.announce(sp.logged+int64(n), ino, size, int64(len(enc)))
				})
			} else {
				sp.announce(sp.logged, 0, 0, 0)
			}
			sp.f.Close()
			if c.written > 100 { // also when the log was rotated while nobody was there
				os.Rename(f.log.Path(), f.log.Path()+".1")
				f.openLog()
			}
			next := f.follow(nil)
			start(t, next)
			f.w.WriteString(" line\n")
			next.Close()
			if c.written > 100 {
				f.want("F next line\n")
				return
			}
			f.want("F old\n", "F unfinished\n", "F next line\n")
		})
	}
}

// TestHelperWriter is not a test: it is the log writer that TestKilledWriter kills.
func TestHelperWriter(t *testing.T) {
	dir := os.Getenv("BERTH_CRILOG_TEST_DIR")
	if dir == "" {
		t.Skip("a helper process of TestKilledWriter")
	}
	size, _ := strconv.ParseInt(os.Getenv("BERTH_CRILOG_TEST_SIZE"), 10, 64)
	l, err := Open(filepath.Join(dir, "0.log"), Rotation{Size: size, Files: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	r, err := sys.OpenFIFO(filepath.Join(dir, "fifo"), syscall.O_RDONLY|syscall.O_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.Follow(Source{Name: Stdout, File: r, Spool: filepath.Join(dir, "spool")})
	if err != nil {
		t.Fatal(err)
	}
	start(t, s)
	<-s.Done()
}

// TestKilledWriter kills the writer again and again while numbered lines flow; none may be lost or doubled, also where the
// writer rotates the log.
func TestKilledWriter(t *testing.T) {
	t.Run("one file", func(t *testing.T) { testKilledWriter(t, 0) })
	t.Run("rotated", func(t *testing.T) { testKilledWriter(t, 64<<10) })
}

func testKilledWriter(t *testing.T, size int64) {
	f := newFixture(t)
	stop := make(chan struct{})
	count := make(chan int)
	go func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				count <- i
				return
			default:
				fmt.Fprintf(f.w, "line %d %s\n", i, strings.Repeat("=", i%100))
			}
		}
	}()
	helper := func() *exec.Cmd {
		cmd := exec.Command(os.Args[0], "-test.run=^TestHelperWriter$")
		cmd.Env = append(os.Environ(), "BERTH_CRILOG_TEST_DIR="+f.dir, "BERTH_CRILOG_TEST_SIZE="+strconv.FormatInt(size, 10))
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	rounds := 20
	if testing.Short() {
		rounds = 5
	}
	for i := range rounds {
		cmd := helper()
		time.Sleep(time.Duration(20+i*3%41) * time.Millisecond)
		cmd.Process.Kill()
		cmd.Wait()
	}
	last := helper()
	close(stop)
	n := <-count
	// A FIFO that nobody holds open forgets its bytes: the container's end stays until the last line is there.
	end := fmt.Sprintf(" F line %d ", n-1)
	for range 12000 {
		if b, _ := os.ReadFile(f.log.Path()); bytes.Contains(b[max(0, len(b)-300):], []byte(end)) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	f.w.Close()
	last.Wait() // the end of the FIFO
	files := f.files()
	var got []string
	for _, file := range files {
		got = append(got, texts(t, file)...)
	}
	t.Logf("%d lines in %d files through %d killed writers", n, len(files), rounds)
	if size > 0 && len(files) < 2 {
		t.Error("the log was not rotated")
	}
	if len(got) != n {
		t.Errorf("%d lines were written, %d are in the log", n, len(got))
	}
	for i, g := range got {
		num, _, _ := strings.Cut(strings.TrimPrefix(g, "F line "), " ")
		if num != strconv.Itoa(i) {
			t.Fatalf("record %d is %q", i, g)
		}
	}
}

func FuzzParseRecord(f *testing.F) {
	f.Add(record{logged: spoolBase}.marshal())
	f.Add(record{logged: 5000, pending: pending{6000, 7, 8, 9}}.marshal())
	f.Add(make([]byte, recordLen))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseRecord(b)
		if err != nil {
			return
		}
		if r.logged < spoolBase {
			t.Fatalf("%+v", r)
		}
		if back, err := parseRecord(r.marshal()); err != nil || back != r {
			t.Fatalf("%+v came back as %+v, %v", r, back, err)
		}
	})
}

func BenchmarkStream(b *testing.B) {
	dir := b.TempDir()
	fifo := filepath.Join(dir, "fifo")
	sys.MakeFIFO(fifo, 0o600, os.Getuid(), os.Getgid())
	w, _ := sys.OpenFIFO(fifo, syscall.O_RDWR)
	r, _ := sys.OpenFIFO(fifo, syscall.O_RDONLY|syscall.O_NONBLOCK)
	l, _ := Open(filepath.Join(dir, "0.log"), Rotation{})
	s, err := l.Follow(Source{Name: Stdout, File: r, Spool: filepath.Join(dir, "spool")})
	if err != nil {
		b.Fatal(err)
	}
	start(b, s)
	line := []byte(strings.Repeat("x", 99) + "\n")
	b.SetBytes(int64(len(line)))
	for b.Loop() {
		w.Write(line)
	}
	w.Close()
	<-s.Done()
}

// The stamps of what several streams write follow each other: readers go by them.
func TestStampsFollowEachOther(t *testing.T) {
	l, err := Open(filepath.Join(t.TempDir(), "log"), Rotation{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var both sync.WaitGroup
	for _, name := range []string{Stdout, Stderr} {
		both.Go(func() {
			for range 5000 {
				l.write(func(now time.Time) []byte {
					b, _ := encode(nil, []byte("x\n"), name, now, false, 1<<20)
					return b
				}, func(uint64, int64) {})
			}
		})
	}
	both.Wait()
	b, err := os.ReadFile(l.Path())
	if err != nil {
		t.Fatal(err)
	}
	var last time.Time
	for line := range bytes.Lines(b) {
		stamp, _, _ := bytes.Cut(line, []byte(" "))
		at, err := time.Parse(time.RFC3339Nano, string(stamp))
		if err != nil || at.Before(last) {
			t.Fatalf("%q after %s: %v", line, last, err)
		}
		last = at
	}
}
