package network

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"github.com/11f9778f/berth/internal/network/netns"
	"github.com/11f9778f/berth/internal/network/rtnl"
	"github.com/11f9778f/berth/internal/sys"
)

// anew is what mends a pod whose network is broken: nothing that a container has open survives it anyway.
const anew = "start the pod anew"

// NoNamespace says that a sandbox's namespace is not there.
func NoNamespace(path string) Problem {
	return Problem{What: "the network namespace " + path + " is gone", Remedy: anew}
}

// LookInside looks in a sandbox's namespace for its interface, the addresses on it and a default route by each
// of the gateways.
func LookInside(ns *os.File, link string, addresses []netip.Prefix, gateways []netip.Addr) []Problem {
	in, err := rtnl.Inspect(ns, link)
	if rtnl.IsMissing(err) {
		return []Problem{{What: link + " is missing in the pod's namespace", Remedy: anew}}
	}
	if err != nil {
		return []Problem{{What: fmt.Sprintf("the pod's namespace can not be looked at: %v", err)}}
	}
	var out []Problem
	if !in.Up {
		out = append(out, Problem{What: link + " is down in the pod's namespace", Remedy: anew})
	}
	for _, a := range addresses {
		if !slices.Contains(in.Addresses, a) {
			out = append(out, Problem{What: fmt.Sprintf("the address %s is missing on %s", a, link), Remedy: anew})
		}
	}
	for _, g := range gateways {
		if !slices.Contains(in.Gateways, g) {
			out = append(out, Problem{What: fmt.Sprintf("the default route by %s is missing", g), Remedy: anew})
		}
	}
	return out
}

// List tells what each sandbox has, from memory.
func (m *Manager) List(context.Context) ([]Attachment, error) {
	var out []Attachment
	for _, e := range m.book.Entries() {
		a := Attachment{
			SandboxID: e.Owner, Network: m.cfg.Bridge, State: "attached", NetNS: m.Pins.Path(e.Owner), Interface: podInterface,
			HostInterface: m.cfg.hostLink(e.Owner), Addresses: e.Addresses,
		}
		a.Bandwidth = Bandwidth{Ingress: e.Ingress, Egress: e.Egress}
		for _, p := range e.Ports {
			a.Ports = append(a.Ports, fmt.Sprintf("%s → %d", p, p.ContainerPort))
		}
		out = append(out, a)
	}
	return out, nil
}

// Ready returns nil: the bridge is made when the first pod needs it, and that fails or not with the pod.
func (m *Manager) Ready(context.Context) error { return nil }

// Check compares what the book says of a sandbox with the kernel: its own link at both ends, and what all
// sandboxes share.
func (m *Manager) Check(ctx context.Context, id string) ([]Problem, error) {
	unlock, err := m.Lock(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("check sandbox %s: %w", id, err)
	}
	defer unlock()
	e, ok := m.book.Get(id)
	if !ok {
		return nil, fmt.Errorf("check sandbox %s: the bridge knows nothing of it", id)
	}
	out, err := m.checkHost(e)
	if err != nil {
		return nil, fmt.Errorf("check sandbox %s: %w", id, err)
	}
	ns, err := sys.OpenNetNS(m.Pins.Path(id))
	if err != nil {
		return append(out, NoNamespace(m.Pins.Path(id))), nil
	}
	defer ns.Close()
	// A port that was in use when the daemon started may be free now: then it is held from here on.
	if err := m.hold(e); err != nil {
		out = append(out, Problem{What: err.Error()})
	}
	out = append(out, LookInside(ns, podInterface, e.Addresses, entryGateways(e))...)
	return append(out, checkShape(ns, podInterface, e.Egress)...), nil
}

// checkShape looks for a link's limit, if it is to have one.
func checkShape(ns *os.File, link string, rate uint64) []Problem {
	got, err := rtnl.Shaped(ns, link)
	if rate == 0 || err != nil || got == rate { // a link that is not there is told of elsewhere
		return nil
	}
	return []Problem{{What: fmt.Sprintf("%s is limited to %d bits a second, and should be to %d (0 is no limit)", link, got, rate), Remedy: anew}}
}

// ListPins lists the pins of namespaces, by owner.
func ListPins(pins netns.Dir) ([]Item, error) {
	ids, err := pins.List()
	if err != nil {
		return nil, err
	}
	var out []Item
	for _, id := range ids {
		it := Item{Kind: KindNetNS, Owner: id, Name: pins.Path(id)}
		if !pins.Pinned(id) {
			it.Note = "a file without a namespace"
		}
		out = append(out, it)
	}
	return out, nil
}
