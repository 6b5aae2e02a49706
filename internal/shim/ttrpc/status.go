package ttrpc

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/11f9778f/berth/internal/shim/wire"
)

// Status is google.rpc.Status: how a call ended. Details are not read, and there are none.
type Status struct {
	Code    int32 // of gRPC
	Message string
}

// Fields implements wire.Message.
func (s *Status) Fields(f *wire.Fields) {
	wire.Int32(f, 1, &s.Code)
	f.String(2, &s.Message)
}

// unknown is gRPC's code of what has no other.
const unknown = 2

// codes are gRPC's and what package errdefs calls them.
var codes = [...]struct {
	code  int32
	class error
}{
	{1, context.Canceled}, {3, errdefs.ErrInvalidArgument}, {4, context.DeadlineExceeded}, {5, errdefs.ErrNotFound},
	{6, errdefs.ErrAlreadyExists}, {7, errdefs.ErrPermissionDenied}, {8, errdefs.ErrResourceExhausted},
	{9, errdefs.ErrFailedPrecondition}, {9, errdefs.ErrConflict}, {9, errdefs.ErrNotModified}, {10, errdefs.ErrAborted},
	{11, errdefs.ErrOutOfRange}, {12, errdefs.ErrNotImplemented}, {13, errdefs.ErrInternal}, {14, errdefs.ErrUnavailable},
	{15, errdefs.ErrDataLoss}, {16, errdefs.ErrUnauthenticated},
}

// StatusOf gives an error its code.
func StatusOf(err error) *Status {
	class := errdefs.Resolve(err)
	for _, c := range codes {
		if c.class == class {
			return &Status{c.code, err.Error()}
		}
	}
	return &Status{unknown, err.Error()}
}

// Err makes an error of a status again; nil and a code of 0 are none.
func (s *Status) Err() error {
	if s == nil || s.Code == 0 {
		return nil
	}
	var class error = errdefs.ErrUnknown
	for _, c := range codes {
		if c.code == s.Code {
			class = c.class
			break
		}
	}
	words := class.Error()
	if s.Message == "" || s.Message == words {
		return class
	}
	return fmt.Errorf("%s: %w", strings.TrimSuffix(s.Message, ": "+words), class)
}

// ErrClosed tells that the connection ended before the answer came.
var ErrClosed = errors.New("ttrpc: the connection is closed")
