package ttrpc

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/11f9778f/berth/internal/shim/wire"
)

// MaxMessage is the longest message, in bytes, without its header.
const MaxMessage = 4 << 20

const headerSize = 10

// Types of messages.
const (
	typeRequest  = 1
	typeResponse = 2
	typeData     = 3
)

// flagRemoteClosed tells that the sender sends nothing more on the stream, as it is with a unary call.
const flagRemoteClosed = 1

type header struct {
	length, stream uint32
	kind, flags    byte
}

// errTooLong tells that a message was longer than MaxMessage. It has been read past.
var errTooLong = errors.New("message is too long")

// readFrame reads a message. Its payload is in buf if it fits there.
func readFrame(r *bufio.Reader, buf []byte) (h header, payload []byte, err error) {
	var b [headerSize]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return h, nil, err
	}
	h = header{length: binary.BigEndian.Uint32(b[:]), stream: binary.BigEndian.Uint32(b[4:]), kind: b[8], flags: b[9]}
	if h.length > MaxMessage {
		if _, err := r.Discard(int(h.length)); err != nil {
			return h, nil, err
		}
		return h, nil, fmt.Errorf("%w: %d of %d bytes", errTooLong, h.length, MaxMessage)
	}
	if int(h.length) > len(buf) {
		buf = make([]byte, h.length)
	}
	_, err = io.ReadFull(r, buf[:h.length])
	return h, buf[:h.length], err
}

// frame makes a message with its header.
func frame(stream uint32, kind, flags byte, m wire.Message) ([]byte, error) {
	b := wire.Append(make([]byte, headerSize, 128), m)
	n := len(b) - headerSize
	if n > MaxMessage {
		return nil, fmt.Errorf("%w: %d of %d bytes", errTooLong, n, MaxMessage)
	}
	binary.BigEndian.PutUint32(b, uint32(n))
	binary.BigEndian.PutUint32(b[4:], stream)
	b[8], b[9] = kind, flags
	return b, nil
}

// request is what a client sends.
type request struct {
	service, method string
	payload         []byte
	timeoutNano     int64
}

func (m *request) Fields(f *wire.Fields) {
	f.String(1, &m.service)
	f.String(2, &m.method)
	f.Bytes(3, &m.payload)
	f.Int64(4, &m.timeoutNano)
}

// response is what a server answers.
type response struct {
	status  *Status
	payload []byte
}

func (m *response) Fields(f *wire.Fields) {
	wire.Sub(f, 1, &m.status)
	f.Bytes(2, &m.payload)
}
