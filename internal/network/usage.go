package network

import (
	"context"
	"slices"
	"sync"

	"github.com/11f9778f/berth/internal/network/rtnl"
)

// owners remembers whose the host's links are, for their counters come without names.
type owners struct {
	mu    sync.Mutex
	age   int            // how often it was forgotten
	links map[int]string // by index; "" is nobody's
}

// forget is called after a link was given to a pod.
func (o *owners) forget() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.age++
	o.links = nil
}

// known is not to be changed.
func (o *owners) known() (links map[int]string, age int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.links, o.age
}

// remember keeps what was learnt since age was told, if no link has been given to a pod meanwhile.
func (o *owners) remember(links map[int]string, age int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.age == age {
		o.links = links
	}
}

// Usage counts at the hosts' ends of all links, which one request tells: what a pod receives, the host has sent.
func (m *Manager) Usage(context.Context) (map[string]Usage, error) {
	m.bridge.mu.Lock()
	bridge := m.bridge.index
	m.bridge.mu.Unlock()
	if bridge == 0 {
		return nil, nil
	}
	var links []rtnl.Counters
	err := m.onHost(func(c *rtnl.Conn) (err error) { links, err = c.LinkCounters(); return err })
	if err != nil {
		return nil, err
	}
	owner, err := m.ownersOf(links, bridge)
	if err != nil {
		return nil, err
	}
	out := make(map[string]Usage, len(links))
	for _, l := range links {
		if id := owner[l.Index]; id != "" {
			out[id] = Usage{
				Interface: podInterface,
				RxPackets: l.TxPackets, RxBytes: l.TxBytes, RxErrors: l.TxErrors, RxDropped: l.TxDropped,
				TxPackets: l.RxPackets, TxBytes: l.RxBytes, TxErrors: l.RxErrors, TxDropped: l.RxDropped,
			}
		}
	}
	return out, nil
}

// ownersOf tells whose the links are. It asks the kernel if there is one that was not there before.
func (m *Manager) ownersOf(links []rtnl.Counters, bridge int) (map[int]string, error) {
	owner, age := m.owners.known()
	unknown := func(l rtnl.Counters) bool { _, ok := owner[l.Index]; return !ok }
	if !slices.ContainsFunc(links, unknown) {
		return owner, nil
	}
	var aliases map[int]string
	err := m.onHost(func(c *rtnl.Conn) (err error) { aliases, err = c.PortAliases(bridge); return err })
	if err != nil {
		return nil, err
	}
	owner = make(map[int]string, len(links))
	for _, l := range links {
		id, ok := m.cfg.ownerOf(aliases[l.Index])
		if !ok {
			id = ""
		}
		owner[l.Index] = id
	}
	m.owners.remember(owner, age)
	return owner, nil
}
