package api

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
)

// Kinds of frames on the stream socket; see StreamResponse in shim.proto.
const (
	FrameStdin byte = iota
	FrameStdout
	FrameStderr
	FrameStdinEnd
	FrameResize
	FrameExit
	FrameError
)

// MaxFrame is the longest payload.
const MaxFrame = 64 << 10

const frameHeader = 5

// ErrFrame tells that what came is no frame.
var ErrFrame = errors.New("malformed frame on a shim's stream socket")

// WriteFrame writes p as one frame, or as several if it is longer than MaxFrame.
func WriteFrame(w io.Writer, kind byte, p []byte) error {
	for {
		n := min(len(p), MaxFrame)
		head := [frameHeader]byte{kind}
		binary.BigEndian.PutUint32(head[1:], uint32(n))
		bufs := net.Buffers{head[:], p[:n]}
		if _, err := bufs.WriteTo(w); err != nil {
			return err
		}
		if p = p[n:]; len(p) == 0 {
			return nil
		}
	}
}

// ReadFrame reads one frame into buf, which has room for MaxFrame bytes.
func ReadFrame(r io.Reader, buf []byte) (kind byte, p []byte, err error) {
	var head [frameHeader]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if head[0] > FrameError || n > MaxFrame {
		return 0, nil, ErrFrame
	}
	_, err = io.ReadFull(r, buf[:n])
	return head[0], buf[:n], err
}
