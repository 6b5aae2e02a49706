package cni

import (
	"context"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
)

// delPlugin calls one plugin of a list with DEL, with the configuration that the specification's section 4,
// "Deriving plugin configuration", says.
func delPlugin(ctx context.Context, dirs []string, run *runner, list *libcni.NetworkConfigList, p *libcni.PluginConfig, result types.Result, rt *libcni.RuntimeConf) error {
	path, err := run.FindInPath(p.Network.Type, dirs)
	if err != nil {
		return err
	}
	values := map[string]any{"name": list.Name, "cniVersion": list.CNIVersion}
	// DEL has had the result since version 0.4.0.
	if modern, err := version.GreaterThanOrEqualTo(list.CNIVersion, "0.4.0"); err == nil && modern && result != nil {
		values["prevResult"] = result
	}
	own := map[string]any{}
	for capability, has := range p.Network.Capabilities {
		if arg, ok := rt.CapabilityArgs[capability]; ok && has {
			own[capability] = arg
		}
	}
	if len(own) > 0 {
		values["runtimeConfig"] = own
	}
	conf, err := libcni.InjectConf(p, values)
	if err != nil {
		return err
	}
	return invoke.ExecPluginWithoutResult(ctx, path, conf.Bytes, &invoke.Args{
		Command: "DEL", ContainerID: rt.ContainerID, NetNS: rt.NetNS, PluginArgs: rt.Args, IfName: rt.IfName,
		Path: strings.Join(dirs, string(filepath.ListSeparator)),
	}, run)
}
