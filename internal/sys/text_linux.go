package sys

import (
	"bufio"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// ForgetText takes the pages of the program's own file that are never written, its code and its tables, out of this
// process's memory. They stay in the page cache, and each run of them that is used again comes back with a fault of a
// microsecond; what was used once, while the program began, does not.
func ForgetText() error {
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		return fmt.Errorf("forget the program's text: %w", err)
	}
	defer f.Close()
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("forget the program's text: %w", err)
	}
	s := bufio.NewScanner(f)
	for s.Scan() {
		var from, to uintptr
		var mode string
		if _, err := fmt.Sscanf(s.Text(), "%x-%x %s", &from, &to, &mode); err != nil || mode[1] == 'w' || !strings.HasSuffix(s.Text(), " "+exe) {
			continue
		}
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED); errno != 0 {
			return fmt.Errorf("forget the program's text: %w", errno)
		}
	}
	return s.Err()
}
