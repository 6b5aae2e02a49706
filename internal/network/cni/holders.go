package cni

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/11f9778f/berth/internal/network/book"
)

// holders says which sandboxes have which address. Plugins are to give each address once; where their records were lost, or two
// networks have one range, two pods would take each other's traffic, and nothing would say so. An address has several holders
// where a daemon that did not look has let that happen.
type holders map[netip.Addr][]holder

type holder struct{ sandbox, pod, network string }

// note notes the addresses of a sandbox.
func (h holders) note(a *attachment) {
	for _, ip := range a.Result.IPs {
		h[ip] = append(h[ip], holder{a.ID, a.pod(), a.Network.Name})
	}
}

// conflict is the error of an address that another sandbox has.
func (h holders) conflict(a *attachment) error {
	for _, ip := range a.Result.IPs {
		for _, other := range h[ip] {
			if other.sandbox != a.ID {
				return fmt.Errorf("the plugins gave the pod the address %s, which %w pod %s (sandbox %s) of network %s: "+
					"what the ipam keeps of its addresses was lost, or another network has the same range: compare it with \"berth net ls\", "+
					"then remove that pod or the ipam's stale record, or give one network another range",
					ip, book.ErrTaken, other.pod, other.sandbox, other.network)
			}
		}
	}
	return nil
}

// claim notes the addresses of a sandbox that has just got them. One that another sandbox has is an error, and nothing is noted.
func (n *Network) claim(a *attachment) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.holders.conflict(a); err != nil {
		return err
	}
	n.holders.note(a)
	return nil
}

// disclaim forgets the addresses of a sandbox that is to lose them.
func (n *Network) disclaim(id string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for ip, all := range n.holders {
		if n.holders[ip] = slices.DeleteFunc(all, func(h holder) bool { return h.sandbox == id }); len(n.holders[ip]) == 0 {
			delete(n.holders, ip)
		}
	}
}

// recallHolders notes what the sandboxes of this boot have, as it was written down.
func (n *Network) recallHolders() error {
	all, _, err := n.records.list()
	if err != nil {
		return err
	}
	for _, a := range all {
		if a.State != attached || a.Boot != n.boot || a.Result == nil {
			continue
		}
		if err := n.holders.conflict(a); err != nil { // of a daemon that did not look; both pods stay as they are
			n.log.Warn("two pods have one address", "sandbox", a.ID, "pod", a.pod(), "error", err)
		}
		n.holders.note(a)
	}
	return nil
}

// pod is the pod's name, for people.
func (a *attachment) pod() string {
	var namespace, name string
	for _, arg := range a.Args {
		switch arg[0] {
		case argNamespace:
			namespace = arg[1]
		case argName:
			name = arg[1]
		}
	}
	return namespace + "/" + name
}
