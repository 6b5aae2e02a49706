package seccomp

import (
	"runtime"

	"github.com/opencontainers/runtime-spec/specs-go"
)

//go:generate go run ./gen

// syscallRow is a system call and its numbers, -1 where an architecture lacks it.
type syscallRow struct {
	name    string
	numbers [5]int32
}

// arch is one architecture's view of the table and of the kernel's struct seccomp_data.
type arch struct {
	spec   specs.Arch
	column int
	audit  uint32 // AUDIT_ARCH_*; x86_64 and x32 share one
	bit    uint32 // what is set in all its numbers
	end    uint32 // numbers from here on are never "newer than the profile": they are private
}

const x32Bit = 1 << 30

// arches in the order of the table's columns. All are little-endian.
var arches = [...]arch{
	{specs.ArchX86, 0, 0x40000003, 0, x32Bit},
	{specs.ArchX86_64, 1, 0xc000003e, 0, x32Bit},
	{specs.ArchX32, 2, 0xc000003e, x32Bit, 1<<32 - 1},
	{specs.ArchARM, 3, 0x40000028, 0, 0xf0000},
	{specs.ArchAARCH64, 4, 0xc00000b7, 0, x32Bit},
}

// native returns the architecture that this program runs on.
func native() (specs.Arch, bool) {
	a, ok := map[string]specs.Arch{"386": specs.ArchX86, "amd64": specs.ArchX86_64, "arm": specs.ArchARM,
		"arm64": specs.ArchAARCH64}[runtime.GOARCH]
	return a, ok
}

// lookup finds a system call's numbers by its name.
func lookup(name string) (*syscallRow, bool) {
	low, high := 0, len(syscallTable)
	for low < high {
		mid := (low + high) / 2
		switch row := &syscallTable[mid]; {
		case row.name == name:
			return row, true
		case row.name < name:
			low = mid + 1
		default:
			high = mid
		}
	}
	return nil, false
}

// multiplexed is a call that 32-bit x86 also offers through another one, with its number as that one's
// first argument. The C library has used both ways.
type multiplexed struct {
	by  string
	arg uint64
}

func multiplex(name string) (multiplexed, bool) {
	m, ok := multiplexedCalls[name]
	return m, ok
}

// multiplexedCalls are from include/uapi/linux/net.h and ipc.h.
var multiplexedCalls = map[string]multiplexed{
	"socket": {"socketcall", 1}, "bind": {"socketcall", 2}, "connect": {"socketcall", 3}, "listen": {"socketcall", 4},
	"accept": {"socketcall", 5}, "getsockname": {"socketcall", 6}, "getpeername": {"socketcall", 7},
	"socketpair": {"socketcall", 8}, "send": {"socketcall", 9}, "recv": {"socketcall", 10},
	"sendto": {"socketcall", 11}, "recvfrom": {"socketcall", 12}, "shutdown": {"socketcall", 13},
	"setsockopt": {"socketcall", 14}, "getsockopt": {"socketcall", 15}, "sendmsg": {"socketcall", 16},
	"recvmsg": {"socketcall", 17}, "accept4": {"socketcall", 18}, "recvmmsg": {"socketcall", 19},
	"sendmmsg": {"socketcall", 20},
	"semop":    {"ipc", 1}, "semget": {"ipc", 2}, "semctl": {"ipc", 3}, "semtimedop": {"ipc", 4},
	"msgsnd": {"ipc", 11}, "msgrcv": {"ipc", 12}, "msgget": {"ipc", 13}, "msgctl": {"ipc", 14},
	"shmat": {"ipc", 21}, "shmdt": {"ipc", 22}, "shmget": {"ipc", 23}, "shmctl": {"ipc", 24},
}
