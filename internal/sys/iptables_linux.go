package sys

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// LegacyTable is a table of legacy iptables, as the kernel has it (linux/netfilter_ipv4/ip_tables.h): rules one after the other,
// and by hook (NF_INET_PRE_ROUTING and so on) the offsets of its first rule and of the one that is its policy.
type LegacyTable struct {
	Hooks         uint32 // a bit for each that the table has
	Entry, Policy [5]uint32
	Rules         []byte
}

// maxLegacyTable bounds what is read of a table.
const maxLegacyTable = 64 << 20

// Options of getsockopt(2) at SOL_IP and SOL_IPV6.
const (
	getLegacyInfo    = 64
	getLegacyEntries = 65
)

// LegacyFilter reads the table "filter" of the calling thread's network namespace, for IPv4 or IPv6. It is nil where there is
// none: the kernel is not asked then, for that would make one.
func LegacyFilter(v6 bool) (*LegacyTable, error) {
	names, domain, level := "ip_tables_names", unix.AF_INET, unix.SOL_IP
	if v6 {
		names, domain, level = "ip6_tables_names", unix.AF_INET6, unix.SOL_IPV6
	}
	b, err := os.ReadFile("/proc/thread-self/net/" + names)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !slices.Contains(strings.Fields(string(b)), "filter") {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	fd, err := unix.Socket(domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return nil, fmt.Errorf("read legacy iptables: %w", err)
	}
	defer unix.Close(fd)
	for range 10 { // the table may be replaced between the two questions
		var t *LegacyTable
		if t, err = readLegacy(fd, level, "filter"); !errors.Is(err, unix.EAGAIN) {
			return t, err
		}
	}
	return nil, err
}

func readLegacy(fd, level int, table string) (*LegacyTable, error) {
	var info struct {
		name          [32]byte
		hooks         uint32
		entry, policy [5]uint32
		entries, size uint32
	}
	copy(info.name[:], table)
	if err := getsockopt(fd, level, getLegacyInfo, unsafe.Pointer(&info), uint32(unsafe.Sizeof(info))); err != nil {
		return nil, fmt.Errorf("read legacy iptables: table %s: %w", table, err)
	}
	if info.size > maxLegacyTable {
		return nil, fmt.Errorf("read legacy iptables: table %s has %d bytes", table, info.size)
	}
	const head = 40 // name, size, and room to the rules' alignment
	buf := make([]byte, head+info.size)
	copy(buf, table)
	binary.NativeEndian.PutUint32(buf[32:], info.size)
	if err := getsockopt(fd, level, getLegacyEntries, unsafe.Pointer(&buf[0]), uint32(len(buf))); err != nil {
		return nil, fmt.Errorf("read legacy iptables: rules of table %s: %w", table, err)
	}
	return &LegacyTable{Hooks: info.hooks, Entry: info.entry, Policy: info.policy, Rules: buf[head:]}, nil
}

func getsockopt(fd, level, option int, p unsafe.Pointer, n uint32) error {
	if _, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(option), uintptr(p), uintptr(unsafe.Pointer(&n)), 0); errno != 0 {
		return errno
	}
	return nil
}
