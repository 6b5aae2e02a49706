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

// pidfdExit asks the kernel for the exit status of a process that has been reaped by somebody else
// (PIDFD_GET_INFO with PIDFD_INFO_EXIT, Linux 6.15).
func pidfdExit(pidfd int) (unix.WaitStatus, error) {
	info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(pidfd), unix.PIDFD_GET_INFO, uintptr(unsafe.Pointer(&info)))
	if errno != 0 {
		return 0, errno
	}
	if info.Mask&unix.PIDFD_INFO_EXIT == 0 {
		return 0, unix.ENODATA
	}
	return unix.WaitStatus(info.Exit_code), nil
}
