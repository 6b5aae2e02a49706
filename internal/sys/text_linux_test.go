package sys

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestForgetText: the program goes on, and what it does not use any more is not in memory.
func TestForgetText(t *testing.T) {
	before := fileResident(t)
	if err := ForgetText(); err != nil {
		t.Fatal(err)
	}
	after := fileResident(t)
	if after >= before {
		t.Errorf("pages of files in memory: %d before, %d after", before, after)
	}
}

// TestForgetTextKeepsWhatWasWritten: what was written into a mapping of the program before it was made read-only is still
// there, as what the loader relocates in a PIE.
func TestForgetTextKeepsWhatWasWritten(t *testing.T) {
	f, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p, err := unix.Mmap(int(f.Fd()), 0, 2*os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(p)
	last := len(p) - 1
	want := ^p[last]
	p[last] = want
	if err := unix.Mprotect(p, unix.PROT_READ); err != nil {
		t.Fatal(err)
	}
	if err := ForgetText(); err != nil {
		t.Fatal(err)
	}
	if p[last] != want {
		t.Error("what was written is gone")
	}
}

// fileResident is how many pages of files the process has in memory.
func fileResident(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	var n int
	for _, c := range strings.Fields(string(b))[2] {
		n = 10*n + int(c-'0')
	}
	return n
}
