package server

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/11f9778f/berth/internal/shim/api"
)

// Upgrade implements api.ShimService.
func (v shimService) Upgrade(ctx context.Context, r *api.UpgradeRequest) (*emptypb.Empty, error) {
	return nil, fmt.Errorf("upgrade: %w", errdefs.ErrNotImplemented)
}
