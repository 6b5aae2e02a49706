package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime/debug"

	"github.com/containerd/errdefs"

	"github.com/11f9778f/berth/internal/engine/cgroup"
	"github.com/11f9778f/berth/internal/engine/criu"
	"github.com/11f9778f/berth/internal/shim/ttrpc"
	"github.com/11f9778f/berth/internal/shim/wire"
)

// translate gives every error of a call its class, and keeps a fault in one call from ending the group.
func translate(ctx context.Context, method string, call ttrpc.Call) (resp wire.Message, err error) {
	defer func() {
		if r := recover(); r != nil {
			resp, err = nil, fault(method, r)
		}
	}()
	resp, err = call(ctx)
	if err != nil {
		return nil, classify(err)
	}
	return resp, nil
}

// fault makes an error of a panic, whose stack goes to the shim's log.
func fault(where string, r any) error {
	os.Stderr.Write(fmt.Appendf(nil, "panic in %s: %v\n%s", where, r, debug.Stack()))
	return fmt.Errorf("%s: fault in the shim: %v: %w", where, r, errdefs.ErrInternal)
}

// classify adds what errdefs calls an error that the standard library or the engine has made. ENOENT has no class
// here: a missing program must not look like a missing container.
func classify(err error) error {
	if !errors.Is(errdefs.Resolve(err), errdefs.ErrUnknown) {
		return err
	}
	for _, c := range []struct{ is, class error }{
		{os.ErrProcessDone, errdefs.ErrNotFound},
		{fs.ErrPermission, errdefs.ErrPermissionDenied},
		{cgroup.ErrUnsupported, errdefs.ErrNotImplemented},
		{criu.ErrUnsupported, errdefs.ErrFailedPrecondition},
		{criu.ErrMismatch, errdefs.ErrFailedPrecondition},
		{os.ErrInvalid, errdefs.ErrFailedPrecondition},
	} {
		if errors.Is(err, c.is) {
			return classified{err, c.class}
		}
	}
	return err
}

// classified is an error with a class, and without the class's words.
type classified struct{ err, class error }

func (c classified) Error() string   { return c.err.Error() }
func (c classified) Unwrap() []error { return []error{c.class, c.err} }
