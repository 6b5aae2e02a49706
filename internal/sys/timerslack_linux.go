package sys

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// usualSlack is what the kernel's first process has, and so nearly every one (prctl(2), PR_SET_TIMERSLACK).
const usualSlack = 50 * time.Microsecond

// SlackTimers lets this process's timers be late by up to d. Go's monitor sleeps for 20 µs at a time while anything runs, so on a
// machine that has just begun to work it interrupts 11,000 times a second, in each process; with a slack of a millisecond, a
// thousand times. What is executed inherits the slack, unless it is started by Punctual.
func SlackTimers(d time.Duration) error {
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return fmt.Errorf("set timer slack: %w", err)
	}
	for _, t := range threads {
		if err := os.WriteFile("/proc/"+t.Name()+"/timerslack_ns", strconv.AppendInt(nil, int64(d), 10), 0); err != nil {
			return fmt.Errorf("set timer slack: %w", err)
		}
	}
	return nil
}

// Punctual calls start, which forks: what begins there has the usual slack.
func Punctual(start func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	own, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	if err != nil || time.Duration(own) == usualSlack {
		return start()
	}
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(usualSlack), 0, 0, 0); err != nil {
		return fmt.Errorf("set timer slack: %w", err)
	}
	defer unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(own), 0, 0, 0)
	return start()
}

// RunPunctual is cmd.Run with a Punctual start.
func RunPunctual(cmd *exec.Cmd) error {
	if err := Punctual(cmd.Start); err != nil {
		return err
	}
	return cmd.Wait()
}
