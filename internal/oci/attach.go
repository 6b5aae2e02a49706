package oci

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/11f9778f/berth/internal/engine"
	"github.com/11f9778f/berth/internal/sys"
)

// maxFiles bounds the descriptors that a process gets: the engine passes them in one message.
const maxFiles = 200

// attachment is what connects a process to the caller.
type attachment struct {
	stdio          engine.Stdio
	files          []*os.File
	console, pidfd *net.UnixConn
}

// attach checks the flags against the process and opens what they name.
func (p processFlags) attach(process *specs.Process, inv Invocation) (_ *attachment, err error) {
	if p.detach && process.Terminal && p.consoleSocket == "" {
		return nil, errors.New("cannot allocate tty if runc will detach without setting console socket")
	}
	if (!p.detach || !process.Terminal) && p.consoleSocket != "" {
		return nil, errors.New("cannot use console socket if runc will not detach or allocate tty")
	}
	at := &attachment{}
	defer func() {
		if err != nil {
			at.close()
		}
	}()
	if at.files, err = preserved(p.preserveFDs); err != nil {
		return nil, err
	}
	if at.console, err = dial(p.consoleSocket); err != nil {
		return nil, fmt.Errorf("console socket: %w", err)
	}
	if at.pidfd, err = dial(p.pidfdSocket); err != nil {
		return nil, fmt.Errorf("pidfd socket: %w", err)
	}
	if !process.Terminal {
		at.stdio = engine.Stdio{In: inv.In, Out: inv.Out, Err: inv.Err}
	}
	return at, nil
}

func dial(path string) (*net.UnixConn, error) {
	if path == "" {
		return nil, nil
	}
	return net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
}

// preserved opens the descriptors from 3 on: systemd's sockets, and n more.
func preserved(n int) ([]*os.File, error) {
	if n < 0 || n > maxFiles {
		return nil, fmt.Errorf("--preserve-fds %d: want 0 to %d", n, maxFiles)
	}
	var files []*os.File
	for fd := 3; fd < 3+listenFDs()+n; fd++ {
		if _, err := os.Stat("/proc/self/fd/" + strconv.Itoa(fd)); err != nil {
			return nil, fmt.Errorf("unable to stat preserved-fd %d (of %d): %w", fd-3, n, err)
		}
		files = append(files, os.NewFile(uintptr(fd), "preserved"))
	}
	return files, nil
}

// giveAway makes the process's user the owner of pipes and sockets that are its stdio, so that it can open
// /dev/stdout. Where that is not allowed the process has to do without. pid is a process of the container: the user is one
// of its user namespace.
func giveAway(pid int, user specs.User, stdio engine.Stdio) {
	uid, ok := hostUser(pid, user.UID)
	if !ok {
		return
	}
	for _, f := range []*os.File{stdio.In, stdio.Out, stdio.Err} {
		if f == nil {
			continue
		}
		st, err := f.Stat()
		if err != nil || st.Mode()&(os.ModeNamedPipe|os.ModeSocket) == 0 {
			continue
		}
		if sys, ok := st.Sys().(*syscall.Stat_t); ok && sys.Uid != uid {
			_ = f.Chown(int(uid), -1)
		}
	}
}

// hostUser translates a number of the user namespace of process pid.
func hostUser(pid int, uid uint32) (uint32, bool) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/uid_map")
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(b)) {
		var inside, outside, size uint32
		if _, err := fmt.Sscan(line, &inside, &outside, &size); err == nil && uid >= inside && uid-inside < size {
			return outside + (uid - inside), true
		}
	}
	return 0, false
}

// hand sends terminal and pidfd to those who asked for them.
func (at *attachment) hand(p *engine.Process) error {
	if at.console != nil {
		if err := sys.SendFile(at.console, []byte("/dev/ptmx"), p.Console()); err != nil {
			return fmt.Errorf("send terminal to console socket: %w", err)
		}
	}
	if at.pidfd != nil {
		if err := sys.SendFile(at.pidfd, []byte("pidfd"), p.PidFD()); err != nil {
			return fmt.Errorf("send pidfd: %w", err)
		}
	}
	at.close()
	return nil
}

func (at *attachment) close() {
	for _, c := range []io.Closer{at.console, at.pidfd} {
		if conn, ok := c.(*net.UnixConn); ok && conn != nil {
			conn.Close()
		}
	}
	at.console, at.pidfd = nil, nil
}
