package engine

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// answerNotify answers every system call of a seccomp listener with success, until the last process has gone.
func answerNotify(fd int) {
	defer unix.Close(fd)
	const receive, send = 0xc0502100, 0xc0182101 // SECCOMP_IOCTL_NOTIF_RECV, _SEND
	unix.SetNonblock(fd, false)
	for {
		var request [80]byte // struct seccomp_notif
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if n, err := unix.Poll(poll, 10000); err == unix.EINTR {
			continue
		} else if n != 1 || poll[0].Revents&unix.POLLIN == 0 {
			return
		}
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), receive, uintptr(unsafe.Pointer(&request))); errno != 0 {
			continue
		}
		var response [24]byte // struct seccomp_notif_resp: id, value, error, flags
		copy(response[:8], request[:8])
		unix.Syscall(unix.SYS_IOCTL, uintptr(fd), send, uintptr(unsafe.Pointer(&response)))
	}
}
