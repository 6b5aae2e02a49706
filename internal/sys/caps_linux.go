package sys

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// BoundingSet returns the calling thread's capability bounding set as a bitmask and the number of the
// last capability that the kernel knows.
func BoundingSet() (mask uint64, last int, err error) {
	last = -1
	for n := 0; n < 64; n++ {
		has, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(n), 0, 0, 0)
		if err == unix.EINVAL {
			break
		}
		if err != nil {
			return 0, 0, fmt.Errorf("prctl PR_CAPBSET_READ %d: %w", n, err)
		}
		last = n
		if has == 1 {
			mask |= 1 << n
		}
	}
	if last < 0 {
		return 0, 0, fmt.Errorf("prctl PR_CAPBSET_READ 0: %w", unix.EINVAL)
	}
	return mask, last, nil
}

// CapGet returns the calling thread's effective, permitted and inheritable capabilities as bitmasks.
func CapGet() (effective, permitted, inheritable uint64, err error) {
	// Version 3 of the call fills two structures: the low and the high 32 bits.
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, (*unix.CapUserData)(unsafe.Pointer(&data[0]))); err != nil {
		return 0, 0, 0, fmt.Errorf("capget: %w", err)
	}
	join := func(lo, hi uint32) uint64 { return uint64(hi)<<32 | uint64(lo) }
	return join(data[0].Effective, data[1].Effective), join(data[0].Permitted, data[1].Permitted),
		join(data[0].Inheritable, data[1].Inheritable), nil
}
