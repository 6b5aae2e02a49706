package machine

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/containerd/errdefs"

	"github.com/11f9778f/berth/internal/network"
	"github.com/11f9778f/berth/internal/network/book"
	"github.com/11f9778f/berth/internal/network/cni"
	"github.com/11f9778f/berth/internal/network/firewall"
	"github.com/11f9778f/berth/internal/runtime"
	"github.com/11f9778f/berth/internal/sys"
)

// Network is runtime.Network on a network: the built-in bridge, or that of CNI plugins.
func Network(m network.Network) runtime.Network { return podNetwork{m} }

type podNetwork struct{ m network.Network }

// CreateNetNS makes and pins a namespace.
func (b podNetwork) CreateNetNS(ctx context.Context, id string, sysctls map[string]string) (string, error) {
	return b.m.CreateNetNS(ctx, id, sysctls)
}

// AdoptNetNS pins a namespace that is there.
func (b podNetwork) AdoptNetNS(ctx context.Context, id, from string) (string, error) {
	return b.m.AdoptNetNS(ctx, id, from)
}

// RemoveNetNS removes it.
func (b podNetwork) RemoveNetNS(ctx context.Context, id string) error {
	return b.m.RemoveNetNS(ctx, id)
}

// Attach gives a pod its addresses.
func (b podNetwork) Attach(ctx context.Context, r runtime.AttachRequest) ([]netip.Addr, error) {
	req := network.Request{
		SandboxID: r.SandboxID, NetNS: r.NetNS,
		PodNamespace: r.PodNamespace, PodName: r.PodName, PodUID: r.PodUID,
		Bandwidth: network.Bandwidth(r.Bandwidth), IPs: r.IPs,
	}
	if d := r.DNS; d != nil {
		req.DNS = &network.DNS{Servers: d.Servers, Searches: d.Searches, Options: d.Options}
	}
	for _, p := range r.Ports {
		m := network.PortMapping{Protocol: p.Protocol, HostPort: uint16(p.HostPort), ContainerPort: uint16(p.ContainerPort)}
		if p.HostIP != "" {
			ip, err := netip.ParseAddr(p.HostIP)
			if err != nil {
				return nil, fmt.Errorf("host IP of port %d: %w: %w", p.HostPort, err, errdefs.ErrInvalidArgument)
			}
			m.HostIP = ip
		}
		req.PortMappings = append(req.PortMappings, m)
	}
	res, err := b.m.Attach(ctx, req)
	if err != nil {
		return nil, classify(err)
	}
	return res.IPs, nil
}

// classes are what an error of the network is to who asked: the first that fits.
var classes = []struct{ is, class error }{
	{book.ErrInvalid, errdefs.ErrInvalidArgument},
	{book.ErrTaken, errdefs.ErrAlreadyExists},
	{sys.ErrPortInUse, errdefs.ErrAlreadyExists},
	{book.ErrFull, errdefs.ErrResourceExhausted},
	{firewall.ErrNotSupported, errdefs.ErrFailedPrecondition},
	{cni.ErrNoNetwork, errdefs.ErrUnavailable},
}

// classified is an error with a class, which is not worth words in it.
type classified struct {
	error
	class error
}

// Unwrap returns both.
func (c classified) Unwrap() []error { return []error{c.error, c.class} }

func classify(err error) error {
	for _, c := range classes {
		if errors.Is(err, c.is) {
			return classified{error: err, class: c.class}
		}
	}
	return err
}

// Detach takes them back.
func (b podNetwork) Detach(ctx context.Context, id string) error { return b.m.Detach(ctx, id) }

// Usage counts at the network's end of all interfaces at once.
func (b podNetwork) Usage(ctx context.Context) (map[string]runtime.InterfaceUsage, error) {
	all, err := b.m.Usage(ctx)
	if err != nil {
		return nil, err
	}
	out := make(map[string]runtime.InterfaceUsage, len(all))
	for id, u := range all {
		out[id] = runtime.InterfaceUsage{
			Name: u.Interface, RxBytes: u.RxBytes, RxPackets: u.RxPackets, RxErrors: u.RxErrors, RxDropped: u.RxDropped,
			TxBytes: u.TxBytes, TxPackets: u.TxPackets, TxErrors: u.TxErrors, TxDropped: u.TxDropped,
		}
	}
	return out, nil
}

// Inventory lists what belongs to single sandboxes; bridge and table belong to all of them.
func (b podNetwork) Inventory(ctx context.Context) ([]runtime.Resource, error) {
	items, err := b.m.Inventory(ctx)
	if err != nil {
		return nil, err
	}
	var out []runtime.Resource
	for _, i := range items {
		if i.Kind == network.KindBridge || i.Kind == network.KindTable {
			continue
		}
		name := i.Name
		if i.Note != "" {
			name += " (" + i.Note + ")"
		}
		out = append(out, runtime.Resource{Kind: string(i.Kind), Name: name, Owner: i.Owner})
	}
	return out, nil
}

// Repair removes everything whose owner is not alive.
func (b podNetwork) Repair(ctx context.Context, live func(id string) bool) error {
	_, err := b.m.Repair(ctx, live)
	return err
}
