package sys

import (
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// OnThread runs f on a thread of its own, whose namespaces and cgroups f may change: it dies afterwards. Never on the
// process's first thread, which can't end, and which lends its namespaces to /proc/self.
func OnThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == os.Getpid() {
			done <- OnThread(f) // this one is kept meanwhile, so the other is another one
			runtime.UnlockOSThread()
			return
		}
		done <- f()
	}()
	return <-done
}
