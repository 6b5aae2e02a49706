#include "textflag.h"

// rt_sigaction(SIGCHLD, act, 0, 8), then pause() for ever. The bytes run at another address: no stack, no
// Go symbol. 0x100078 is actAddr.
TEXT ·text(SB), NOSPLIT|NOFRAME, $0
	MOVL $17, DI
	MOVL $0x100078, SI
	XORL DX, DX
	MOVL $8, R10
	MOVL $13, AX
	SYSCALL
again:
	MOVL $34, AX               // pause
	SYSCALL
	JMP  again
	// The mark that ends the code: pause.go looks for it.
	BYTE $0x62; BYTE $0x65; BYTE $0x72; BYTE $0x74; BYTE $0x68; BYTE $0x2e; BYTE $0x2e; BYTE $0x2e

DATA ·code(SB)/8, $·text(SB)
GLOBL ·code(SB), RODATA|NOPTR, $8
