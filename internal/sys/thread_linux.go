package sys

import (
	"errors"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// OnThread runs f on a thread of its own, whose namespaces and cgroups f may change: it dies afterwards. Goroutines that f
// starts are elsewhere. Never on the process's first thread, which can't end, and which lends its namespaces to /proc/self.
func OnThread(f func() error) error {
	return onThread(func() (reusable bool, err error) { return false, f() })
}

// OnThreadAndBack is OnThread where f changes no more than the namespaces of some kinds, which are names in /proc/PID/ns:
// the thread goes back to its old ones and is used again, or dies where that fails.
func OnThreadAndBack(kinds []string, f func() error) error {
	return onThread(func() (reusable bool, err error) {
		old, err := threadNamespaces(kinds)
		if err == nil {
			err = f()
		}
		return old.enter() == nil, err
	})
}

func onThread(f func() (reusable bool, err error)) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // Go clones no thread off a locked one
		if unix.Gettid() == os.Getpid() {
			done <- onThread(f) // this one is kept meanwhile, so the other is another one
			runtime.UnlockOSThread()
			return
		}
		reusable, err := f()
		if reusable {
			runtime.UnlockOSThread() // else: the thread dies with this goroutine
		}
		done <- err
	}()
	return <-done
}

// openNamespaces are open namespaces to go to.
type openNamespaces []*os.File

// threadNamespaces opens those that the calling thread is in.
func threadNamespaces(kinds []string) (list openNamespaces, err error) {
	for _, k := range kinds {
		f, err := os.Open("/proc/thread-self/ns/" + k)
		if err != nil {
			return list, err
		}
		list = append(list, f)
	}
	return list, nil
}

// enter takes the calling thread there, and closes them.
func (list openNamespaces) enter() error {
	var errs []error
	for _, f := range list {
		errs = append(errs, unix.Setns(int(f.Fd()), 0), f.Close())
	}
	return errors.Join(errs...)
}
