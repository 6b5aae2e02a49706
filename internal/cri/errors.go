package cri

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/11f9778f/berth/internal/image"
)

// codeOf holds the first match for an error.
var codeOf = []struct {
	target error
	code   codes.Code
}{
	{context.Canceled, codes.Canceled},
	{context.DeadlineExceeded, codes.DeadlineExceeded},
	{image.ErrNotFound, codes.NotFound},
	{image.ErrInvalid, codes.InvalidArgument},
	{image.ErrAmbiguous, codes.InvalidArgument},
	{image.ErrUnauthorized, codes.Unauthenticated},
	{image.ErrRejected, codes.PermissionDenied},
	{image.ErrPlatform, codes.FailedPrecondition},
	{image.ErrNoLimit, codes.FailedPrecondition},
	{image.ErrCorrupt, codes.DataLoss},
	{image.ErrNoSpace, codes.ResourceExhausted},
	{image.ErrUnavailable, codes.Unavailable},
	{errdefs.ErrInvalidArgument, codes.InvalidArgument},
	{errdefs.ErrNotFound, codes.NotFound},
	{errdefs.ErrAlreadyExists, codes.AlreadyExists},
	{errdefs.ErrFailedPrecondition, codes.FailedPrecondition},
	{errdefs.ErrNotImplemented, codes.Unimplemented},
	{errdefs.ErrUnavailable, codes.Unavailable},
	{errdefs.ErrResourceExhausted, codes.ResourceExhausted},
}

// signatureValidationFailed begins the error of an image that the policy does not allow: a kubelet makes it the
// reason of the container's waiting (kubelet, pkg/kubelet/images/types.go).
const signatureValidationFailed = "SignatureValidationFailed"

// asStatus gives an error its gRPC code.
func asStatus(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	if errors.Is(err, image.ErrRejected) {
		err = fmt.Errorf("%s: %w", signatureValidationFailed, err)
	}
	for _, c := range codeOf {
		if errors.Is(err, c.target) {
			return status.Error(c.code, err.Error())
		}
	}
	return status.Error(codes.Unknown, err.Error())
}

func badRequest(format string, args ...any) error {
	return status.Error(codes.InvalidArgument, fmt.Sprintf(format, args...))
}
