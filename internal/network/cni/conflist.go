package cni

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/utils"
	"github.com/containernetworking/cni/pkg/version"
)

// maxConf bounds a file of the configuration folder in bytes, maxPlugins the plugins of a network.
const (
	maxConf    = 1 << 20
	maxPlugins = 64
)

// ErrNoNetwork says that the folder has no configuration that could be used.
var ErrNoNetwork = errors.New("no CNI network is configured")

// load returns the network that counts now: the first good file in the order of names, or the first of them
// that has the configured name. skipped tells of the files before it that are not good.
func (c Config) load() (list *libcni.NetworkConfigList, skipped []error, err error) {
	files, err := libcni.ConfFiles(c.ConfDir, []string{".conf", ".conflist", ".json"}) // sorted
	if err != nil {
		return nil, nil, fmt.Errorf("%w: read %s: %w", ErrNoNetwork, c.ConfDir, err)
	}
	for _, file := range files {
		list, err := loadFile(file)
		if err != nil {
			skipped = append(skipped, fmt.Errorf("%s: %w", file, err))
			continue
		}
		if c.Name == "" || list.Name == c.Name {
			return list, skipped, nil
		}
	}
	switch {
	case len(skipped) > 0:
		return nil, skipped, fmt.Errorf("%w: %w", ErrNoNetwork, errors.Join(skipped...))
	case c.Name != "":
		return nil, nil, fmt.Errorf("%w: %s has none called %q", ErrNoNetwork, c.ConfDir, c.Name)
	}
	return nil, nil, fmt.Errorf("%w: put a .conflist into %s", ErrNoNetwork, c.ConfDir)
}

// loadFile reads a list of plugins, or the one plugin of a file of the old kind.
func loadFile(path string) (*libcni.NetworkConfigList, error) {
	b, err := readFile(path, maxConf)
	if err != nil {
		return nil, err
	}
	list, err := parseList(b, filepath.Ext(path) == ".conflist")
	if err != nil {
		return nil, err
	}
	if !list.LoadOnlyInlinedPlugins && filepath.Ext(path) == ".conflist" {
		more, err := pluginFiles(filepath.Join(filepath.Dir(path), list.Name))
		if err != nil {
			return nil, err
		}
		list.Plugins = append(list.Plugins, more...)
	}
	return list, checkList(list)
}

// pluginFiles reads the plugins that a network has in a folder of its name, one a file.
func pluginFiles(dir string) ([]*libcni.PluginConfig, error) {
	files, err := libcni.ConfFiles(dir, []string{".conf"})
	if err != nil {
		return nil, err
	}
	var out []*libcni.PluginConfig
	for _, f := range files {
		b, err := readFile(f, maxConf)
		if err != nil {
			return nil, err
		}
		p, err := libcni.NetworkPluginConfFromBytes(b)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f, err)
		}
		out = append(out, p)
	}
	return out, nil
}

// parseList reads the bytes of a file.
func parseList(b []byte, isList bool) (list *libcni.NetworkConfigList, err error) {
	if isList {
		list, err = libcni.NetworkConfFromBytes(b)
	} else {
		var p *libcni.PluginConfig
		if p, err = libcni.NetworkPluginConfFromBytes(b); err == nil {
			list = &libcni.NetworkConfigList{Name: p.Network.Name, CNIVersion: p.Network.CNIVersion, Plugins: []*libcni.PluginConfig{p}, Bytes: b}
		}
	}
	if err != nil {
		return nil, err
	}
	// The name becomes part of paths: of this folder's, and of plugins' own.
	if err := utils.ValidateNetworkName(list.Name); err != nil {
		return nil, fmt.Errorf("name: %w", err)
	}
	return list, nil
}

// checkList tells what plugins would choke on.
func checkList(list *libcni.NetworkConfigList) error {
	if n := len(list.Plugins); n == 0 || n > maxPlugins {
		return fmt.Errorf("plugins: there are %d, want 1 to %d", n, maxPlugins)
	}
	if list.CNIVersion != "" {
		if newer, err := version.GreaterThan(list.CNIVersion, version.Current()); err != nil || newer {
			return fmt.Errorf("cniVersion: %q is none of those up to %s", list.CNIVersion, version.Current())
		}
	}
	for i, p := range list.Plugins {
		if t := p.Network.Type; t == "" || strings.ContainsRune(t, filepath.Separator) {
			return fmt.Errorf("plugins[%d].type: %q is not the name of a program", i, t)
		}
	}
	return nil
}

// readFile reads a regular file of limited size.
func readFile(path string, limit int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("it is not a regular file")
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("it is longer than %d bytes", limit)
	}
	return b, err
}
