// bench/block without Go's start-up time: the benchmark uses it where there is a C compiler.
// gcc -static -nostdlib -ffreestanding -Os -s
#if defined(__x86_64__)
#define NR_write 1
#define NR_rt_sigaction 13
#define NR_rt_sigreturn 15
#define NR_exit_group 231
#define NR_ppoll 271
static long call(long n, long a, long b, long c, long d, long e) {
	register long r10 __asm__("r10") = d, r8 __asm__("r8") = e;
	long r;
	__asm__ volatile("syscall" : "=a"(r) : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8) : "rcx", "r11", "memory");
	return r;
}
__asm__(".globl _start\n_start: mov (%rsp),%rdi\nand $-16,%rsp\ncall begin\n"
        "restore: mov $15,%eax\nsyscall\n");
#elif defined(__aarch64__)
#define NR_write 64
#define NR_rt_sigaction 134
#define NR_exit_group 94
#define NR_ppoll 73
static long call(long n, long a, long b, long c, long d, long e) {
	register long x8 __asm__("x8") = n, x0 __asm__("x0") = a, x1 __asm__("x1") = b, x2 __asm__("x2") = c, x3 __asm__("x3") = d, x4 __asm__("x4") = e;
	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4) : "memory");
	return x0;
}
__asm__(".globl _start\n_start: ldr x0,[sp]\nbl begin\nrestore: mov x8,139\nsvc 0\n");
#else
#error "no system calls for this architecture"
#endif

extern void restore(void);

static void quit(int signal) { call(NR_exit_group, 0, 0, 0, 0, 0); }

struct action {
	void (*handler)(int);
	unsigned long flags;
	void (*restorer)(void);
	unsigned long mask;
};

__attribute__((used)) static void begin(long argc) {
	if (argc > 1) // block true
		quit(0);
	struct action term = {quit, 0x04000000, restore, 0};
	call(NR_rt_sigaction, 15, (long)&term, 0, 8, 0);
	call(NR_write, 1, (long)"up\n", 3, 0, 0);
	for (;;)
		call(NR_ppoll, 0, 0, 0, 0, 0);
}
