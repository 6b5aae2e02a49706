package engine

import (
	"encoding/binary"
	"fmt"
	"os"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/11f9778f/berth/internal/engine/stage"
)

// consoleCell is the answered cell that holds the master's number in the child.
const consoleCell = 15

// terminal makes a pseudo-terminal in the container's own devpts, so that its path is right inside, and
// makes the slave the child's stdio. Before pivot_root (create) paths start at the container's root
// descriptor; an exec'd process is inside already.
func (u *setup) terminal(p *specs.Process, create bool) {
	u.open("open /dev/pts/ptmx (does the container have a devpts on /dev/pts?)", "/dev/pts/ptmx", u.mount, unix.O_RDWR|unix.O_NOCTTY)
	attachTerminal(u.p, p, u.mount, u.scratch)
	if create {
		u.console()
	}
	u.closeCell(u.scratch)
}

// attachTerminal unlocks the master in cell master, opens its peer into slave and makes it the
// controlling terminal and descriptors 0 to 2.
func attachTerminal(p *stage.Program, process *specs.Process, master, slave stage.Cell) {
	p.Do("unlock terminal", unix.SYS_IOCTL, master.Value(), stage.Int(unix.TIOCSPTLCK), p.Words(stage.Int(0)))
	p.Do("open terminal", unix.SYS_IOCTL, master.Value(), stage.Int(unix.TIOCGPTPEER), stage.Int(unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)).Into(slave)
	if size := process.ConsoleSize; size != nil {
		ws := binary.NativeEndian.AppendUint16(nil, uint16(size.Height))
		ws = binary.NativeEndian.AppendUint16(ws, uint16(size.Width))
		p.Do("set terminal size", unix.SYS_IOCTL, master.Value(), stage.Int(unix.TIOCSWINSZ), p.Bytes(append(ws, 0, 0, 0, 0)))
	}
	p.Do("give terminal to the user", unix.SYS_FCHOWN, slave.Value(), stage.Int(process.User.UID), stage.Int(^uint32(0)))
	for fd := range 3 {
		p.Do("attach terminal", unix.SYS_DUP3, slave.Value(), stage.Int(fd), stage.Int(0))
	}
	p.Do("make terminal the controlling one", unix.SYS_IOCTL, slave.Value(), stage.Int(unix.TIOCSCTTY), stage.Int(0))
	p.Do("remember terminal", unix.SYS_FCNTL, master.Value(), stage.Int(unix.F_DUPFD_CLOEXEC), stage.Int(0)).Into(stage.Answered(consoleCell))
}

// console binds the terminal over /dev/console, an empty file of its own (CVE-2025-52565: never through
// a link that an image put there).
func (u *setup) console() {
	p := u.p
	what := "make /dev/console"
	u.open(what, "/dev", u.dest, unix.O_PATH|unix.O_DIRECTORY)
	u.do(what, unix.SYS_UNLINKAT, u.dest.Value(), p.String("console"), stage.Int(0)).TolerateAny()
	u.do(what, unix.SYS_MKNODAT, u.dest.Value(), p.String("console"), stage.Int(unix.S_IFREG|0o600), stage.Int(0))
	u.closeCell(u.dest)
	const clone = unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC | unix.AT_EMPTY_PATH
	u.do(what, unix.SYS_OPEN_TREE, u.scratch.Value(), p.String(""), stage.Int(clone)).Into(u.mount)
	u.place(what, "/dev/console")
	u.closeCell(u.mount)
}

// stealConsole takes the master out of the child.
func stealConsole(s *stage.Stage) (*os.File, error) {
	fd, err := unix.PidfdGetfd(int(s.PidFD.Fd()), int(s.Answer(consoleCell)), 0)
	if err != nil {
		return nil, fmt.Errorf("fetch terminal: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // so that a reader waits in the netpoller
		unix.Close(fd)
		return nil, err
	}
	unix.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), "console"), nil
}
