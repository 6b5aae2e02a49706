package main

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/11f9778f/berth/internal/config"
	"github.com/11f9778f/berth/internal/cri/streaming"
	"github.com/11f9778f/berth/internal/image"
	"github.com/11f9778f/berth/internal/kubelet/imagegc"
	"github.com/11f9778f/berth/internal/node"
	"github.com/11f9778f/berth/internal/runtime"
	"github.com/11f9778f/berth/internal/shim/client"
)

// setting is a flag that stands for a key of the configuration. Its environment variable, if it has one,
// also reaches a node that another verb starts.
type setting struct {
	flag, env, key string
	usage          string
}

// folders are settings of every verb.
var folders = []setting{
	{"root", "BERTH_ROOT", "root", "folder for what outlives a boot: images, logs, pods"},
	{"run", "BERTH_RUN", "run", "folder for what dies with a boot: sockets, shims, journal"},
}

// daemonSettings are those of berth node and berth cri.
var daemonSettings = []setting{
	{"listen", "BERTH_CRI_SOCKET", "cri.socket", "unix socket to serve the CRI on"},
	{"bridge", "BERTH_BRIDGE", "network.bridge", "name of the network bridge"},
	{"subnet", "BERTH_SUBNET", "network.subnets", "pods' address ranges, one of each family"},
	{"nft-table", "BERTH_NFT_TABLE", "network.nft_table", "name of the nftables table"},
	{"cgroup-parent", "BERTH_CGROUP_PARENT", "cgroup.parent", "cgroup above all pods"},
	{"group-size", "BERTH_GROUP_SIZE", "shims.group_size", "pods that one shim keeps at most"},
	{"plain-http", "BERTH_PLAIN_HTTP", "images.plain_http", "registries to speak to without TLS"},
	{"node-name", "BERTH_NODE_NAME", "node_name", "name that pods are told"},
	{"log-level", "BERTH_LOG_LEVEL", "log.level", "debug, info, warn or error"},
	{"log-format", "BERTH_LOG_FORMAT", "log.format", "text or json"},
}

// imageSettings are those of the verbs on images.
var imageSettings = []setting{
	{"namespace", "BERTH_IMAGE_NAMESPACE", "images.namespace", "whose images: k8s.io is what pods use"},
}

func allSettings() []setting { return slices.Concat(folders, daemonSettings, imageSettings) }

const envConfig = "BERTH_CONFIG"

// text is the value of a flag that stands for a key: it is checked with the rest of the configuration.
type text struct{ value, kind string }

func (t *text) String() string { return t.value }
func (t *text) Type() string   { return t.kind }

// Set takes a value; a list grows by it.
func (t *text) Set(s string) error {
	if t.kind == "list" && t.value != "" {
		s = t.value + "," + s
	}
	t.value = s
	return nil
}

// register adds the settings' flags.
func register(fl *pflag.FlagSet, settings []setting) {
	for _, s := range settings {
		kind := "string"
		if s.flag == "subnet" || s.flag == "plain-http" {
			kind = "list"
		}
		short := ""
		if s.flag == "namespace" {
			short = "n"
		}
		fl.VarP(&text{kind: kind}, s.flag, short, fmt.Sprintf("%s (%s in the configuration, $%s)", s.usage, s.key, s.env))
	}
}

// load reads the configuration and lays the environment and the flags of cmd over it.
func (c *cli) load(cmd *cobra.Command, settings []setting) (*config.Loaded, error) {
	path := c.configFile
	if path == "" {
		path = os.Getenv(envConfig)
	}
	required := path != ""
	if !required {
		path = config.DefaultPath
	}
	l, err := config.Load(path, required)
	if err != nil {
		return nil, err
	}
	for _, s := range settings {
		value, origin := os.Getenv(s.env), "$"+s.env
		if f := cmd.Flag(s.flag); f != nil && f.Changed {
			value, origin = f.Value.String(), "--"+s.flag
		} else if value == "" {
			continue
		}
		if s.key == "root" || s.key == "run" || s.key == "cri.socket" {
			abs, err := filepath.Abs(strings.TrimPrefix(value, "unix://"))
			if err != nil {
				return nil, fmt.Errorf("find %s %s: %w", origin, value, err)
			}
			value = abs
		}
		if err := l.Set(s.key, value, origin); err != nil {
			return nil, err
		}
	}
	_, err = handlers(l)
	if bad := image.CheckNamespace(l.Images.Namespace); bad != nil {
		err = errors.Join(err, l.Mistake("images.namespace", bad.Error()))
	}
	_, _, cgroupsErr := cgroups(l)
	return l, errors.Join(l.Check(), err, cgroupsErr)
}

// handlers are the rows of RuntimeClass handlers with the options that their shims understand.
func handlers(l *config.Loaded) (map[string]node.Handler, error) {
	rows := map[string]node.Handler{}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(l.Handlers)) {
		h, own := l.Handlers[name], false
		if own = filepath.Base(h.Shim) == client.DefaultBinary; own && len(h.Options) > 0 {
			errs = append(errs, l.Mistake("handlers."+name+".options", "Berth's own shim has none"))
		}
		if driven, _, _ := cgroups(l); driven {
			h.Options = client.WithSystemdCgroup(h.Shim, h.Options)
		}
		options, err := client.NewOptions(h.Shim, h.Options)
		var bad *client.BadOption
		switch {
		case errors.As(err, &bad):
			errs = append(errs, l.Mistake("handlers."+name+".options."+bad.Key, bad.Problem))
		case err != nil:
			errs = append(errs, l.Mistake("handlers."+name+".options", err.Error()))
		}
		systemd, _ := h.Options["SystemdCgroup"].(bool)
		rows[name] = node.Handler{
			Shim: client.Handler{Binary: h.Shim, Foreign: !own, Options: options},
			Handler: runtime.Handler{
				Foreign: !own, SystemdCgroup: systemd, PodAnnotations: h.PodAnnotations, ContainerAnnotations: h.ContainerAnnotations,
			},
		}
	}
	return rows, errors.Join(errs...)
}

// imageGCPeriod is how often the kubelet looks at the disk of the images, as upstream's does.
const imageGCPeriod = 5 * time.Minute

// nodeConfig is what the configuration means for a node.
func nodeConfig(l *config.Loaded, log *slog.Logger) node.Config {
	driven, parent, _ := cgroups(l)
	cfg := node.Config{
		Root: l.Root, Run: l.Run, NodeName: l.NodeName, CRISocket: l.CRI.Socket,
		Names: node.Names{Bridge: l.Network.Bridge, Table: l.Network.NftTable, CgroupParent: parent}, SystemdCgroup: driven,
		Subnets: l.Network.Subnets, MTU: l.Network.MTU, Spares: l.Network.Spares,
		CNI: node.CNI{
			Enabled: l.Network.Driver == "cni", ConfDir: l.Network.CNI.ConfDir, BinDirs: l.Network.CNI.BinDirs,
			Network: l.Network.CNI.Network, Template: l.Network.CNI.Template, Timeout: l.Network.CNI.Timeout.Duration,
		},
		GroupSize: l.Shims.GroupSize, LogSize: int64(l.Shims.LogMaxMiB) << 20, LogFiles: l.Shims.LogMaxFiles, NoSpareShim: !l.Shims.Spare,
		Blanks: l.Images.Blanks, Downloads: l.Images.Downloads, Unpacks: l.Images.Unpacks,
		WritableLimit: image.Limit{Bytes: int64(l.Images.WritableLimitMiB) << 20, Inodes: int64(l.Images.WritableLimitInodes)},
		ImageGC: imagegc.Policy{
			HighPercent: l.Images.GCHighPercent, LowPercent: l.Images.GCLowPercent, MinAge: l.Images.GCMinAge.Duration,
			MaxAge: l.Images.GCMaxAge.Duration, Period: imageGCPeriod,
		},
		Pinned: l.Images.Pinned, CDIDirs: l.CRI.CDIDirs, CRIU: l.Checkpoint.CRIU,
		BlockIOConfig: l.Cgroup.BlockIOConfigFile, RDTConfig: l.Cgroup.RDTConfigFile,
		NRI: node.NRI{Socket: l.NRI.Socket, Plugins: l.NRI.Plugins, PluginConfig: l.NRI.PluginConfig},
		Streaming: streaming.Config{
			Address: l.Streaming.Address, Advertise: l.Streaming.Advertise, IdleTimeout: l.Streaming.IdleTimeout.Duration,
		},
		Monitor: l.Metrics.Address, Traces: l.Tracing.Endpoint, TraceRatio: l.Tracing.SampleRatio,
		Tunable: tunable(l),
		Log:     log,
	}
	if cfg.Blanks == 0 {
		cfg.Blanks = -1
	}
	if s := l.Streaming; s.TLS {
		cfg.Streaming.TLS = &streaming.TLS{CertFile: s.CertFile, KeyFile: s.KeyFile, ClientCAFile: s.ClientCAFile}
	}
	return cfg
}

func tunable(l *config.Loaded) node.Tunable {
	rows, _ := handlers(l) // mistakes were told by load
	return node.Tunable{Handlers: rows, Tunable: image.Tunable{
		PlainHTTP: l.Images.PlainHTTP, RegistryDirs: l.Images.RegistryDirs, Policy: l.Images.Policy, KeepForRetry: l.Images.KeepForRetry.Duration,
	}}
}
