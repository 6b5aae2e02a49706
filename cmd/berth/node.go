package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	systemd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"github.com/11f9778f/berth/internal/node"
)

// Environment variables that stand in for flags of `berth node`, so that they also reach a node that
// another verb starts.
const (
	envBridge   = "BERTH_BRIDGE"
	envSubnet   = "BERTH_SUBNET"
	envCgroup   = "BERTH_CGROUP_PARENT"
	envTable    = "BERTH_NFT_TABLE"
	envGroup    = "BERTH_GROUP_SIZE"
	envPlain    = "BERTH_PLAIN_HTTP"
	envNodeName = "BERTH_NODE_NAME"
	envLogLevel = "BERTH_LOG_LEVEL"
)

type nodeFlags struct {
	cfg             node.Config
	subnets, plain  []string
	level, jsonLogs string
	listen          string
}

func (c *cli) nodeCommand() *cobra.Command {
	var f nodeFlags
	cmd := &cobra.Command{
		Use:   "node",
		Short: "Run the daemon that keeps the pods",
		Long: `Run the daemon that keeps the pods, until SIGTERM or Ctrl-C. Pods run on without it, and the next one
takes them over. "berth run" starts one by itself where none is running.

It serves the node API on <run>/node.sock and the Container Runtime Interface v1 on <run>/cri.sock.
Two nodes can live side by side with different --root and --run; what they are called on the
machine follows from --run, if the flags below do not say it.`,
		Example: "  berth node\n  berth node --subnet 10.99.0.0/24 --log-level debug\n" +
			"  berth --root /tmp/a/root --run /tmp/a/run node --idle-exit 1m",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.daemon(cmd.Context(), &f) },
	}
	f.register(cmd)
	cmd.Flags().DurationVar(&f.cfg.IdleExit, "idle-exit", 0, "end after so long without a pod and a call; 0 is never")
	cmd.Flags().StringVar(&f.cfg.NodeName, "node-name", os.Getenv(envNodeName), "name that pods are told (default: the host's) ($"+envNodeName+")")
	return cmd
}

// daemon runs a node until SIGTERM or Ctrl-C.
func (c *cli) daemon(ctx context.Context, f *nodeFlags) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	cfg, err := f.config(c)
	if err != nil {
		return err
	}
	cfg.Ready = func() { c.tellSystemd(cfg.Log, systemd.SdNotifyReady) }
	defer context.AfterFunc(ctx, func() { c.tellSystemd(cfg.Log, systemd.SdNotifyStopping) })()
	return node.New(cfg, version).Run(ctx)
}

// tellSystemd tells the service manager, if one started this process.
func (c *cli) tellSystemd(log *slog.Logger, state string) {
	if _, err := systemd.SdNotify(false, state); err != nil {
		log.Warn("the service manager can't be told", "state", state, "error", err)
	}
}

// register adds the flags that all daemons have.
func (f *nodeFlags) register(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.cfg.Names.Bridge, "bridge", os.Getenv(envBridge), "name of the network bridge ($"+envBridge+")")
	fl.StringSliceVar(&f.subnets, "subnet", split(os.Getenv(envSubnet)), "pods' address ranges, one of each family (default: a free one) ($"+envSubnet+")")
	fl.StringVar(&f.cfg.Names.Table, "nft-table", os.Getenv(envTable), "name of the nftables table ($"+envTable+")")
	fl.StringVar(&f.cfg.Names.CgroupParent, "cgroup-parent", os.Getenv(envCgroup), "cgroup above all pods ($"+envCgroup+")")
	fl.IntVar(&f.cfg.GroupSize, "group-size", number(os.Getenv(envGroup)), "pods that one shim keeps at most; 0 is the built-in number ($"+envGroup+")")
	fl.StringSliceVar(&f.plain, "plain-http", split(os.Getenv(envPlain)), "registries to speak to without TLS ($"+envPlain+")")
	fl.StringVar(&f.listen, "listen", "", "unix socket to serve the CRI on (default: cri.sock in the run folder)")
	fl.StringVar(&f.level, "log-level", env(envLogLevel, "info"), "debug, info, warn or error ($"+envLogLevel+")")
	fl.StringVar(&f.jsonLogs, "log-format", "text", "text or json")
}

// config checks the flags.
func (f *nodeFlags) config(c *cli) (node.Config, error) {
	cfg := f.cfg
	cfg.Root, cfg.Run, cfg.PlainHTTP = c.root, c.run, f.plain
	if f.listen != "" {
		abs, err := filepath.Abs(strings.TrimPrefix(f.listen, "unix://"))
		if err != nil {
			return cfg, fmt.Errorf("find the socket %s: %w", f.listen, err)
		}
		cfg.CRISocket = abs
	}
	for _, s := range f.subnets {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return cfg, fail("write it like 10.99.0.0/24", "%q is no address range", s)
		}
		cfg.Subnets = append(cfg.Subnets, p.Masked())
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(f.level)); err != nil {
		return cfg, fail("use debug, info, warn or error", "there is no log level %q", f.level)
	}
	o := &slog.HandlerOptions{Level: level}
	switch f.jsonLogs {
	case "text":
		cfg.Log = slog.New(slog.NewTextHandler(c.err, o))
	case "json":
		cfg.Log = slog.New(slog.NewJSONHandler(c.err, o))
	default:
		return cfg, fail("use text or json", "there is no log format %q", f.jsonLogs)
	}
	return cfg, nil
}

func split(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' })
}

// number is s as a number, 0 where it is none.
func number(s string) int {
	var n int
	fmt.Sscanf(s, "%d", &n)
	return n
}
