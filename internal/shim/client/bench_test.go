package client

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"testing"
	"time"

	taskv3 "github.com/containerd/containerd/api/runtime/task/v3"
)

// BenchmarkRun measures Create, Start, kill, wait and Delete of a container in a group that is there.
func BenchmarkRun(b *testing.B) {
	w := newBench(b)
	s := w.sandbox("pod1")
	c := ctr{id: "c1", sandbox: "pod1", args: []string{"sleep", "1000"}}
	var create, start, stop time.Duration
	for b.Loop() {
		t0 := time.Now()
		if err := w.create(s, c); err != nil {
			b.Fatal(err)
		}
		t1 := time.Now()
		if _, err := s.Task().Start(w.ctx(), &taskv3.StartRequest{ID: c.id}); err != nil {
			b.Fatal(err)
		}
		t2 := time.Now()
		w.remove(s, c.id)
		create, start, stop = create+t1.Sub(t0), start+t2.Sub(t1), stop+time.Since(t2)
	}
	n := float64(b.N) * 1e6
	b.ReportMetric(float64(create)/n, "create-ms")
	b.ReportMetric(float64(start)/n, "start-ms")
	b.ReportMetric(float64(stop)/n, "stop-ms")
}

// BenchmarkExecSync measures a whole ExecSync of `true`.
func BenchmarkExecSync(b *testing.B) {
	w := newBench(b)
	s := w.sandbox("pod1")
	w.run(s, ctr{id: "c1", sandbox: "pod1", args: []string{"sleep", "1000"}})
	for b.Loop() {
		if _, err := s.ExecSync(w.ctx(), "c1", program("true"), 0, 0); err != nil {
			b.Fatal(err)
		}
	}
	w.remove(s, "c1")
}

// BenchmarkAcquire measures the start and the end of a shim.
func BenchmarkAcquire(b *testing.B) {
	w := newBench(b)
	for i := 0; b.Loop(); i++ {
		id := "p" + strconv.Itoa(i)
		if _, err := w.m.Acquire(w.ctx(), Placement{SandboxID: id}); err != nil {
			b.Fatal(err)
		}
		if err := w.m.Release(w.ctx(), id); err != nil {
			b.Fatal(err)
		}
	}
}

// memory reads RSS and PSS of a process, in KiB.
func memory(t testing.TB, pid int) (rss, pss int) {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		t.Fatal(err)
	}
	field := func(name string) int {
		m := regexp.MustCompile(name + `:\s+(\d+) kB`).FindSubmatch(raw)
		n, _ := strconv.Atoi(string(m[1]))
		return n
	}
	return field("Rss"), field("Pss")
}

// TestMemory prints what a shim weighs; it judges only that a container costs it little.
func TestMemory(t *testing.T) {
	b := newBench(t)
	s := b.sandbox("pod0")
	report := func(n int) int {
		time.Sleep(4 * time.Second) // until the shim has given memory back
		rss, pss := memory(t, s.Pid())
		fds, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.Pid()))
		threads, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", s.Pid()))
		t.Logf("%2d containers: RSS %d KiB, PSS %d KiB, %d descriptors, %d threads", n, rss, pss, len(fds), len(threads))
		return pss
	}
	report(0)
	one := 0
	for i := range 32 {
		if i > 0 {
			b.sandbox("pod" + strconv.Itoa(i))
		}
		b.run(s, ctr{id: "c" + strconv.Itoa(i), sandbox: "pod" + strconv.Itoa(i), args: []string{"sh", "-c", "echo hello; exec sleep 1000"}})
		if i == 0 {
			one = report(1)
		}
	}
	all := report(32)
	if each := (all - one) / 31; each > 300 {
		t.Errorf("a container costs the shim %d KiB", each)
	}
}
