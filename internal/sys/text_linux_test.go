package sys

import (
	"os"
	"strings"
	"testing"
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
