#include "textflag.h"

// An instruction is eleven 64-bit words:
//
//	0        system call number; -1 ends the batch, -2 jumps to word 1
//	1..6     arguments
//	7        address that the result is stored at, or 0
//	8        bits 0..5: argument n is the address of a 32-bit value to load
//	9        four 16-bit errnos that are no failure (0xffff: any)
//	10       address to go on at after a tolerated errno, or 0 for the next instruction
//
// BX is the base of the data segment, R12 the instruction. The kernel clobbers CX and R11.
// Nothing here may touch the stack, TLS or a Go symbol: the bytes run at another address.
TEXT ·code(SB), NOSPLIT|NOFRAME, $0
batch:
	MOVQ $0x210000, BX
	MOVQ $1040, 0x68(BX)       // msg_controllen: the kernel shortens it each time
	MOVQ (BX), DI
	LEAQ 0x40(BX), SI
	MOVL $0x40000000, DX       // MSG_CMSG_CLOEXEC
	MOVL $47, AX               // recvmsg
	SYSCALL
	TESTQ AX, AX
	JLE  gone
	LEAQ 0x1000(BX), R12

run:
	MOVQ (R12), AX
	CMPQ AX, $-1
	JEQ  end
	CMPQ AX, $-2
	JEQ  jump
	MOVQ 8(R12), DI
	MOVQ 16(R12), SI
	MOVQ 24(R12), DX
	MOVQ 32(R12), R10
	MOVQ 40(R12), R8
	MOVQ 48(R12), R9
	MOVQ 64(R12), R13
	TESTQ $1, R13
	JEQ  load1
	MOVL (DI), DI
load1:
	TESTQ $2, R13
	JEQ  load2
	MOVL (SI), SI
load2:
	TESTQ $4, R13
	JEQ  load3
	MOVL (DX), DX
load3:
	TESTQ $8, R13
	JEQ  load4
	MOVL (R10), R10
load4:
	TESTQ $16, R13
	JEQ  load5
	MOVL (R8), R8
load5:
	TESTQ $32, R13
	JEQ  call
	MOVL (R9), R9
call:
	SYSCALL
	MOVQ 56(R12), R14
	TESTQ R14, R14
	JEQ  check
	MOVQ AX, (R14)
check:
	CMPQ AX, $-4095
	JCC  failed                // unsigned: -4095..-1 is an errno
next:
	ADDQ $88, R12
	JMP  run

failed:
	MOVQ AX, R15
	NEGQ R15
	MOVQ 72(R12), R14
tolerate:
	TESTQ R14, R14
	JEQ  report
	MOVWLZX R14, R13
	CMPQ R13, $0xffff
	JEQ  tolerated
	CMPQ R13, R15
	JEQ  tolerated
	SHRQ $16, R14
	JMP  tolerate
tolerated:
	MOVQ 80(R12), R14
	TESTQ R14, R14
	JEQ  next
	MOVQ R14, R12
	JMP  run

jump:
	MOVQ 8(R12), R12
	JMP  run

end:
	XORL AX, AX
report:
	MOVQ R12, 0x600(BX)
	MOVQ AX, 0x608(BX)
	MOVQ (BX), DI
	LEAQ 0x600(BX), SI
	MOVL $144, DX
	MOVL $1, AX                // write
	SYSCALL
	JMP  batch

gone:
	MOVL $127, DI
	MOVL $231, AX              // exit_group
	SYSCALL
	JMP  gone
	// The mark that ends the code: image.go looks for it.
	BYTE $0x62; BYTE $0x65; BYTE $0x72; BYTE $0x74; BYTE $0x68; BYTE $0x2e; BYTE $0x2e; BYTE $0x2e

DATA ·codeAddr(SB)/8, $·code(SB)
GLOBL ·codeAddr(SB), RODATA|NOPTR, $8
