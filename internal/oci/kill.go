package oci

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/11f9778f/berth/internal/engine"
	"github.com/11f9778f/berth/internal/sys"
)

// kill sends a signal to the container's first process.
func (a *app) kill(ctx context.Context, args []string) error {
	f := a.flags("kill")
	all := f.Bool("all", false, "") // obsolete in runc, and still given: a container that has ended is no error then
	f.alias("a", "all")
	rest, err := a.arguments(f, args, true, 1, 2)
	if err != nil {
		return err
	}
	e, err := a.store().open(rest[0])
	if err != nil {
		return err
	}
	sig := syscall.SIGTERM
	if len(rest) == 2 {
		if sig, err = parseSignal(rest[1]); err != nil {
			return err
		}
	}
	err = e.signal(ctx, sig)
	if *all && errors.Is(err, errNotRunning) {
		return nil
	}
	return err
}

func parseSignal(name string) (syscall.Signal, error) {
	if n, err := strconv.Atoi(name); err == nil {
		if n < 0 || n > 64 {
			return 0, fmt.Errorf("unknown signal %q", name)
		}
		return syscall.Signal(n), nil
	}
	upper := strings.ToUpper(name)
	if !strings.HasPrefix(upper, "SIG") {
		upper = "SIG" + upper
	}
	if n := sys.SignalNumber(upper); n != 0 {
		return n, nil
	}
	return 0, fmt.Errorf("unknown signal %q", name)
}

func (e *entry) signal(ctx context.Context, sig syscall.Signal) error {
	status, err := e.status()
	if err != nil {
		return err
	}
	c, err := e.adopt(ctx)
	if err != nil {
		return err
	}
	// Without a pid namespace of its own the others do not die with the first process.
	if sig == syscall.SIGKILL && !ownPIDs(c.Spec()) {
		err := c.Kill(ctx)
		if err == nil && status == specs.StateStopped {
			return errNotRunning
		}
		return err
	}
	switch status {
	case specs.StateStopped, specs.StateCreating:
		return errNotRunning
	case specs.StateCreated:
		// The child that waits has no handlers, and as the first of its pid namespace is deaf to all but SIGKILL.
		if terminates(sig) {
			sig = syscall.SIGKILL
		}
	}
	if err := c.Init().Signal(sig); errors.Is(err, os.ErrProcessDone) {
		return errNotRunning
	} else if err != nil {
		return fmt.Errorf("unable to signal init: %w", err)
	}
	if sig == syscall.SIGKILL && status == engine.StatusPaused {
		return c.Resume(ctx) // under cgroup v1 a frozen process does not die
	}
	return nil
}

// terminates tells whether the signal ends a process that does not handle it.
func terminates(sig syscall.Signal) bool {
	switch sig {
	case 0, syscall.SIGCHLD, syscall.SIGCONT, syscall.SIGSTOP, syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU, syscall.SIGURG, syscall.SIGWINCH:
		return false
	}
	return true
}

// ownPIDs tells whether the container has a pid namespace that nobody else is in.
func ownPIDs(s *specs.Spec) bool {
	if s.Linux != nil {
		for _, ns := range s.Linux.Namespaces {
			if ns.Type == specs.PIDNamespace {
				return ns.Path == ""
			}
		}
	}
	return false
}
