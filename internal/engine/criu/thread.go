package criu

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// onThread runs f on a thread of its own, whose namespaces and cgroups f may change: it dies afterwards. Never on the
// process's first thread, which lends its namespaces to /proc/self.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == os.Getpid() {
			done <- onThread(f) // this one is kept meanwhile, so the other is another one
			runtime.UnlockOSThread()
			return
		}
		done <- f()
	}()
	return <-done
}

// joinOf enters the IPC and UTS namespaces of a process.
func joinOf(pid int, ipc, uts bool) error {
	for _, ns := range []struct {
		name string
		flag int
		join bool
	}{{"ipc", unix.CLONE_NEWIPC, ipc}, {"uts", unix.CLONE_NEWUTS, uts}} {
		if !ns.join {
			continue
		}
		path := fmt.Sprintf("/proc/%d/ns/%s", pid, ns.name)
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		err = unix.Setns(int(f.Fd()), ns.flag)
		f.Close()
		if err != nil {
			return fmt.Errorf("enter %s: %w", path, err)
		}
	}
	return nil
}
