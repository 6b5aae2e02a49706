package main

import (
	"fmt"
	"io"
	"os"

	"github.com/11f9778f/berth/internal/shim/api/containerd"
	"github.com/11f9778f/berth/internal/shim/wire"
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
	var p containerd.BootstrapParams
	// Bare options may happen to be valid BootstrapParams: those name us.
	if wire.Unmarshal(raw, &p) == nil && p.InstanceID == f.id && p.Namespace == f.namespace {
		b.events = p.ContainerdTTRPCAddress
		for _, e := range p.Extensions {
			if err := b.option(e.Value); err != nil {
				return b, err
			}
		}
		return b, nil
	}
	var a wire.Any
	if wire.Unmarshal(raw, &a) != nil {
		return b, nil // not a message of containerd's that this shim knows: nothing in it is needed
	}
	return b, b.option(&a)
}

func (b *bootstrap) option(a *wire.Any) error {
	if a.Type() != "containerd.runc.v1.Options" {
		return nil
	}
	var o containerd.RuncOptions
	if err := wire.Unmarshal(a.Value, &o); err != nil {
		return fmt.Errorf("runtime options: %w", err)
	}
	b.shimCgroup = o.ShimCgroup
	return nil
}
