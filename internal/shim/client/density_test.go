package client

import (
	"flag"
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"
)

var density = flag.Int("density", 0, "pods of one container each for TestDensity (SPECIFICATION.md promises for 200)")

// TestDensity measures what shims weigh, all together: with the default groups, and with one shim a pod.
//
//	go test ./internal/shim/client -run TestDensity -density 200 -v
func TestDensity(t *testing.T) {
	pods := *density
	if pods == 0 {
		t.Skip("a measurement: ask for it by -density 200")
	}
	for _, c := range []struct {
		size, most int // KiB a pod
	}{{0, 123}, {32, 256}, {1, 2048}} {
		t.Run(fmt.Sprint("group", c.size), func(t *testing.T) {
			b := newBench(t)
			b.crash()
			b.cfg.GroupSize = c.size
			b.open()
			shims := map[int]bool{}
			for i := range pods {
				id := strconv.Itoa(i)
				s := b.sandbox("pod" + id)
				b.run(s, ctr{id: "c" + id, sandbox: "pod" + id, args: []string{"sh", "-c", "echo hello; exec sleep 100000"}})
				shims[s.Pid()] = true
			}
			time.Sleep(5 * time.Second) // until they have given memory back
			var rss, pss, threads int
			for pid := range shims {
				r, p := memory(t, pid)
				rss, pss = rss+r, pss+p
				tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
				threads += len(tasks)
			}
			t.Logf("%d pods, %d shims, %d threads: RSS %d KiB, PSS %d KiB, that is %d KiB a pod", pods, len(shims), threads, rss, pss, pss/pods)
			if pss/pods > c.most {
				t.Errorf("%d KiB PSS a pod, want at most %d", pss/pods, c.most)
			}
			for i := range pods {
				id := strconv.Itoa(i)
				s, _ := b.m.Lookup("pod" + id)
				b.remove(s, "c"+id)
			}
		})
	}
}
