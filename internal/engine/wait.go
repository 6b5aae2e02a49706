package engine

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// waitInfo is siginfo_t as waitid(2) fills it, on a 64-bit machine.
type waitInfo struct {
	signo, errno, code int32
	_                  int32
	pid                int32
	uid                uint32
	status             int32
	_                  [100]byte
}

// cldExited is si_code of a child that exited; any other means a signal.
const cldExited = 1

func waitid(pidfd int, info *waitInfo, options int) error {
	return unix.Waitid(unix.P_PIDFD, pidfd, (*unix.Siginfo)(unsafe.Pointer(info)), options, nil)
}
