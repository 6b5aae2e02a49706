package sys

import (
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// SendFile sends one message over a SEQPACKET unix connection, with a duplicate of f if f is not nil. The
// caller keeps f.
func SendFile(c *net.UnixConn, msg []byte, f *os.File) error {
	if f == nil {
		_, _, err := c.WriteMsgUnix(msg, nil, nil)
		return err
	}
	conn, err := f.SyscallConn() // not Fd, which would make f blocking
	if err != nil {
		return fmt.Errorf("send %s: %w", f.Name(), err)
	}
	// The write may wait for the receiver, and a Close of f must not wait with it.
	dup := -1
	var derr error
	err = conn.Control(func(fd uintptr) { dup, derr = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 3) })
	if err := errors.Join(err, derr); err != nil {
		return err
	}
	defer unix.Close(dup)
	_, _, err = c.WriteMsgUnix(msg, unix.UnixRights(dup), nil)
	return err
}

// Held is a descriptor that is only kept for somebody else. It is not an os.File because the runtime would watch
// a non-blocking one, and be woken by data that somebody else reads.
type Held struct{ fd int }

// Close gives the descriptor up.
func (h *Held) Close() error {
	if h.fd < 0 {
		return os.ErrClosed
	}
	err := unix.Close(h.fd)
	h.fd = -1
	return err
}

// Dup returns a second descriptor of the same description.
func (h *Held) Dup() (*Held, error) {
	fd, err := unix.FcntlInt(uintptr(h.fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, fmt.Errorf("duplicate a descriptor: %w", err)
	}
	return &Held{fd: fd}, nil
}

// File turns h into a file, for os/exec to give to a child; h is closed. The description becomes blocking.
func (h *Held) File(name string) *os.File {
	fd := h.fd
	h.fd = -1
	_ = unix.SetNonblock(fd, false) // it can only fail for a bad descriptor, and then so does all else
	return os.NewFile(uintptr(fd), name)
}

// RecvFile receives one message into buf, and the descriptor that came with it, if one did. A message that
// does not fit, or with more descriptors, is an error, and its descriptors are closed. n is 0 at the end.
func RecvFile(c *net.UnixConn, buf []byte) (n int, f *Held, err error) {
	oob := make([]byte, unix.CmsgSpace(4*4))
	n, oobn, flags, _, err := c.ReadMsgUnix(buf, oob)
	if err != nil {
		return 0, nil, err
	}
	fds, err := rights(oob[:oobn])
	if err == nil && flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		err = errors.New("receive file: message too long")
	}
	if err == nil && len(fds) > 1 {
		err = errors.New("receive file: more than one descriptor in a message")
	}
	if err != nil {
		for _, fd := range fds {
			unix.Close(fd)
		}
		return 0, nil, err
	}
	if len(fds) == 1 {
		f = &Held{fd: fds[0]}
	}
	return n, f, nil
}

func rights(oob []byte) ([]int, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("receive file: %w", err)
	}
	var fds []int
	for _, m := range msgs {
		got, err := unix.ParseUnixRights(&m)
		if err != nil {
			return fds, fmt.Errorf("receive file: %w", err)
		}
		fds = append(fds, got...)
	}
	return fds, nil
}

// PeerPid is the process at the other end of a unix connection, as of its connect (or listen).
func PeerPid(c *net.UnixConn) (int, error) {
	conn, err := c.SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("peer of unix connection: %w", err)
	}
	var cred *unix.Ucred
	var cerr error
	err = conn.Control(func(fd uintptr) {
		cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(err, cerr); err != nil {
		return 0, fmt.Errorf("peer of unix connection: %w", err)
	}
	return int(cred.Pid), nil
}
