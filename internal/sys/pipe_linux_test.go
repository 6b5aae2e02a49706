package sys

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// waiting is where in the kernel the threads of this process wait; "0" is one that runs, or that the kernel says no more of.
func waiting(t *testing.T) (places []string) {
	t.Helper()
	tasks, err := filepath.Glob("/proc/self/task/*/wchan")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range tasks {
		where, _ := os.ReadFile(path)
		places = append(places, string(where))
	}
	return places
}

// needPlaces skips a test where the kernel does not name the places where threads wait: Go's own always wait somewhere.
func needPlaces(t *testing.T) {
	t.Helper()
	for range 1000 {
		if slices.ContainsFunc(waiting(t), func(where string) bool { return where != "" && where != "0" }) {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Skip("the kernel does not tell where threads wait: /proc/self/task/*/wchan")
}

// waitsForReader tells whether a thread of this process waits for the other side of a FIFO.
func waitsForReader(t *testing.T) bool {
	t.Helper()
	return slices.ContainsFunc(waiting(t), func(where string) bool {
		return strings.Contains(where, "wait_for_partner") || strings.Contains(where, "fifo_open") // which some compilers make one
	})
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s did not happen", what)
		}
	}
}

// exhaust takes all descriptors that this process may have, until the returned function is called.
func exhaust(t *testing.T) (restore func()) {
	t.Helper()
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: uint64(len(open) + 20), Max: before.Max}); err != nil {
		t.Fatal(err)
	}
	var taken []int
	for {
		fd, err := syscall.Open("/dev/null", syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
		if err != nil {
			if !errors.Is(err, syscall.EMFILE) {
				t.Error(err)
			}
			break
		}
		taken = append(taken, fd)
	}
	return func() {
		for _, fd := range taken {
			syscall.Close(fd)
		}
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &before); err != nil {
			t.Error(err)
		}
	}
}

// The wait for a reader that never comes ends when it is given up, be there no descriptor left, and leaves no thread behind.
func TestHandOverFIFOGivenUpWithoutDescriptors(t *testing.T) {
	needPlaces(t)
	path := filepath.Join(t.TempDir(), "fifo")
	if err := MakeFIFO(path, 0o600, os.Getuid(), os.Getgid()); err != nil {
		t.Fatal(err)
	}
	f, err := OpenFIFO(path, syscall.O_RDWR|syscall.O_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	giveUp, done := make(chan struct{}), make(chan struct{})
	go func() { HandOverFIFO(f, giveUp); close(done) }()
	until(t, "the wait for a reader", func() bool { return waitsForReader(t) })
	restore := exhaust(t)
	close(giveUp)
	ended := false
	select {
	case <-done:
		ended = true
	case <-time.After(time.Minute):
	}
	restore()
	if !ended {
		t.Error("it waits although it was given up")
	}
	until(t, "the end of the waiting thread", func() bool { return !waitsForReader(t) })
}

// What was written reaches a reader that comes late.
func TestHandOverFIFOToALateReader(t *testing.T) {
	needPlaces(t)
	path := filepath.Join(t.TempDir(), "fifo")
	if err := MakeFIFO(path, 0o600, os.Getuid(), os.Getgid()); err != nil {
		t.Fatal(err)
	}
	f, err := OpenFIFO(path, syscall.O_RDWR|syscall.O_NONBLOCK)
	if err == nil {
		_, err = f.WriteString("kept")
	}
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { HandOverFIFO(f, nil); close(done) }()
	until(t, "the wait for a reader", func() bool { return waitsForReader(t) })
	if got, err := os.ReadFile(path); string(got) != "kept" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	<-done
}
