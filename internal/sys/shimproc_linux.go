package sys

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// BecomeSubreaper makes this process the parent of orphans among its descendants.
func BecomeSubreaper() error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("prctl PR_SET_CHILD_SUBREAPER: %w", err)
	}
	return nil
}

// OpenPidFD opens a process file descriptor that goroutines can wait on (it is readable once the process
// has ended).
func OpenPidFD(pid int) (*os.File, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("pidfd of process %d: %w", pid, err)
	}
	return os.NewFile(uintptr(fd), fmt.Sprintf("pidfd:%d", pid)), nil
}

// SignalPidFD sends a signal to the process behind pidfd; a process that has ended is os.ErrProcessDone.
func SignalPidFD(pidfd *os.File, sig unix.Signal) error {
	conn, err := pidfd.SyscallConn()
	if err != nil {
		return fmt.Errorf("signal %s: %w", pidfd.Name(), err)
	}
	var serr error
	if err := conn.Control(func(fd uintptr) { serr = unix.PidfdSendSignal(int(fd), sig, nil, 0) }); err != nil {
		return fmt.Errorf("signal %s: %w", pidfd.Name(), err)
	}
	switch serr {
	case nil:
		return nil
	case unix.ESRCH:
		return os.ErrProcessDone
	}
	return fmt.Errorf("signal %s: %w", pidfd.Name(), serr)
}

// ReapOrphan takes the exit status of an ended child that is not one of known, if there is one. It is for a
// subreaper whose own children are waited for by their pidfds: it finds each ended child without reaping it
// first (WNOWAIT). ok is false when the next ended child is a known one, or none has ended.
func ReapOrphan(known func(pid int) bool) (pid int, ok bool, err error) {
	var info ChildInfo
	if err := Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT); err != nil {
		if err == unix.ECHILD {
			return 0, false, nil
		}
		return 0, false, fmt.Errorf("waitid: %w", err)
	}
	pid = int(info.Pid)
	if pid == 0 || known(pid) {
		return pid, false, nil
	}
	if _, err := unix.Wait4(pid, nil, unix.WNOHANG, nil); err != nil {
		return pid, false, fmt.Errorf("wait for process %d: %w", pid, err)
	}
	return pid, true, nil
}

// ChildInfo is siginfo_t as waitid(2) fills it, on a 64-bit machine. Pid is 0 where no child has changed.
type ChildInfo struct {
	_      [2]int32
	Code   int32 // ChildExited, or how a signal ended it
	_      int32
	Pid    int32
	_      uint32
	Status int32 // the exit code or the signal
	_      [100]byte
}

// ChildExited is CLD_EXITED: the child ended by itself.
const ChildExited = 1

// Waitid is waitid(2); what it returns is the errno.
func Waitid(idType, id int, info *ChildInfo, options int) error {
	return unix.Waitid(idType, id, (*unix.Siginfo)(unsafe.Pointer(info)), options, nil)
}

// ErrNoExit tells that a process has not ended, or that nobody knows any more how it did.
var ErrNoExit = errors.New("the exit status is not known")

// PidFDExit tells how the process behind pidfd ended, though it is nobody's child here: from its zombie while its parent
// has not waited for it, from the pidfd afterwards (Linux 6.15). The error wraps ErrNoExit where neither knows.
func PidFDExit(pidfd *os.File, pid int) (syscall.WaitStatus, error) {
	for range 3 { // the parent may come between the two looks
		if ws, err := reapedExit(pidfd); err == nil {
			return ws, nil
		}
		if ws, ok := zombieExit(pid); ok && SignalPidFD(pidfd, 0) == nil {
			return ws, nil // and as the process was still there after the look, the number meant it
		}
	}
	return 0, fmt.Errorf("process %d: %w", pid, ErrNoExit)
}

func reapedExit(pidfd *os.File) (syscall.WaitStatus, error) {
	conn, err := pidfd.SyscallConn()
	if err != nil {
		return 0, err
	}
	info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT}
	var errno unix.Errno
	err = conn.Control(func(fd uintptr) {
		_, _, errno = unix.Syscall(unix.SYS_IOCTL, fd, unix.PIDFD_GET_INFO, uintptr(unsafe.Pointer(&info)))
	})
	switch {
	case err != nil:
		return 0, err
	case errno != 0:
		return 0, errno
	case info.Mask&unix.PIDFD_INFO_EXIT == 0:
		return 0, ErrNoExit
	}
	return syscall.WaitStatus(info.Exit_code), nil
}

// zombieExit reads state and exit_code, fields 3 and 52 of /proc/PID/stat.
func zombieExit(pid int) (syscall.WaitStatus, bool) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, false
	}
	end := bytes.LastIndexByte(b, ')') // the command's name may hold anything
	fields := bytes.Fields(b[end+1:])
	if end < 0 || len(fields) < 50 || fields[0][0] != 'Z' {
		return 0, false
	}
	code, err := strconv.ParseUint(string(fields[49]), 10, 32)
	return syscall.WaitStatus(code), err == nil
}

// Stopped tells whether the process is stopped by a signal (or a tracer).
func Stopped(pid int) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return false
	}
	end := bytes.LastIndexByte(b, ')') // the command's name may hold anything
	fields := bytes.Fields(b[end+1:])
	return end > 0 && len(fields) > 0 && (fields[0][0] == 'T' || fields[0][0] == 't')
}
