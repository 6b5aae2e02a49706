package stage

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/11f9778f/berth/internal/sys"
)

// Launcher starts children from one sealed memfd. One is enough for a process.
type Launcher struct {
	file *os.File
}

// NewLauncher makes the executable and seals it. Close releases the memfd; children that run keep it.
func NewLauncher() (*Launcher, error) {
	head, data, err := segments()
	if err != nil {
		return nil, err
	}
	const flags = unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err := unix.MemfdCreate("berth-init", flags|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3 every memfd may be executed
		fd, err = unix.MemfdCreate("berth-init", flags)
	}
	if err != nil {
		return nil, fmt.Errorf("stage: memfd_create: %w", err)
	}
	f := os.NewFile(uintptr(fd), "berth-init")
	err = f.Truncate(dataOffset + dataLength)
	if err == nil {
		_, err = f.WriteAt(head, 0)
	}
	if err == nil {
		_, err = f.WriteAt(data, dataOffset)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("stage: write memfd: %w", err)
	}
	const seals = unix.F_SEAL_WRITE | unix.F_SEAL_GROW | unix.F_SEAL_SHRINK | unix.F_SEAL_SEAL
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		f.Close()
		return nil, fmt.Errorf("stage: seal memfd: %w", err)
	}
	return &Launcher{file: f}, nil
}

// Close releases the executable.
func (l *Launcher) Close() error { return l.file.Close() }

// Attr says how to start a child.
type Attr struct {
	Stdin, Stdout, Stderr *os.File // nil: /dev/null
	Cloneflags            uintptr  // CLONE_NEW*
	UIDMap, GIDMap        []syscall.SysProcIDMap
	// Cgroup, if any, is a cgroup v2 directory that the child is born in.
	Cgroup *os.File
	// Extra descriptors become 3, 4, … of the program that the child executes in the end.
	Extra []*os.File
}

// Stage is a child that waits for programs. Run may be called from one goroutine at a time.
type Stage struct {
	Pid   int
	PidFD *os.File
	sock  *os.File
	cells [16]uint64
	keep  int
	once  sync.Once
}

// Start begins a child. On return it waits for its first program. The caller owns Pid and PidFD, and
// must reap the child in the end.
func (l *Launcher) Start(a Attr) (*Stage, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("stage: socketpair: %w", err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "stage")
	defer theirs.Close()
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		unix.Close(pair[0])
		return nil, err
	}
	defer null.Close()
	files := []uintptr{null.Fd(), null.Fd(), null.Fd(), theirs.Fd()}
	for n, f := range []*os.File{a.Stdin, a.Stdout, a.Stderr} {
		if f != nil {
			files[n] = f.Fd()
		}
	}
	for _, f := range a.Extra {
		files = append(files, f.Fd())
	}
	pidfd := -1
	attr := &syscall.SysProcAttr{
		Cloneflags: a.Cloneflags, PidFD: &pidfd,
		UidMappings: a.UIDMap, GidMappings: a.GIDMap, GidMappingsEnableSetgroups: true,
	}
	if a.Cgroup != nil {
		attr.UseCgroupFD, attr.CgroupFD = true, int(a.Cgroup.Fd())
	}
	exe := fmt.Sprintf("/proc/self/fd/%d", l.file.Fd())
	var pid int
	err = sys.Punctual(func() (err error) {
		pid, err = syscall.ForkExec(exe, []string{"berth-init"}, &syscall.ProcAttr{Files: files, Env: []string{}, Sys: attr})
		return err
	})
	if err != nil {
		unix.Close(pair[0])
		return nil, fmt.Errorf("stage: start child: %w", err)
	}
	// Non-blocking, so that Run waits in the netpoller and a child that hangs in the kernel costs no thread.
	unix.SetNonblock(pair[0], true)
	s := &Stage{Pid: pid, sock: os.NewFile(uintptr(pair[0]), "stage")}
	if pidfd >= 0 {
		unix.SetNonblock(pidfd, true)
		s.PidFD = os.NewFile(uintptr(pidfd), "pidfd")
	}
	s.hideSocket(len(a.Extra))
	return s, nil
}

// hideSocket is the first program: it moves the socket out of the way of the descriptors that the
// container's program is to have, and forbids that anybody looks into the child.
func (s *Stage) hideSocket(extra int) error {
	var p Program
	defer p.release()
	p.Do("hide from ptrace", unix.SYS_PRCTL, Int(unix.PR_SET_DUMPABLE), Int(0))
	p.Do("move socket", unix.SYS_FCNTL, Int(socketFD), Int(unix.F_DUPFD_CLOEXEC), Int(4+extra)).Into(Cell{addr: dataBase})
	p.Do("close socket", unix.SYS_CLOSE, Int(socketFD))
	for n := range extra {
		p.Do("move descriptor", unix.SYS_DUP3, Int(4+n), Int(3+n), Int(0))
		p.Do("close descriptor", unix.SYS_CLOSE, Int(4+n))
	}
	return s.send(&p)
}

// NewCell returns a cell that keeps its content between batches.
func (s *Stage) NewCell() (Cell, error) {
	if s.keep == keepCells {
		return Cell{}, errors.New("stage: out of cells")
	}
	c := Cell{addr: keepAddr + 8*uint64(s.keep)}
	s.keep++
	return c, nil
}

// Answer returns the content of the n-th answered cell after the latest Run.
func (s *Stage) Answer(n int) int64 { return int64(s.cells[n]) }

// Error is a system call of a program that failed.
type Error struct {
	Index int    // of the instruction
	What  string // as given to Do
	Errno unix.Errno
}

func (e *Error) Error() string { return e.What + ": " + e.Errno.Error() }
func (e *Error) Unwrap() error { return e.Errno }

// ErrExecuted says that the child executed another program (or died): no further batch is possible.
var ErrExecuted = errors.New("stage: the child has left")

// Run sends p and waits until the child has run it. It returns an *Error for a call that failed, after
// which another program may be sent; ErrExecuted when the child has executed another program or has
// died; the context's error when that ended first. p is empty afterwards.
func (s *Stage) Run(ctx context.Context, p *Program) error {
	defer p.release()
	return s.run(ctx, p)
}

// run is Run for a program that answers more than once.
func (s *Stage) run(ctx context.Context, p *Program) error {
	stop := context.AfterFunc(ctx, func() { s.sock.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	if s.pendingHide() {
		if err := s.receive(ctx, nil); err != nil {
			return err
		}
	}
	if err := s.send(p); err != nil {
		return err
	}
	return s.receive(ctx, p)
}

// pendingHide reports, once, that the answer to hideSocket has not been read yet.
func (s *Stage) pendingHide() (first bool) {
	s.once.Do(func() { first = true })
	return first
}

// rooms are the memory of packets: a container's start sends some dozens.
var rooms = sync.Pool{New: func() any { return new([]byte) }}

func (s *Stage) send(p *Program) error {
	room := rooms.Get().(*[]byte)
	defer rooms.Put(room)
	batch, big, err := p.assemble(*room)
	if err != nil {
		return err
	}
	*room = batch
	fds := make([]int, 0, len(p.fds)+1)
	for _, f := range p.fds {
		fds = append(fds, int(f.Fd()))
	}
	if big != nil {
		f, err := memfd(big)
		if err != nil {
			return err
		}
		defer f.Close()
		fds = append(fds, int(f.Fd()))
	}
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	raw, err := s.sock.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	err = raw.Write(func(fd uintptr) bool {
		serr = unix.Sendmsg(int(fd), batch, oob, nil, unix.MSG_NOSIGNAL)
		return serr != unix.EAGAIN
	})
	if err == nil {
		err = serr
	}
	if errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) {
		return ErrExecuted
	}
	if err != nil {
		return fmt.Errorf("stage: send batch: %w", err)
	}
	return nil
}

func memfd(content []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("berth-args", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("stage: memfd_create: %w", err)
	}
	f := os.NewFile(uintptr(fd), "berth-args")
	if _, err := f.Write(content); err != nil {
		f.Close()
		return nil, fmt.Errorf("stage: write memfd: %w", err)
	}
	return f, nil
}

// receive reads one answer; p, if not nil, is the program that it answers.
func (s *Stage) receive(ctx context.Context, p *Program) error {
	var b [replySize]byte
	n, err := s.sock.Read(b[:])
	switch {
	case errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET):
		return ErrExecuted
	case err != nil && ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return fmt.Errorf("stage: read answer: %w", err)
	case n != replySize:
		return fmt.Errorf("stage: answer of %d bytes", n)
	}
	for i := range s.cells {
		s.cells[i] = binary.LittleEndian.Uint64(b[16+8*i:])
	}
	result := int64(binary.LittleEndian.Uint64(b[8:]))
	if result == 0 {
		return nil
	}
	index := int(binary.LittleEndian.Uint64(b[:])-batchAddr) / instructionSize
	e := &Error{Index: index, What: "prepare child", Errno: unix.Errno(-result)}
	if p != nil && p.isBig() {
		e.Index-- // the mapping of the data comes first
	}
	if p != nil && e.Index >= 0 && e.Index < len(p.ins) {
		e.What = p.ins[e.Index].what
	}
	return e
}

// Close ends the conversation: a child that has not executed another program exits.
func (s *Stage) Close() error { return s.sock.Close() }

// Check tells whether the executable is what it was made as: it is sealed, so it always should be.
func (l *Launcher) Check() error {
	want, err := image()
	if err != nil {
		return err
	}
	got := make([]byte, len(want)+1)
	n, err := l.file.ReadAt(got, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("stage: read memfd: %w", err)
	}
	if !bytes.Equal(got[:n], want) {
		return errors.New("stage: the executable has changed")
	}
	return nil
}
