package cni

import (
	"fmt"
	"maps"
	"net/netip"

	"github.com/11f9778f/berth/internal/network/book"
)

// holders says which sandbox has which address. Plugins are to give each address once; where their records were lost, or two
// networks have one range, two pods would take each other's traffic, and nothing would say so.
type holders map[netip.Addr]holder

type holder struct{ sandbox, pod, network string }

// claim notes the addresses of a sandbox that has just got them. One that another sandbox has is an error, and nothing is noted.
func (n *Network) claim(a *attachment) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, ip := range a.Result.IPs {
		if other, ok := n.holders[ip]; ok && other.sandbox != a.ID {
			return fmt.Errorf("the plugins gave the pod the address %s, which %w pod %s (sandbox %s) of network %s: "+
				"what the ipam keeps of its addresses was lost, or another network has the same range", ip, book.ErrTaken, other.pod, other.sandbox, other.network)
		}
	}
	for _, ip := range a.Result.IPs {
		n.holders[ip] = holder{a.ID, a.pod(), a.Network.Name}
	}
	return nil
}

// disclaim forgets the addresses of a sandbox that is to lose them.
func (n *Network) disclaim(a *attachment) {
	n.mu.Lock()
	defer n.mu.Unlock()
	maps.DeleteFunc(n.holders, func(_ netip.Addr, h holder) bool { return h.sandbox == a.ID })
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
		if err := n.claim(a); err != nil { // of a daemon that did not look; both pods stay as they are
			n.log.Warn("two pods have one address", "sandbox", a.ID, "pod", a.pod(), "error", err)
		}
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
