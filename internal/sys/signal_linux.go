package sys

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// SignalNumber is the signal of that name ("SIGKILL"), or 0.
func SignalNumber(name string) syscall.Signal { return unix.SignalNum(name) }
