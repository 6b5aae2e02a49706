package network

import (
	"context"

	"github.com/11f9778f/berth/internal/network/rtnl"
)

// Usage counts at the hosts' ends of all links, which one request tells: what a pod receives, the host has sent.
func (m *Manager) Usage(context.Context) (map[string]Usage, error) {
	m.bridge.mu.Lock()
	bridge := m.bridge.index
	m.bridge.mu.Unlock()
	if bridge == 0 {
		return nil, nil
	}
	var ports []rtnl.Counters
	err := m.onHost(func(c *rtnl.Conn) (err error) { ports, err = c.PortCounters(bridge); return err })
	if err != nil {
		return nil, err
	}
	out := make(map[string]Usage, len(ports))
	for _, p := range ports {
		if id, ok := m.cfg.ownerOf(p.Alias); ok {
			out[id] = Usage{
				Interface: podInterface,
				RxPackets: p.TxPackets, RxBytes: p.TxBytes, RxErrors: p.TxErrors, RxDropped: p.TxDropped,
				TxPackets: p.RxPackets, TxBytes: p.RxBytes, TxErrors: p.RxErrors, TxDropped: p.RxDropped,
			}
		}
	}
	return out, nil
}
