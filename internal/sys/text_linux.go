package sys

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ForgetText takes the pages of the program's own file that are never written, its code and its tables, out of this
// process's memory. They stay in the page cache, and each run of them that is used again comes back with a fault of a
// microsecond; what was used once, while the program began, does not. A mapping that has a page of its own, in memory or
// swapped out, stays as it is: the loader has relocated it before it was made read-only (a PIE's .data.rel.ro), or a
// debugger has written into it.
func ForgetText() error {
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		return fmt.Errorf("forget the program's text: %w", err)
	}
	defer f.Close()
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("forget the program's text: %w", err)
	}
	s := bufio.NewScanner(f)
	var from, to uintptr
	var forget bool
	for s.Scan() {
		switch key, value, _ := bytes.Cut(s.Bytes(), []byte(" ")); {
		case !bytes.HasSuffix(key, []byte(":")): // a mapping's first line
			from, to, forget = unwritten(s.Text(), exe)
		case string(key) == "Anonymous:" || string(key) == "Swap:":
			forget = forget && string(bytes.TrimSpace(value)) == "0 kB"
		case forget && string(key) == "VmFlags:": // its last
			if _, _, errno := unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED); errno != 0 {
				return fmt.Errorf("forget the program's text: %w", errno)
			}
		}
	}
	return s.Err()
}

// unwritten reads the first line on a mapping in /proc/self/smaps: where a mapping of the file begins and ends, if it is never written.
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
