package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/11f9778f/berth/internal/failpoint"
	"github.com/11f9778f/berth/internal/network/book"
	"github.com/11f9778f/berth/internal/network/rtnl"
	"github.com/11f9778f/berth/internal/sys"
	"github.com/11f9778f/berth/internal/trace"
)

// Attach connects a sandbox's namespace to the network: an interface with an address of each subnet, a
// default route, host ports. Repeated with the same request it finishes what is missing and returns the same
// result. Where it fails, what it began is undone; what an earlier Attach did stays, for Detach to remove.
//
// The error wraps book.ErrTaken where another pod has a wanted address or host port, sys.ErrPortInUse where a
// process of the host has the port, book.ErrInvalid where nobody could get what is wanted, book.ErrFull where no
// address is free, and firewall.ErrNotSupported where host ports are asked for and the kernel has no nftables.
func (m *Manager) Attach(ctx context.Context, r Request) (*Result, error) {
	defer trace.Start(ctx, "network.attach")()
	fail := func(err error) (*Result, error) {
		return nil, fmt.Errorf("attach sandbox %s to the network: %w", r.SandboxID, err)
	}
	ports, err := normalize(r.PortMappings, m.book.Configured())
	if err != nil {
		return fail(err)
	}
	unlock, err := m.Lock(ctx, r.SandboxID)
	if err != nil {
		return fail(err)
	}
	defer unlock()
	ns, err := sys.OpenNetNS(r.NetNS)
	if err != nil {
		return fail(err)
	}
	defer ns.Close()
	if _, err := m.ensure(ctx); err != nil { // before the claim: it makes known which subnets there are
		return fail(err)
	}
	entry, fresh, err := m.book.Claim(r.SandboxID, book.Want{
		Pod: r.pod(), Ports: ports, IPs: r.IPs, Ingress: r.Bandwidth.Ingress, Egress: r.Bandwidth.Egress,
	})
	if err != nil {
		return fail(err)
	}
	if err := m.connect(ctx, entry, ns, fresh); err != nil {
		if fresh {
			err = errors.Join(err, m.disconnect(context.WithoutCancel(ctx), entry, ns))
		}
		return fail(err)
	}
	return m.result(entry), nil
}

// connect makes what entry says.
func (m *Manager) connect(ctx context.Context, e book.Entry, ns *os.File, fresh bool) error {
	if err := m.hold(e); err != nil {
		return err
	}
	if err := m.link(ctx, e, ns, fresh); err != nil {
		return err
	}
	if err := m.shape(ctx, e, ns); err != nil {
		return err
	}
	return m.openPorts(ctx, e)
}

// link makes the pair and configures the pod's end.
func (m *Manager) link(ctx context.Context, e book.Entry, ns *os.File, fresh bool) error {
	defer m.owners.forget()
	if sp := m.spares.unpin(e.Owner); sp != nil && m.takeSpare(ctx, e, sp) == nil {
		return nil
	}
	err := m.pair(ctx, e, ns)
	made := err == nil
	if err != nil && !rtnl.IsExisting(err) {
		return err
	}
	if made || !fresh {
		err = m.configure(ctx, e, ns, !made)
		if err == nil || made || !rtnl.IsMissing(err) {
			return err
		}
	}
	// A link of our name that does not lead here: its namespace had the same owner, and is dying. Or a spare's that
	// an earlier daemon did not come to take.
	if err := m.clear(e, ns); err != nil {
		return err
	}
	if err := m.pair(ctx, e, ns); err != nil {
		return err
	}
	return m.configure(ctx, e, ns, false)
}

// clear removes what has the names of the link to be made, on the host and in the namespace.
func (m *Manager) clear(e book.Entry, ns *os.File) error {
	inside, err := rtnl.Dial(ns)
	if err != nil {
		return err
	}
	defer inside.Close()
	return errors.Join(inside.DeleteLink(podInterface),
		m.onHost(func(c *rtnl.Conn) error { return c.DeleteLink(m.cfg.hostLink(e.Owner)) }))
}

// pair makes the veth pair. The bridge may have been removed behind our back: then it is made again.
func (m *Manager) pair(ctx context.Context, e book.Entry, ns *os.File) error {
	defer trace.Start(ctx, "network.link")()
	if err := failpoint.Here("network/link/before"); err != nil {
		return err
	}
	var err error
	for range 2 {
		index, ensureErr := m.ensure(ctx)
		if ensureErr != nil {
			return ensureErr
		}
		p := rtnl.Pair{
			Host: m.cfg.hostLink(e.Owner), Alias: m.cfg.alias(e.Owner), Bridge: index,
			Pod: podInterface, NetNS: ns, MAC: macOf(e.Addresses[0].Addr()), MTU: m.cfg.MTU,
		}
		err = m.onHost(func(c *rtnl.Conn) error { return c.CreatePair(p) })
		if err == nil || rtnl.IsExisting(err) {
			break
		}
		m.forget()
	}
	if err != nil {
		return err
	}
	return failpoint.Here("network/link/after")
}

// configure gives the pod's end addresses and routes, and its hardware address if it was made by somebody else: of
// a spare, by a daemon that died.
func (m *Manager) configure(ctx context.Context, e book.Entry, ns *os.File, found bool) error {
	defer trace.Start(ctx, "network.address")()
	if err := failpoint.Here("network/address/before"); err != nil {
		return err
	}
	c, err := rtnl.Dial(ns)
	if err != nil {
		return err
	}
	defer c.Close()
	var mac net.HardwareAddr
	if found {
		mac = macOf(e.Addresses[0].Addr())
	}
	if err := c.ConfigurePod(podInterface, mac, e.Addresses, entryGateways(e)); err != nil {
		return err
	}
	err = m.onHost(func(c *rtnl.Conn) error { return c.Settle(m.cfg.hostLink(e.Owner), m.cfg.Bridge) })
	if err != nil {
		return err
	}
	return failpoint.Here("network/address/after")
}

// shape limits what the pod may receive, at the host's end of its link, and what it may send, at its own: what
// comes in can not be delayed at the host's, and there it would need a link more for each pod. A container that
// may change its network (CAP_NET_ADMIN) can take the second away.
func (m *Manager) shape(ctx context.Context, e book.Entry, ns *os.File) error {
	if e.Ingress == 0 && e.Egress == 0 {
		return nil
	}
	defer trace.Start(ctx, "network.shape")()
	if err := failpoint.Here("network/shape/before"); err != nil {
		return err
	}
	if e.Ingress > 0 {
		if err := rtnl.Shape(m.host, m.cfg.hostLink(e.Owner), e.Ingress, Burst(e.Ingress)); err != nil {
			return err
		}
	}
	if e.Egress > 0 {
		if err := rtnl.Shape(ns, podInterface, e.Egress, Burst(e.Egress)); err != nil {
			return err
		}
	}
	return failpoint.Here("network/shape/after")
}

func entryGateways(e book.Entry) []netip.Addr {
	var out []netip.Addr
	for _, a := range e.Addresses {
		out = append(out, book.Gateway(a))
	}
	return out
}

func (m *Manager) result(e book.Entry) *Result {
	r := &Result{
		Interface: podInterface, HostInterface: m.cfg.hostLink(e.Owner),
		MAC: macOf(e.Addresses[0].Addr()), MTU: m.cfg.MTU, Addresses: e.Addresses, Gateways: entryGateways(e),
	}
	for _, a := range e.Addresses {
		r.IPs = append(r.IPs, a.Addr())
	}
	return r
}

// Detach takes back what Attach gave: host ports, addresses, the record. The link itself goes with the
// namespace, after RemoveNetNS: the kernel removes it by itself, while removal by hand would wait for it.
// An unknown sandbox is success.
func (m *Manager) Detach(ctx context.Context, id string) error {
	defer trace.Start(ctx, "network.detach")()
	unlock, err := m.Lock(ctx, id)
	if err != nil {
		return fmt.Errorf("detach sandbox %s from the network: %w", id, err)
	}
	defer unlock()
	if err := m.detachLocked(ctx, id); err != nil {
		return fmt.Errorf("detach sandbox %s from the network: %w", id, err)
	}
	return nil
}

// detachLocked is Detach for who has id's lock.
func (m *Manager) detachLocked(ctx context.Context, id string) error {
	entry, ok := m.book.Get(id)
	if !ok {
		return nil
	}
	ns, err := sys.OpenNetNS(m.Pins.Path(id))
	if err != nil {
		ns = nil // gone, and its addresses with it
	} else {
		defer ns.Close()
	}
	return m.disconnect(ctx, entry, ns)
}

// disconnect undoes connect, and strikes the record when nothing is left that it stands for.
func (m *Manager) disconnect(ctx context.Context, e book.Entry, ns *os.File) error {
	if err := m.closePorts(ctx, e); err != nil {
		return err
	}
	if ns != nil {
		if err := m.unconfigure(e, ns); err != nil {
			return err
		}
	}
	return m.book.Release(e.Owner)
}

// unconfigure takes the addresses from the pod's end, so that it stops answering for them: they may soon be
// another pod's.
func (m *Manager) unconfigure(e book.Entry, ns *os.File) error {
	if err := failpoint.Here("network/address/remove/before"); err != nil {
		return err
	}
	c, err := rtnl.Dial(ns)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.ForgetPod(podInterface, e.Addresses); err != nil {
		return err
	}
	return failpoint.Here("network/address/remove/after")
}
