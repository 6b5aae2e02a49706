package node

import (
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	"github.com/11f9778f/berth/internal/cri/streaming"
	"github.com/11f9778f/berth/internal/image"
	"github.com/11f9778f/berth/internal/kubelet/imagegc"
	"github.com/11f9778f/berth/internal/runtime"
	"github.com/11f9778f/berth/internal/shim/client"
)

// DefaultRun is the run directory of the machine's one node, whose things are simply called berth.
const DefaultRun = "/run/berth"

// Config is what a node is made of. Root and Run are required, absolute paths; the zero value of
// everything else is good.
type Config struct {
	// Root holds what outlives a boot: images, snapshots, pods, logs.
	Root string
	// Run holds what dies with a boot: sockets, shims, journal, pinned namespaces.
	Run string
	// CRIOnly leaves Berth's own kubelet out: the node serves the CRI to somebody else's.
	CRIOnly bool
	// CRISocket is where the CRI is served, an absolute path; empty is cri.sock in the run directory.
	CRISocket string
	// Ready is called once both sockets answer; nil is nobody.
	Ready func()
	// Names are what the node is called on the machine. Empty ones follow from Run.
	Names Names
	// Subnets are the pods' address ranges; none lets the network choose a free one.
	Subnets []netip.Prefix
	// MTU of the bridge and the pods' links; 0 is the network's default.
	MTU int
	// Spares are the network namespaces that are made ahead; a node that ends when it is idle makes none.
	Spares int
	// CNI is the network of plugins, in the place of the bridge.
	CNI CNI
	// SystemdCgroup has systemd make the pods' cgroups, as slices, and the containers', as scopes.
	SystemdCgroup bool
	// GroupSize bounds the pods that one shim keeps; 0 is the shim client's default.
	GroupSize int
	// LogSize, in bytes, and LogFiles are the shims' own rotation of containers' logs; 0 is none.
	LogSize  int64
	LogFiles int
	// NoSpareShim lets no blank shim wait for the next pod.
	NoSpareShim bool
	// Blanks is how many writable layers that nobody wrote into are kept; 0 is the store's default, negative none.
	Blanks int
	// WritableLimit is the most that a container may write into its root filesystem.
	WritableLimit image.Limit
	// IdleExit ends the node when it had no pod and no call for so long; 0 never.
	IdleExit time.Duration
	// Downloads and Unpacks bound the layers that are fetched and unpacked at once; 0 is the store's default.
	Downloads, Unpacks int
	// Streaming says where exec, attach and port-forward are served; the zero value is loopback.
	Streaming streaming.Config
	// Monitor is a TCP address that serves /metrics and /healthz too; empty is none.
	Monitor string
	// Traces is an OTLP/HTTP collector that is sent the steps of calls, and TraceRatio the share of them;
	// empty is none.
	Traces     string
	TraceRatio float64
	Tunable
	// NodeName is what pods are told; empty is the machine's host name.
	NodeName string
	// Exe is the binary that the demo image is made from; empty is /proc/self/exe.
	Exe string
	// Pinned are patterns of the images that a kubelet is asked not to collect.
	Pinned []string
	// CRIU is the path of the program that writes checkpoints; empty looks in PATH.
	CRIU string
	// BlockIOConfig and RDTConfig are files with classes for containers; empty knows none.
	BlockIOConfig, RDTConfig string
	// ImageGC is when the node's own kubelet removes images that no container uses.
	ImageGC imagegc.Policy
	// CDIDirs are the folders with descriptions of CDI devices; none means the standard's.
	CDIDirs []string
	// NRI says where plugins come from; the zero value is none.
	NRI NRI
	// Log gets what an operator should read. Required.
	Log *slog.Logger
}

// NRI is where plugins of the Node Resource Interface connect, and folders of those that are started.
type NRI struct {
	Socket, Plugins, PluginConfig string
}

// Tunable is the part of Config that a running node can change: see Node.Tune.
type Tunable struct {
	image.Tunable
	// Handlers are the RuntimeClass handlers beside the node's own, by name.
	Handlers map[string]Handler
}

// Handler is a RuntimeClass handler: what the shims' manager and what the runtime must know of it.
type Handler struct {
	Shim client.Handler
	runtime.Handler
}

// shimHandlers and handlers are the two sides of the rows.
func (t Tunable) shimHandlers() map[string]client.Handler {
	rows := map[string]client.Handler{}
	for name, h := range t.Handlers {
		rows[name] = h.Shim
	}
	return rows
}

func (t Tunable) handlers() map[string]runtime.Handler {
	rows := map[string]runtime.Handler{}
	for name, h := range t.Handlers {
		rows[name] = h.Handler
	}
	return rows
}

// Names are the things of a node that the machine has only one name space for.
type Names struct {
	// Bridge is the network bridge, 15 bytes at most.
	Bridge string
	// Table is the nftables table.
	Table string
	// LinkPrefix begins the names of the host's ends of the pods' links, 5 bytes at most.
	LinkPrefix string
	// CgroupParent is the cgroup that all pods' cgroups are below, "/berth"; with Config.SystemdCgroup a slice's,
	// "/berth.slice".
	CgroupParent string
}

// NamesFor is what the node of a run directory is called.
func NamesFor(run string) Names {
	if run == DefaultRun {
		return Names{Bridge: "berth0", Table: "berth", LinkPrefix: "bth", CgroupParent: "/berth"}
	}
	sum := sha256.Sum256([]byte(run))
	id := hex.EncodeToString(sum[:4])
	return Names{Bridge: "berth-" + id, Table: "berth-" + id, LinkPrefix: "b" + id[:4], CgroupParent: "/berth-" + id}
}

// withDefaults fills what is empty.
func (c Config) withDefaults() Config {
	d := NamesFor(c.Run)
	if c.SystemdCgroup { // a dash would put it into another node's slice
		d.CgroupParent = strings.ReplaceAll(d.CgroupParent, "-", "_") + ".slice"
	}
	for _, n := range []struct{ have, want *string }{
		{&c.Names.Bridge, &d.Bridge}, {&c.Names.Table, &d.Table},
		{&c.Names.LinkPrefix, &d.LinkPrefix}, {&c.Names.CgroupParent, &d.CgroupParent},
	} {
		if *n.have == "" {
			*n.have = *n.want
		}
	}
	if c.Exe == "" {
		c.Exe = "/proc/self/exe"
	}
	if c.CRISocket == "" {
		c.CRISocket = filepath.Join(c.Run, "cri.sock")
	}
	if c.Ready == nil {
		c.Ready = func() {}
	}
	return c
}

// NodeSocket is where a node serves its own API.
func (c Config) NodeSocket() string { return filepath.Join(c.Run, "node.sock") }
