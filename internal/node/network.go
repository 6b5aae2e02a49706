package node

import (
	"fmt"
	"path/filepath"
	"time"

	"github.com/11f9778f/berth/internal/network"
	"github.com/11f9778f/berth/internal/network/cni"
)

// CNI says which plugins make the pods' network; the zero value of each field is cni.Config's default.
type CNI struct {
	// Enabled puts the plugins in the place of the built-in bridge.
	Enabled bool
	ConfDir string
	BinDirs []string
	// Network is the name of the network to use; empty is that of the first file.
	Network  string
	Template string
	Timeout  time.Duration
}

// openNetwork opens the network that is configured. One that has pods of the other kind would lose them.
func (n *Node) openNetwork() (err error) {
	state := filepath.Join(n.cfg.Root, "network", "cni")
	other, name, now := filepath.Join(state, "*", "attachment.json"), "cni", "bridge"
	if n.cfg.CNI.Enabled {
		other, name, now = filepath.Join(n.cfg.Run, "network", "sandboxes", "*.json"), "bridge", "cni"
	}
	if left, err := filepath.Glob(other); err == nil && len(left) > 0 {
		return fmt.Errorf("network.driver is %q, and there are pods (%d) on the network of %q: configure that one until they are gone", now, len(left), name)
	}
	if c := n.cfg.CNI; c.Enabled {
		var m *cni.Network
		m, err = cni.Open(cni.Config{
			RunDir: n.cfg.Run, StateDir: state, ConfDir: c.ConfDir, BinDirs: c.BinDirs, Name: c.Network,
			Template: c.Template, Timeout: c.Timeout, Logger: n.cfg.Log,
		})
		if err == nil {
			n.network = m
		}
		return err
	}
	spares := n.cfg.Spares
	if n.cfg.IdleExit > 0 {
		spares = 0
	}
	m, err := network.Open(network.Config{
		RunDir: n.cfg.Run, Bridge: n.cfg.Names.Bridge, Table: n.cfg.Names.Table, LinkPrefix: n.cfg.Names.LinkPrefix,
		Subnets: n.cfg.Subnets, MTU: n.cfg.MTU, Spares: spares, Logger: n.cfg.Log,
	})
	if err == nil {
		n.network = m
	}
	return err
}
