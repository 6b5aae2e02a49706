package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/11f9778f/berth/internal/sys"
)

// Process is a process of a container: its first one, or one that Exec started. Its methods may be
// called from several goroutines.
type Process struct {
	pid     int
	pidfd   *os.File
	console *os.File
	child   bool // of this very process, which then reaps it

	once   sync.Once
	done   chan struct{}
	status ExitStatus
	err    error
}

func newProcess(pid int, pidfd *os.File, child bool) *Process {
	return &Process{pid: pid, pidfd: pidfd, child: child, done: make(chan struct{})}
}

// Pid is the process's number in the host's pid namespace.
func (p *Process) Pid() int { return p.pid }

// PidFD names the process for good. It belongs to the Process; duplicate it to keep it.
func (p *Process) PidFD() *os.File { return p.pidfd }

// Console is the master of the process's terminal, or nil. It belongs to the Process.
func (p *Process) Console() *os.File { return p.console }

// Signal sends a signal. A process that has ended gets none: the error is os.ErrProcessDone.
func (p *Process) Signal(sig syscall.Signal) error {
	raw, err := p.pidfd.SyscallConn()
	if err != nil {
		return os.ErrProcessDone
	}
	var serr error
	if err := raw.Control(func(fd uintptr) { serr = unix.PidfdSendSignal(int(fd), sig, nil, 0) }); err != nil {
		return os.ErrProcessDone
	}
	if errors.Is(serr, unix.ESRCH) {
		return os.ErrProcessDone
	}
	return serr
}

// Wait waits for the end of the process. It takes no thread: the netpoller watches the pidfd. After the
// end it answers at once, as often as it is asked.
func (p *Process) Wait(ctx context.Context) (ExitStatus, error) {
	p.startWatch()
	select {
	case <-p.done:
		return p.status, p.err
	case <-ctx.Done():
		return ExitStatus{}, ctx.Err()
	}
}

func (p *Process) startWatch() { p.once.Do(func() { go p.watch() }) }

// watch waits for the end and learns the status: by waitid for a child, else from the pidfd (Linux 6.15).
func (p *Process) watch() {
	defer close(p.done)
	raw, err := p.pidfd.SyscallConn()
	if err != nil {
		p.err = fmt.Errorf("wait for process %d: %w", p.pid, err)
		return
	}
	err = raw.Read(func(fd uintptr) bool {
		if p.child {
			return p.reap(int(fd))
		}
		return p.inspect(int(fd))
	})
	if err != nil {
		p.err = fmt.Errorf("wait for process %d: %w", p.pid, err)
	}
}

func (p *Process) reap(fd int) (ended bool) {
	var info sys.ChildInfo
	err := sys.Waitid(unix.P_PIDFD, fd, &info, unix.WEXITED|unix.WNOHANG)
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		return false
	case errors.Is(err, unix.ECHILD): // reaped by somebody else: the pidfd may still know
		return p.inspect(fd)
	case err != nil:
		p.status = unknownExit(err.Error())
		return true
	case info.Pid == 0:
		return false
	}
	p.status = exitStatus(info.Code == sys.ChildExited, int(info.Status))
	return true
}

// inspect learns the end of a process that is nobody's child here.
func (p *Process) inspect(fd int) (ended bool) {
	if readable, broken := sys.Readable(uintptr(fd)); !readable && !broken {
		return false
	}
	ws, err := sys.PidFDExit(p.pidfd, p.pid)
	if err != nil {
		p.status = unknownExit("the process was not a child of this shim any more, and the kernel does not keep its exit code: " + err.Error())
		return true
	}
	if ws.Signaled() {
		p.status = exitStatus(false, int(ws.Signal()))
	} else {
		p.status = exitStatus(true, ws.ExitStatus())
	}
	return true
}

func exitStatus(exited bool, n int) ExitStatus {
	if exited {
		return ExitStatus{Code: n, At: time.Now()}
	}
	return ExitStatus{Code: 128 + n, Signal: n, At: time.Now()}
}

func unknownExit(reason string) ExitStatus {
	return ExitStatus{Code: 255, Unknown: true, Reason: reason, At: time.Now()}
}

// close releases the descriptors; a Wait that is under way ends with an error.
func (p *Process) close() {
	for _, f := range []*os.File{p.pidfd, p.console} {
		if f != nil {
			f.Close()
		}
	}
}

// startTime is field 22 of /proc/PID/stat, in clock ticks since boot.
func startTime(pid int) (uint64, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, err
	}
	_, rest, ok := strings.Cut(string(b), ") ")
	for i := strings.LastIndex(rest, ") "); i >= 0; i = strings.LastIndex(rest, ") ") {
		rest = rest[i+2:] // the command's name may hold parentheses
	}
	fields := strings.Fields(rest)
	if !ok || len(fields) < 20 {
		return 0, fmt.Errorf("/proc/%d/stat: unexpected content", pid)
	}
	return strconv.ParseUint(fields[19], 10, 64)
}

// setOOMScore writes the score, or the lowest that this process may give: without CAP_SYS_RESOURCE
// it can't go below its own.
func setOOMScore(pid int, score *int) error {
	if score == nil {
		return nil
	}
	file := "/proc/" + strconv.Itoa(pid) + "/oom_score_adj"
	err := os.WriteFile(file, []byte(strconv.Itoa(*score)), 0)
	if errors.Is(err, unix.EACCES) {
		return nil // the child has ours already, which is the lowest allowed
	}
	if err != nil {
		return fmt.Errorf("process.oomScoreAdj %d: %w", *score, err)
	}
	return nil
}

var rlimits = map[string]int{
	"RLIMIT_AS": unix.RLIMIT_AS, "RLIMIT_CORE": unix.RLIMIT_CORE, "RLIMIT_CPU": unix.RLIMIT_CPU, "RLIMIT_DATA": unix.RLIMIT_DATA,
	"RLIMIT_FSIZE": unix.RLIMIT_FSIZE, "RLIMIT_LOCKS": unix.RLIMIT_LOCKS, "RLIMIT_MEMLOCK": unix.RLIMIT_MEMLOCK,
	"RLIMIT_MSGQUEUE": unix.RLIMIT_MSGQUEUE, "RLIMIT_NICE": unix.RLIMIT_NICE, "RLIMIT_NOFILE": unix.RLIMIT_NOFILE,
	"RLIMIT_NPROC": unix.RLIMIT_NPROC, "RLIMIT_RSS": unix.RLIMIT_RSS, "RLIMIT_RTPRIO": unix.RLIMIT_RTPRIO,
	"RLIMIT_RTTIME": unix.RLIMIT_RTTIME, "RLIMIT_SIGPENDING": unix.RLIMIT_SIGPENDING, "RLIMIT_STACK": unix.RLIMIT_STACK,
}

// setLimits sets resource limits; a hard limit that this process may not raise is clamped to its own.
func setLimits(pid int, limits []specs.POSIXRlimit) error {
	for _, l := range limits {
		which, ok := rlimits[l.Type]
		if !ok {
			return fmt.Errorf("process.rlimits: unknown type %q", l.Type)
		}
		want := unix.Rlimit{Cur: l.Soft, Max: l.Hard}
		err := unix.Prlimit(pid, which, &want, nil)
		if errors.Is(err, unix.EPERM) {
			var own unix.Rlimit
			if err := unix.Prlimit(pid, which, nil, &own); err != nil {
				return fmt.Errorf("process.rlimits: %s: %w", l.Type, err)
			}
			want = unix.Rlimit{Cur: min(l.Soft, own.Max), Max: min(l.Hard, own.Max)}
			err = unix.Prlimit(pid, which, &want, nil)
		}
		if err != nil {
			return fmt.Errorf("process.rlimits: %s: %w", l.Type, err)
		}
	}
	return nil
}
