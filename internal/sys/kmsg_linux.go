package sys

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// maxKernelLog bounds how many records of the kernel's log are looked at.
const maxKernelLog = 1 << 18

// KernelLog gives the texts of the records that are in the kernel's log now, the oldest first. It needs CAP_SYSLOG where
// kernel.dmesg_restrict is set.
func KernelLog(each func(text string)) error {
	fd, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("read the kernel's log: %w", err)
	}
	defer unix.Close(fd)
	buf := make([]byte, 8192) // a record is never longer
	for range maxKernelLog {
		n, err := unix.Read(fd, buf)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return nil
		case errors.Is(err, unix.EPIPE), errors.Is(err, unix.EINTR): // records were overwritten meanwhile; the next read goes on behind
			continue
		case err != nil:
			return fmt.Errorf("read the kernel's log: %w", err)
		case n <= 0:
			return nil
		}
		// "level,number,microseconds,flags;text", then lines of properties that begin with a space.
		if _, text, ok := bytes.Cut(buf[:n], []byte(";")); ok {
			line, _, _ := strings.Cut(string(text), "\n")
			each(line)
		}
	}
	return nil
}
