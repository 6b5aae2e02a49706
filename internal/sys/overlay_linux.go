package sys

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// HasOverlay asks the kernel for overlayfs, which loads its module where that is to be had. The error is
// unix.ENODEV where there is none. It mounts nothing.
func HasOverlay() error {
	fd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// KernelAtLeast says whether the running kernel is of this version or later.
func KernelAtLeast(major, minor int) bool {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return false
	}
	var a, b int
	release, _, _ := strings.Cut(unix.ByteSliceToString(u.Release[:]), "-")
	if _, err := fmt.Sscanf(release, "%d.%d", &a, &b); err != nil {
		return false
	}
	return a > major || a == major && b >= minor
}
