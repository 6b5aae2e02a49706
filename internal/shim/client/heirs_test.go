package client

import (
	"io"
	"testing"
)

// Successors that die at once, or do not come to live, cost nothing of what only descriptors hold: input and terminal.
func TestShimsThatDieInARow(t *testing.T) {
	b := newBench(t)
	s := b.sandbox("pod1")
	b.run(s, counting("c1"))
	b.run(s, ctr{id: "c2", sandbox: "pod1", stdin: true, args: []string{"sh", "-c", "read x; echo got $x; exit 9"}})
	b.run(s, ctr{id: "c3", sandbox: "pod1", tty: true, stdin: true, args: []string{"sh", "-c", "read x; echo got $x; exit 8"}})
	for range 3 {
		binary, generation := b.binary(s, "/bin/false") // this one does not come to live
		b.killShim(s)
		b.until("a successor that fails", func() bool { _, g := b.binary(s, "/bin/false"); return g > generation+1 })
		b.forget()
		b.binary(s, binary)
		b.event("replacement", kindOf(EventShimReplaced))
		for range 3 { // nor do these live long enough to tell what they keep
			b.forget()
			b.killShim(s)
			b.event("replacement", kindOf(EventShimReplaced))
		}
	}
	for id, code := range map[string]uint32{"c2": 9, "c3": 8} {
		r, w := io.Pipe()
		go w.Write([]byte("word\n"))
		exit, err := s.Attach(b.ctx(), id, Streams{Stdin: r, Stdout: io.Discard})
		w.Close()
		if err != nil || exit.Code != code {
			t.Errorf("attach to %s: %v, %v", id, exit, err)
		}
	}
	b.stopCounting("c1")
	b.wait(s, "c1")
	b.checkCount("c1")
	for _, id := range []string{"c1", "c2", "c3"} {
		b.remove(s, id)
	}
}

// binary has the shim's successors execute another one. It returns what they did until now, and how many were tried.
func (b *bench) binary(s *Shim, path string) (before string, generation uint32) {
	s.g.mu.Lock()
	defer s.g.mu.Unlock()
	before, s.g.rec.Binary = s.g.rec.Binary, path
	return before, s.g.rec.Generation
}
