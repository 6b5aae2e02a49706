// Package stage is the first program of every container: a hundred instructions that execute system
// calls which the engine sends, until one of them is execve.
//
// A container's process has to do a lot between clone and execve: join namespaces, mount, pivot_root,
// drop privileges. Doing it in Go costs a start of the Go runtime (1 ms and 2 MiB a container) and shows
// a large host binary to the container through /proc/PID/exe. Here all decisions stay in the
// engine. It writes a Program, a list of system calls with their arguments; the child, a static
// program without libc or stack that lives in one sealed memfd, executes it and reports. So the child
// is ready 0.3 ms after clone, holds five pages, and nothing of the host can be reached through it
// (CVE-2019-5736 has nothing to overwrite: the file is sealed and anonymous).
//
// # The conversation
//
// Parent and child share a SOCK_SEQPACKET pair. The parent sends a batch: instructions, the data
// that they point to, and descriptors (SCM_RIGHTS). The child runs it to its end, or to the first
// call that fails with an errno the instruction does not tolerate, answers with the place, the
// result and sixteen cells that instructions may have filled, and waits for the next batch. When
// execve succeeds the socket closes by itself (O_CLOEXEC): that is the answer. When the parent
// dies, the child exits.
//
// # Memory of the child
//
//	0x100000  code, read and execute
//	0x210000  the parent's end of the conversation: descriptor of the socket, message header
//	0x210100  control buffer: the descriptors of the latest batch, from 0x210110 on, 4 bytes each
//	0x210600  the answer: place, result, cells
//	0x211000  the batch: instructions, then data
//	0x1000000 data too large for a packet (arguments and environment), mapped from a memfd
//
// The code is stage_amd64.s and stage_arm64.s; image.go puts it into an ELF file, program.go writes
// programs, stage.go starts a child and talks to it.
package stage
