// Package pause holds the smallest first process of a PID namespace: a static program of some 200 bytes
// that ignores SIGCHLD, so that the kernel reaps every orphan by itself, and sleeps until it is killed.
// It is what keeps a PID namespace that the containers of a pod share.
//
// It makes no allocation, opens nothing and answers no signal; a namespace's first process can't be ended
// by one of the namespace's own.
package pause

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"runtime"
)

// The addresses are in the assembly, too.
const (
	base     = 0x100000
	elfHead  = 64 + 56 // the ELF header and one program header
	actAddr  = base + elfHead
	actSize  = 32 // the kernel's struct sigaction
	codeAddr = actAddr + actSize
)

// code points to the assembly function and what the linker put behind it.
var code *[256]byte

var endMark = []byte("berth...")

// Program returns the program as an ELF executable of this machine.
func Program() ([]byte, error) {
	n := bytes.Index(code[:], endMark)
	if n <= 0 {
		return nil, errors.New("pause: the end mark of the code is missing")
	}
	machine := elf.EM_X86_64
	if runtime.GOARCH == "arm64" {
		machine = elf.EM_AARCH64
	}
	size := uint64(elfHead + actSize + n)
	head := elf.Header64{
		Ident: [16]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_EXEC), Machine: uint16(machine), Version: uint32(elf.EV_CURRENT),
		Entry: codeAddr, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1, Shentsize: 64,
	}
	text := elf.Prog64{
		Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Vaddr: base, Paddr: base,
		Filesz: size, Memsz: size, Align: 0x10000,
	}
	var act [actSize]byte
	act[0] = 1 // SIG_IGN, no flags, an empty mask
	var b bytes.Buffer
	for _, part := range []any{head, text, act, code[:n]} {
		if err := binary.Write(&b, binary.LittleEndian, part); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), nil
}
