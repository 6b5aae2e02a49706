package sys

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The unions of bpf(2) for the few commands used here. The kernel takes shorter structures than its own.
type bpfProgLoad struct {
	progType, insnCount uint32
	insns, license      uint64
	logLevel, logSize   uint32
	logBuf              uint64
	kernVersion, flags  uint32
}

type bpfProgAttach struct {
	targetFD, progFD, attachType, flags, replaceFD uint32
}

type bpfProgQuery struct {
	targetFD, attachType, queryFlags, attachFlags uint32
	progIDs                                       uint64
	progCount, _                                  uint32
}

type bpfGetFD struct{ id, _, flags uint32 }

func bpf(cmd uintptr, attr unsafe.Pointer, size uintptr) (int, error) {
	for {
		r, _, errno := unix.Syscall(unix.SYS_BPF, cmd, uintptr(attr), size)
		// The verifier gives EAGAIN when a signal comes in its way.
		if errno == unix.EINTR || errno == unix.EAGAIN {
			continue
		}
		if errno != 0 {
			return -1, errno
		}
		return int(r), nil
	}
}

// LoadDeviceFilter loads an eBPF program (eight bytes an instruction) of the type that decides on a
// cgroup's access to devices. The caller closes it; attached programs live on.
func LoadDeviceFilter(insns []byte) (*os.File, error) {
	if len(insns) == 0 {
		return nil, fmt.Errorf("bpf BPF_PROG_LOAD: %w", unix.EINVAL)
	}
	license := []byte("Apache-2.0\x00")
	var pin runtime.Pinner // addresses travel as numbers: the memory must stay where it is
	defer pin.Unpin()
	pin.Pin(&insns[0])
	pin.Pin(&license[0])
	attr := bpfProgLoad{
		progType: unix.BPF_PROG_TYPE_CGROUP_DEVICE, insnCount: uint32(len(insns) / 8),
		insns:   uint64(uintptr(unsafe.Pointer(&insns[0]))),
		license: uint64(uintptr(unsafe.Pointer(&license[0]))),
	}
	fd, err := bpf(unix.BPF_PROG_LOAD, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	if err != nil {
		return nil, fmt.Errorf("bpf BPF_PROG_LOAD: %w", err)
	}
	return os.NewFile(uintptr(fd), "bpf-device-filter"), nil
}

// ReplaceDeviceFilter attaches a device filter to a cgroup directory of v2 and detaches those
// that were attached to this directory before. In between, both have to agree.
func ReplaceDeviceFilter(cgroup, prog *os.File) error {
	dir := uint32(cgroup.Fd())
	old, err := deviceFilters(dir)
	if err != nil {
		return err
	}
	add := bpfProgAttach{targetFD: dir, progFD: uint32(prog.Fd()), attachType: unix.BPF_CGROUP_DEVICE, flags: unix.BPF_F_ALLOW_MULTI}
	if _, err := bpf(unix.BPF_PROG_ATTACH, unsafe.Pointer(&add), unsafe.Sizeof(add)); err != nil {
		return fmt.Errorf("bpf BPF_PROG_ATTACH to %s: %w", cgroup.Name(), err)
	}
	for _, id := range old {
		if err := detachDeviceFilter(dir, id); err != nil {
			return fmt.Errorf("bpf BPF_PROG_DETACH from %s: %w", cgroup.Name(), err)
		}
	}
	runtime.KeepAlive(cgroup)
	runtime.KeepAlive(prog)
	return nil
}

func deviceFilters(dir uint32) ([]uint32, error) {
	ids := make([]uint32, 64) // as many as the kernel attaches to one cgroup
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(&ids[0])
	attr := bpfProgQuery{targetFD: dir, attachType: unix.BPF_CGROUP_DEVICE,
		progIDs: uint64(uintptr(unsafe.Pointer(&ids[0]))), progCount: uint32(len(ids))}
	_, err := bpf(unix.BPF_PROG_QUERY, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	if err != nil {
		return nil, fmt.Errorf("bpf BPF_PROG_QUERY: %w", err)
	}
	return ids[:attr.progCount], nil
}

func detachDeviceFilter(dir, id uint32) error {
	get := bpfGetFD{id: id}
	fd, err := bpf(unix.BPF_PROG_GET_FD_BY_ID, unsafe.Pointer(&get), unsafe.Sizeof(get))
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	attr := bpfProgAttach{targetFD: dir, progFD: uint32(fd), attachType: unix.BPF_CGROUP_DEVICE}
	_, err = bpf(unix.BPF_PROG_DETACH, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	return err
}
