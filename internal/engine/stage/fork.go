package stage

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Fork replaces the child by a copy of it in new namespaces (CLONE_NEW* flags). It is for what takes two
// processes: namespaces that belong to a user namespace which the child has joined meanwhile, and time
// namespaces, which only a new process enters. Pid and PidFD are those of the copy afterwards, and it
// is a child of this process like the first; that one is reaped. Cells and descriptors are kept.
func (s *Stage) Fork(ctx context.Context, flags uintptr) error {
	var p Program
	var old, end Label
	pid, pidfd := Answered(0), Answered(1)
	clone := flags | unix.CLONE_PARENT | unix.CLONE_PIDFD | uintptr(unix.SIGCHLD)
	p.Do("clone into new namespaces", unix.SYS_CLONE, Int(clone), Int(0), pidfd.Address(), Int(0), Int(0)).Into(pid)
	// The copy's result is 0, which this call takes; the old one's is a process number, which it does not.
	p.Do("tell the copy from the old one", unix.SYS_PRCTL, Int(unix.PR_SET_KEEPCAPS), pid.Value(), Int(0), Int(0), Int(0)).Tolerate(unix.EINVAL).ElseGoTo(&old)
	p.GoTo(&end)
	p.Mark(&old)
	p.answer()
	p.Do("wait for the end", unix.SYS_PPOLL, Int(0), Int(0), Int(0), Int(0))
	p.Mark(&end)
	defer p.release()
	if err := s.run(ctx, &p); err != nil {
		return err
	}
	number := s.Answer(1)
	first := s.Answer(0)
	if err := s.receive(ctx, &p); err != nil { // both answer, in any order
		return err
	}
	if first == 0 {
		number = s.Answer(1)
	}
	return s.follow(int(int32(number)))
}

// answer adds an answer in the middle of a program. Only after a program without a failure it is one
// of success.
func (p *Program) answer() {
	p.Do("answer", unix.SYS_WRITE, Cell{addr: dataBase}.Value(), Int(replyAddr), Int(replySize))
}

// follow makes the process that the child's descriptor pidfd names the child, and ends the old one.
func (s *Stage) follow(pidfd int) error {
	f, err := s.Steal(pidfd)
	if err != nil {
		return fmt.Errorf("stage: fetch the copy's pidfd: %w", err)
	}
	pid, err := PidOf(f)
	if err != nil {
		f.Close()
		return err
	}
	old, oldFD := s.Pid, s.PidFD
	s.Pid, s.PidFD = pid, f
	defer oldFD.Close()
	if err := unix.Kill(old, unix.SIGKILL); err != nil { // not yet reaped: the number is its own
		return fmt.Errorf("stage: end the old child: %w", err)
	}
	for {
		if _, err := unix.Wait4(old, nil, 0, nil); err != unix.EINTR {
			return nil
		}
	}
}

// Steal duplicates a descriptor of the child into this process, non-blocking.
func (s *Stage) Steal(number int) (*os.File, error) {
	raw, err := s.PidFD.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd := -1
	if cerr := raw.Control(func(pidfd uintptr) { fd, err = unix.PidfdGetfd(int(pidfd), number, 0) }); cerr != nil {
		return nil, cerr
	}
	if err != nil {
		return nil, os.NewSyscallError("pidfd_getfd", err)
	}
	unix.CloseOnExec(fd)
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fd), "stolen"), nil
}

// PidOf is the process number behind a pidfd, in this process's pid namespace.
func PidOf(pidfd *os.File) (int, error) {
	raw, err := pidfd.SyscallConn()
	if err != nil {
		return 0, err
	}
	var info []byte
	if cerr := raw.Control(func(fd uintptr) { info, err = os.ReadFile("/proc/self/fdinfo/" + strconv.Itoa(int(fd))) }); cerr != nil {
		return 0, cerr
	}
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(info) {
		if v, ok := strings.CutPrefix(string(line), "Pid:"); ok {
			return strconv.Atoi(strings.TrimSpace(v))
		}
	}
	return 0, fmt.Errorf("stage: /proc/self/fdinfo of a pidfd names no process")
}
