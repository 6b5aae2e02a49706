package sys

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
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
		from, to, ok := unwritten(s.Text(), exe)
		if !ok {
			continue
		}
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED); errno != 0 {
			return fmt.Errorf("forget the program's text: %w", errno)
		}
	}
	return s.Err()
}

// unwritten reads a line of /proc/self/maps: where a mapping of the file begins and ends, if it is never written.
func unwritten(line, file string) (from, to uintptr, ok bool) {
	place, rest, _ := strings.Cut(line, " ")
	mode, _, _ := strings.Cut(rest, " ")
	if strings.Contains(mode, "w") || !strings.HasSuffix(line, " "+file) {
		return 0, 0, false
	}
	first, last, _ := strings.Cut(place, "-")
	a, errA := strconv.ParseUint(first, 16, 64)
	b, errB := strconv.ParseUint(last, 16, 64)
	return uintptr(a), uintptr(b), errA == nil && errB == nil
}
