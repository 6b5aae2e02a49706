#include "textflag.h"

// rt_sigaction(SIGCHLD, act, 0, 8), then ppoll of nothing for ever. The bytes run at another address: no
// stack, no Go symbol. 0x100078 is actAddr.
TEXT ·text(SB), NOSPLIT|NOFRAME, $0
	MOVD $17, R0
	MOVZ $0x78, R1
	MOVK $(0x10<<16), R1
	MOVD $0, R2
	MOVD $8, R3
	MOVD $134, R8
	SVC
again:
	MOVD $0, R0
	MOVD $0, R1
	MOVD $0, R2
	MOVD $0, R3
	MOVD $0, R4
	MOVD $73, R8               // ppoll
	SVC
	B    again
	// The mark that ends the code: pause.go looks for it.
	WORD $0x74726562
	WORD $0x2e2e2e68

DATA ·code(SB)/8, $·text(SB)
GLOBL ·code(SB), RODATA|NOPTR, $8
