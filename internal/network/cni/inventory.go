package cni

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/11f9778f/berth/internal/network"
)

// Inventory lists pins and records, by owner. What plugins have in the kernel is theirs.
func (n *Network) Inventory(ctx context.Context) ([]network.Item, error) {
	out, err := network.ListPins(n.Pins)
	if err != nil {
		return nil, fmt.Errorf("network inventory: %w", err)
	}
	all, damaged, err := n.records.list()
	if err != nil {
		return nil, fmt.Errorf("network inventory: %w", err)
	}
	for _, a := range all {
		it := network.Item{Kind: network.KindCNI, Owner: a.ID, Name: a.Network.Name}
		switch {
		case a.Refused != "":
			it.Note = "the plugins refuse DEL, and are asked again: " + a.Refused
		case a.State != attached:
			it.Note = a.State
		}
		out = append(out, it)
	}
	for _, id := range damaged {
		out = append(out, network.Item{Kind: network.KindRecord, Owner: id, Name: n.records.record(id), Note: "a damaged record"})
	}
	return out, nil
}

// Usage tells nothing: what a plugin makes has no counters that are known here.
func (n *Network) Usage(context.Context) (map[string]network.Usage, error) { return nil, nil }

// Repair detaches whatever is not alive, and has the plugins collect what they know of more than we do. It
// reports what it removed; what plugins refuse is an error, and is asked for again.
func (n *Network) Repair(ctx context.Context, live func(id string) bool) ([]network.Item, error) {
	before, err := n.Inventory(ctx)
	if err != nil {
		return nil, err
	}
	gone := map[string]bool{}
	var errs []error
	var removed []network.Item
	for _, it := range before {
		if _, seen := gone[it.Owner]; !seen {
			done, err := n.IfDead(ctx, it.Owner, live, func() error {
				return errors.Join(n.detachAnyhow(ctx, it.Owner), n.Pins.Remove(it.Owner))
			})
			gone[it.Owner] = done
			errs = append(errs, err)
		}
		if gone[it.Owner] {
			removed = append(removed, it)
		}
	}
	if len(removed) > 0 {
		errs = append(errs, n.collect(ctx))
	}
	return removed, errors.Join(errs...)
}

// detachAnyhow is detachLocked, and for a sandbox whose record says nothing any more DEL by the network that
// counts now.
func (n *Network) detachAnyhow(ctx context.Context, id string) error {
	if _, err := n.records.read(id); err == nil || errors.Is(err, fs.ErrNotExist) {
		return n.detachLocked(ctx, id)
	}
	list, err := n.current()
	if errors.Is(err, ErrNoNetwork) {
		n.disclaim(id)
		return n.records.drop(id)
	}
	if err != nil {
		return err
	}
	args, err := podArgs(network.Request{SandboxID: id})
	if err != nil {
		return err
	}
	return n.remove(ctx, &attachment{Version: recordVersion, ID: id, Boot: n.boot, NetNS: n.Pins.Path(id), Network: save(list), Args: args})
}
