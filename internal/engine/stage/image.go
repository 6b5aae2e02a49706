package stage

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"runtime"
)

// Addresses and sizes in the child; the assembly has them as constants too.
const (
	codeBase   = 0x100000
	dataBase   = 0x210000
	headerAddr = dataBase + 0x40 // struct msghdr
	iovecAddr  = dataBase + 0x80
	cmsgAddr   = dataBase + 0x100
	cmsgSize   = 1040                 // a header and 256 descriptors
	fdsAddr    = cmsgAddr + 16        // behind the header
	replyAddr  = dataBase + 0x600     // place, result, cells
	replySize  = 144                  // bytes
	cellAddr   = replyAddr + 16       // the cells that an answer carries
	keepAddr   = dataBase + 0x700     // cells that only the child sees
	keepCells  = 0x900 / 8            //
	batchAddr  = dataBase + 0x1000    //
	batchSize  = 0x28000              // 160 KiB, below the default socket buffer
	bigAddr    = 0x1000000            // where large data is mapped
	dataSize   = 0x1000 + batchSize   //
	dataOffset = 0x10000              // of the data segment in the file: any page size up to 64 KiB
	socketFD   = 3                    // what the child starts with
	pageAlign  = 0x10000              //
	maxCode    = dataOffset - elfHead // bytes
	dataLength = 0x1000               // of it in the file
	elfHead    = 64 + 2*56            // the ELF header and two program headers
)

// codeAddr points to the assembly function code and what the linker put behind it.
var codeAddr *[2048]byte

var endMark = []byte("berth...")

// machineCode returns the bytes of the assembly function: position-independent, so a copy of them
// runs anywhere.
func machineCode() ([]byte, error) {
	all := codeAddr[:]
	n := bytes.Index(all, endMark)
	if n <= 0 || n > maxCode {
		return nil, fmt.Errorf("stage: the end mark of the code is missing")
	}
	return all[:n], nil
}

// image returns the child as a static ELF executable: one segment of code, one of data whose first page
// tells the code where its socket and buffers are.
func image() ([]byte, error) {
	head, data, err := segments()
	if err != nil {
		return nil, err
	}
	b := make([]byte, dataOffset+dataLength)
	copy(b, head)
	copy(b[dataOffset:], data)
	return b, nil
}

// segments returns what the executable begins with, and what it has at dataOffset; there is nothing between.
func segments() (head, data []byte, err error) {
	code, err := machineCode()
	if err != nil {
		return nil, nil, err
	}
	machine := elf.EM_X86_64
	if runtime.GOARCH == "arm64" {
		machine = elf.EM_AARCH64
	}
	b := make([]byte, elfHead+len(code))
	header := elf.Header64{
		Ident:   [16]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:    uint16(elf.ET_EXEC),
		Machine: uint16(machine),
		Version: uint32(elf.EV_CURRENT),
		Entry:   codeBase + elfHead,
		Phoff:   64, Ehsize: 64, Phentsize: 56, Phnum: 2, Shentsize: 64,
	}
	text := elf.Prog64{
		Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Vaddr: codeBase, Paddr: codeBase,
		Filesz: uint64(elfHead + len(code)), Memsz: uint64(elfHead + len(code)), Align: pageAlign,
	}
	page := elf.Prog64{
		Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_W), Off: dataOffset, Vaddr: dataBase, Paddr: dataBase,
		Filesz: dataLength, Memsz: dataSize, Align: pageAlign,
	}
	at := 0
	for _, part := range []any{&header, &text, &page, code} {
		n, err := binary.Encode(b[at:], binary.LittleEndian, part)
		if err != nil {
			return nil, nil, err
		}
		at += n
	}
	return b, firstPage(), nil
}

// firstPage is the initial content of the data segment: the socket's number and the message header for
// recvmsg (struct msghdr and struct iovec of a 64-bit machine).
func firstPage() []byte {
	page := make([]byte, dataLength)
	put := func(addr, v uint64) { binary.LittleEndian.PutUint64(page[addr-dataBase:], v) }
	put(dataBase, socketFD)
	put(headerAddr+16, iovecAddr)
	put(headerAddr+24, 1)
	put(headerAddr+32, cmsgAddr)
	put(iovecAddr, batchAddr)
	put(iovecAddr+8, batchSize)
	return page
}
