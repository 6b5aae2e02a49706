package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	bootstrapv1 "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// maxBootstrap bounds what `start` reads from standard input.
const maxBootstrap = 1 << 20

// bootstrap is what containerd tells `start`.
type bootstrap struct {
	events     string // the ttrpc address of its events service
	shimCgroup string // where the shim itself shall be, "" for where containerd is
}

// readBootstrap reads standard input: BootstrapParams since containerd 2.3, the bare runtime options before, or nothing.
func readBootstrap(in io.Reader, f flags) (bootstrap, error) {
	raw, err := io.ReadAll(io.LimitReader(in, maxBootstrap+1))
	if err != nil {
		return bootstrap{}, fmt.Errorf("read bootstrap parameters: %w", err)
	}
	b, err := parseBootstrap(raw, f)
	if b.events == "" {
		b.events = os.Getenv("TTRPC_ADDRESS")
	}
	return b, err
}

func parseBootstrap(raw []byte, f flags) (b bootstrap, err error) {
	if len(raw) > maxBootstrap {
		return b, fmt.Errorf("bootstrap parameters are longer than %d bytes", maxBootstrap)
	}
	var p bootstrapv1.BootstrapParams
	// Bare options may happen to be valid BootstrapParams: those name us.
	if proto.Unmarshal(raw, &p) == nil && p.InstanceID == f.id && p.Namespace == f.namespace {
		b.events = p.ContainerdTtrpcAddress
		for _, e := range p.Extensions {
			if err := b.option(e.GetValue()); err != nil {
				return b, err
			}
		}
		return b, nil
	}
	var a anypb.Any
	if proto.Unmarshal(raw, &a) != nil {
		return b, nil // not a message of containerd's that this shim knows: nothing in it is needed
	}
	return b, b.option(&a)
}

func (b *bootstrap) option(a *anypb.Any) error {
	if !strings.HasSuffix(a.GetTypeUrl(), "containerd.runc.v1.Options") {
		return nil
	}
	var o runcoptions.Options
	if err := proto.Unmarshal(a.Value, &o); err != nil {
		return fmt.Errorf("runtime options: %w", err)
	}
	b.shimCgroup = o.ShimCgroup
	return nil
}
