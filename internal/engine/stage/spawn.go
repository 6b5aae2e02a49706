package stage

import (
	"context"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Command is a program that a child is to run beside itself.
type Command struct {
	Path        string
	Args, Env   []string
	Stdin       *os.File
	Stdout      *os.File // and stderr
	pid, number int64
}

// Spawn lets the child start c as a process of its own, in its namespaces and with its privileges, and
// returns a descriptor of that. Reap must follow its end.
func (s *Stage) Spawn(ctx context.Context, c *Command) (pidfd *os.File, err error) {
	var p Program
	var parent Label
	pid, number := Answered(0), Answered(1)
	clone := uintptr(unix.SIGCHLD) | unix.CLONE_PIDFD
	p.Do("fork", unix.SYS_CLONE, Int(clone), Int(0), number.Address(), Int(0), Int(0)).Into(pid)
	p.Do("tell child from parent", unix.SYS_PRCTL, Int(unix.PR_SET_KEEPCAPS), pid.Value(), Int(0), Int(0), Int(0)).Tolerate(unix.EINVAL).ElseGoTo(&parent)
	// From here on in the copy, which must not answer: whatever fails, it ends.
	p.Do("start a session", unix.SYS_SETSID).TolerateAny()
	p.Do("set umask", unix.SYS_UMASK, Int(0o022)).TolerateAny()
	for fd, f := range []*os.File{c.Stdin, c.Stdout, c.Stdout} {
		p.Do("set stdio", unix.SYS_DUP3, p.File(f), Int(fd), Int(0)).TolerateAny()
	}
	p.Do("close descriptors", unix.SYS_CLOSE_RANGE, Int(3), Int(^uint32(0)), Int(unix.CLOSE_RANGE_CLOEXEC)).TolerateAny()
	p.Do("execute", unix.SYS_EXECVE, p.String(c.Path), p.Strings(c.Args), p.Strings(c.Env)).TolerateAny()
	p.Do("give up", unix.SYS_EXIT_GROUP, Int(127))
	p.Mark(&parent)
	if err := s.Run(ctx, &p); err != nil {
		return nil, err
	}
	c.pid, c.number = s.Answer(0), s.Answer(1)
	pidfd, err = s.Steal(int(int32(c.number)))
	if err != nil {
		return nil, fmt.Errorf("stage: fetch the pidfd of %s: %w", c.Path, err)
	}
	return pidfd, nil
}

// Reap waits for the end of c and returns its status.
func (s *Stage) Reap(ctx context.Context, c *Command) (syscall.WaitStatus, error) {
	var p Program
	status := Answered(2)
	p.Do("wait for "+c.Path, unix.SYS_WAIT4, Int(c.pid), status.Address(), Int(0), Int(0))
	p.Do("close its pidfd", unix.SYS_CLOSE, Int(c.number))
	if err := s.Run(ctx, &p); err != nil {
		return 0, err
	}
	return syscall.WaitStatus(uint32(s.Answer(2))), nil
}

// OwnPid is the child's number in its own pid namespace.
func (s *Stage) OwnPid(ctx context.Context) (int, error) {
	var p Program
	p.Do("getpid", unix.SYS_GETPID).Into(Answered(0))
	if err := s.Run(ctx, &p); err != nil {
		return 0, err
	}
	return int(s.Answer(0)), nil
}

// Answer lets the child answer in the middle of a program; RunInTwo gets it.
func (p *Program) Answer() { p.answer() }

// RunInTwo is Run for a program with one Answer in it: middle is called when that has come.
func (s *Stage) RunInTwo(ctx context.Context, p *Program, middle func() error) error {
	defer p.release()
	if err := s.run(ctx, p); err != nil {
		return err
	}
	if err := middle(); err != nil {
		return err
	}
	return s.receive(ctx, p)
}
