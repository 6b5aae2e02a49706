package node

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/11f9778f/berth/internal/runtime"
	"github.com/11f9778f/berth/internal/runtime/nri"
)

// openPlugins makes the Node Resource Interface, if it is wanted. Whoever reaches its socket decides over
// containers: the folder is made for root alone.
func (n *Node) openPlugins() (runtime.Plugins, error) {
	c := n.cfg.NRI
	if c.Socket == "" && c.Plugins == "" {
		return nil, nil
	}
	if c.Socket != "" {
		if err := os.MkdirAll(filepath.Dir(c.Socket), 0o700); err != nil {
			return nil, fmt.Errorf("make the folder of the plugins' socket: %w", err)
		}
	}
	var err error
	n.plugins, err = nri.New(nri.Config{
		Socket: c.Socket, Plugins: c.Plugins, PluginConfig: c.PluginConfig, CDIDirs: n.cfg.CDIDirs, Version: n.version, Logger: n.cfg.Log,
	})
	if err != nil {
		return nil, err
	}
	return n.plugins, nil
}
