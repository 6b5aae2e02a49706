package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/11f9778f/berth/internal/engine/stage"
)

// listenerCell is the answered cell with the number of the seccomp listener in the child.
const listenerCell = 14

// gate holds a child back by a full pipe: of the system calls that a filter may have taken from the child, write is
// the one that it needs anyway, to answer.
type gate struct{ r, w *os.File }

func newGate() (*gate, error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("pipe2", err)
	}
	g := &gate{os.NewFile(uintptr(fds[0]), "gate"), os.NewFile(uintptr(fds[1]), "gate")}
	size, err := unix.FcntlInt(uintptr(fds[1]), unix.F_SETPIPE_SZ, os.Getpagesize())
	if err == nil {
		_, err = g.w.Write(make([]byte, size))
	}
	if err != nil {
		g.close()
		return nil, fmt.Errorf("fill pipe: %w", err)
	}
	return g, nil
}

// open lets the child go on. Closing without opening ends it, by SIGPIPE.
func (g *gate) open() error {
	_, err := g.r.Read(make([]byte, os.Getpagesize()))
	return err
}

func (g *gate) close() {
	g.r.Close()
	g.w.Close()
}

// handOver sends the seccomp listener of a child that waits at its gate to the agent at listenerPath (runtime-spec
// config-linux.md, The Container Process State).
func (c *Container) handOver(ctx context.Context, s *stage.Stage, status specs.ContainerState) error {
	listener, err := s.Steal(int(int32(s.Answer(listenerCell))))
	if err != nil {
		return fmt.Errorf("linux.seccomp: fetch listener: %w", err)
	}
	defer listener.Close()
	path := c.spec.Linux.Seccomp.ListenerPath
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return fmt.Errorf("linux.seccomp.listenerPath: %w", err)
	}
	defer conn.Close()
	text, err := json.Marshal(specs.ContainerProcessState{
		Version: specs.Version, Fds: []string{specs.SeccompFdName}, Pid: s.Pid, Metadata: c.spec.Linux.Seccomp.ListenerMetadata,
		State: c.ociState(status, c.state.Pid),
	})
	if err != nil {
		return err
	}
	u, ok := conn.(*net.UnixConn)
	if !ok {
		return errors.New("linux.seccomp.listenerPath: not a unix socket")
	}
	stop := context.AfterFunc(ctx, func() { u.Close() })
	defer stop()
	n, _, err := u.WriteMsgUnix(text, unix.UnixRights(int(listener.Fd())), nil)
	if err == nil && n < len(text) {
		_, err = u.Write(text[n:])
	}
	if err != nil {
		return fmt.Errorf("linux.seccomp.listenerPath %s: send: %w", path, err)
	}
	return nil
}
