package cni

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"
)

// Config is what a Network is made of. RunDir and StateDir are required.
type Config struct {
	// RunDir is the run directory; pins go to RunDir/netns.
	RunDir string
	// StateDir holds the records of attachments. It must outlive a boot: what plugins keep does.
	StateDir string
	// ConfDir is the folder with network configurations. Default /etc/cni/net.d.
	ConfDir string
	// BinDirs are the folders with plugins. Default /opt/cni/bin.
	BinDirs []string
	// Name is the network to use; empty is that of the first good file.
	Name string
	// Template is a file that SetSubnets writes ConfDir/10-berth.conflist from; empty is none.
	Template string
	// Timeout is how long one call of a plugin may take. Default one minute.
	Timeout time.Duration
	// Logger defaults to slog.Default().
	Logger *slog.Logger
}

// Defaults of Config, where the field looks.
const (
	DefaultConfDir = "/etc/cni/net.d"
	DefaultBinDir  = "/opt/cni/bin"
	DefaultTimeout = time.Minute
)

func (c Config) withDefaults() (Config, error) {
	if c.RunDir == "" || c.StateDir == "" {
		return c, errors.New("no run directory or no state directory is configured")
	}
	if c.ConfDir == "" {
		c.ConfDir = DefaultConfDir
	}
	if len(c.BinDirs) == 0 {
		c.BinDirs = []string{DefaultBinDir}
	}
	for _, dir := range append([]string{c.RunDir, c.StateDir, c.ConfDir}, c.BinDirs...) {
		if !filepath.IsAbs(dir) {
			return c, fmt.Errorf("%q is no absolute path", dir)
		}
	}
	if c.Timeout == 0 {
		c.Timeout = DefaultTimeout
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c, nil
}
