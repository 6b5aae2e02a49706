package config

import (
	"net/netip"
	"time"
)

// Config is all that can be configured. The comments below are the documentation that users get: they
// are copied to default.toml (go test ./internal/config -update). The tag reload marks what a running
// daemon takes over on SIGHUP; everything else needs a restart.
type Config struct {
	// Folder for what outlives a boot: images, snapshots, pods, logs. An absolute path.
	Root string `toml:"root"`
	// Folder for what dies with a boot: sockets, shims, journal, pinned namespaces. An absolute path of at
	// most 73 bytes. What the node is called on the machine follows from it.
	Run string `toml:"run"`
	// Name of the node that pods of "berth node" are told. Empty is the host's name.
	NodeName string `toml:"node_name"`

	Log       Log       `toml:"log"`
	CRI       CRI       `toml:"cri"`
	Streaming Streaming `toml:"streaming"`
	Shims     Shims     `toml:"shims"`
	// RuntimeClass handlers, a table for each, called as the RuntimeClass's handler is. Pods without a
	// handler are kept by Berth's own shim.
	Handlers map[string]Handler `toml:"handlers" reload:"yes"`
	Network  Network            `toml:"network"`
	Images   Images             `toml:"images"`
	Cgroup   Cgroup             `toml:"cgroup"`
	NRI      NRI                `toml:"nri"`
	Metrics  Metrics            `toml:"metrics"`
	// What makes checkpoints of containers.
	Checkpoint Checkpoint `toml:"checkpoint"`
	Tracing    Tracing    `toml:"tracing"`
}

// Checkpoint is what makes checkpoints of containers.
type Checkpoint struct {
	// CRIU, version 4 or newer: an absolute path. Empty looks for criu in PATH when one is asked for.
	CRIU string `toml:"criu"`
}

// Log is what the daemon says on standard error.
type Log struct {
	// The least important messages that are said: "debug", "info", "warn" or "error".
	Level string `toml:"level" reload:"yes"`
	// "text" for people, "json" for machines: one object a line.
	Format string `toml:"format"`
}

// CRI is the Container Runtime Interface.
type CRI struct {
	// Unix socket that a kubelet's --container-runtime-endpoint points to. Empty is cri.sock in the run
	// folder. Its folder is made if it is missing, and must not be writable by others.
	Socket string `toml:"socket"`
	// Folders with descriptions of CDI devices; where two describe the same one, the last counts.
	CDIDirs []string `toml:"cdi_dirs"`
}

// Streaming is where exec, attach and port-forward are served.
type Streaming struct {
	// Address to listen on. Port 0 lets the kernel choose. Whoever reaches it and knows a URL, which is
	// good for one use, gets the stream: keep it on loopback unless the kubelet is elsewhere.
	Address string `toml:"address"`
	// Host, or host:port, that URLs name if it is not the address itself.
	Advertise string `toml:"advertise"`
	// Serve https instead of http. Without the two files below, with a certificate made at each start.
	TLS bool `toml:"tls"`
	// Certificate and key for https, PEM. They are read again when they change.
	CertFile string `toml:"cert_file"`
	KeyFile  string `toml:"key_file"`
	// Authorities, PEM: only clients with a certificate of theirs are let in.
	ClientCAFile string `toml:"client_ca_file"`
	// A connection on which nothing has moved for so long is ended.
	IdleTimeout Duration `toml:"idle_timeout"`
}

// Shims is how Berth's own shims keep pods.
type Shims struct {
	// Pods that one shim process keeps at most. 1 is the strictest: each pod has a process of its own.
	// Pods of two namespaces never share one.
	GroupSize int `toml:"group_size"`
	// Shims rotate the log of a container by themselves before it grows larger than so many MiB. 0 leaves that to who
	// asks for it: a kubelet does, by ReopenContainerLog. Pods that run keep what held when their shim was started.
	LogMaxMiB int `toml:"log_max_mib"`
	// Files that a log has then at most, with the one that is written: what is older is removed.
	LogMaxFiles int `toml:"log_max_files"`
	// Keep a shim ready that has no pod yet, for the next one that no other shim may keep. It takes some 2 MiB.
	Spare bool `toml:"spare"`
}

// Handler is a row of the RuntimeClass handlers.
type Handler struct {
	// The shim's binary: an absolute path, or a name in the folder of berth's own binary or in PATH.
	Shim string `toml:"shim"`
	// The shim's own options, as containerd's configuration has them: of a containerd-shim-runc-… BinaryName,
	// Root, SystemdCgroup (its pods' cgroups must then be slices), NoPivotRoot, NoNewKeyring, ShimCgroup, IoUid,
	// IoGid; of others TypeUrl and ConfigPath, or else the table itself, which they get as TOML.
	Options map[string]any `toml:"options"`
	// Annotations of pods that are passed on in the OCI specs of their sandboxes and containers, and those of
	// containers, in the specs of these. Names, in which * stands for a part without a slash
	// ("dev.gvisor.*").
	PodAnnotations       []string `toml:"pod_annotations"`
	ContainerAnnotations []string `toml:"container_annotations"`
}

// Network is what gives pods their addresses.
type Network struct {
	// "bridge" is Berth's own, "cni" that of CNI plugins. It can be changed while there are no pods.
	Driver string `toml:"driver"`
	// The pods' address ranges, at most one of each family, as "10.88.0.0/16". Empty lets Berth choose one
	// that the host has no route for.
	Subnets []netip.Prefix `toml:"subnets"`
	// Name of the bridge, 15 bytes at most. Empty follows from the run folder: berth0 for /run/berth.
	Bridge string `toml:"bridge"`
	// Name of the nftables table. Empty follows from the run folder: berth for /run/berth.
	NftTable string `toml:"nft_table"`
	// Largest packet of the bridge and the pods' links in bytes. 0 is the default route's, at most 1500.
	MTU int `toml:"mtu"`
	// Network namespaces, each with a link to the bridge, that are made ahead while no pod is being started. They
	// take a millisecond or two from the next pods' starts. 0 makes none.
	Spares int `toml:"spares"`

	CNI CNI `toml:"cni"`
}

// CNI is the network of CNI plugins, for driver = "cni".
type CNI struct {
	// Folder with network configurations; the first good file counts. It is read at every use.
	ConfDir string `toml:"conf_dir"`
	// Folders with the plugins' programs.
	BinDirs []string `toml:"bin_dirs"`
	// Name of the network to use, where the folder has several. Empty is that of the first file.
	Network string `toml:"network"`
	// Template that 10-berth.conflist in conf_dir is written from when a kubelet tells the node's pod CIDR:
	// {{.PodCIDR}}, {{.PodCIDRRanges}}, {{.Routes}}. Empty leaves the folder alone.
	Template string `toml:"template"`
	// How long one call of a plugin may take.
	Timeout Duration `toml:"timeout"`
}

// Images is the image store.
type Images struct {
	// The namespace that "berth image" works in, as containerd has them. Pods, the CRI and kubelets are in "k8s.io"
	// whatever this says. (docs/images.md)
	Namespace string `toml:"namespace"`
	// Registries ("host" or "host:port") that may be spoken to without TLS. Loopback addresses always may.
	PlainHTTP []string `toml:"plain_http" reload:"yes"`
	// Folders like containerd's certs.d: NAME/hosts.toml in them says which mirrors, certificates and headers
	// the registry NAME ("host", "host_port_", or "_default" for all others) is asked with. The first folder
	// that knows a registry counts. The files are read at each pull. (docs/images.md)
	RegistryDirs []string `toml:"registry_dirs" reload:"yes"`
	// Which images may be used: a file in the form of containers-policy.json, as /etc/berth/policy.json, with
	// insecureAcceptAnything, reject and sigstoreSigned (cosign's public keys) for each repository. It is read at
	// each pull and each start of a container. Empty allows all. (docs/images.md)
	Policy string `toml:"policy" reload:"yes"`
	// Layers that are fetched at once, over all pulls.
	Downloads int `toml:"downloads"`
	// Layers that are unpacked at once, over all pulls. 0 is the number of processors, at least 2.
	Unpacks int `toml:"unpacks"`
	// Writable layers in which no container has written that are kept for the next containers, at most. 0 keeps none.
	Blanks int `toml:"blanks"`
	// What a container may write into its root filesystem at most: MiB of the disk, and files and folders. 0 is no limit.
	// It takes a filesystem with project quota, ext4 with prjquota or XFS with pquota; without one the daemon does not
	// start. It holds for containers that are made from then on. (docs/images.md)
	WritableLimitMiB    int `toml:"writable_limit_mib"`
	WritableLimitInodes int `toml:"writable_limit_inodes"`
	// How long the whole layers of a pull that broke off stay for its repetition. "0s" keeps none.
	KeepForRetry Duration `toml:"keep_for_retry" reload:"yes"`
	// Images that neither a kubelet nor "berth image prune" may collect: full names, in which * stands for a
	// part without a slash ("registry.k8s.io/pause:*"). "berth image pin" pins single ones.
	Pinned []string `toml:"pinned"`
	// The kubelet of "berth node" removes images that no container uses when their filesystem is this full,
	// in per cent, and begins with those that were used longest ago. 100 removes none. (KubeletConfiguration's
	// imageGCHighThresholdPercent; a stock kubelet has its own.)
	GCHighPercent int `toml:"gc_high_percent"`
	// It stops when no more than this should be used.
	GCLowPercent int `toml:"gc_low_percent"`
	// Younger images stay, and those that were used more lately.
	GCMinAge Duration `toml:"gc_min_age"`
	// Images that nobody has used for so long go, however much room there is. "0s" removes none.
	GCMaxAge Duration `toml:"gc_max_age"`
}

// Cgroup is where limits are.
type Cgroup struct {
	// Who makes cgroups: "cgroupfs" is Berth itself, "systemd" makes pods' as slices and containers' as scopes, and
	// "auto" is systemd where that runs the machine. A kubelet asks for it, and must use the same.
	Driver string `toml:"driver"`
	// Cgroup above all pods that bring no parent of their own. Empty follows from the run folder: /berth
	// for /run/berth. With systemd it is a slice: berth.slice.
	Parent string `toml:"parent"`
	// Files with classes of block I/O, and of Intel RDT, that annotations of pods and containers name
	// (blockio.resources.beta.kubernetes.io/pod, rdt.resources.beta.kubernetes.io/pod and so on). The format is that
	// of goresctrl, as for containerd and CRI-O. Empty knows no class. (docs/operating.md)
	BlockIOConfigFile string `toml:"blockio_config_file"`
	RDTConfigFile     string `toml:"rdt_config_file"`
}

// NRI is the Node Resource Interface: plugins that observe and adjust containers.
type NRI struct {
	// Unix socket that plugins connect to; they look at /var/run/nri/nri.sock. Empty lets none connect.
	Socket string `toml:"socket"`
	// Folder of plugins that are started with the daemon, as /opt/nri/plugins. Empty starts none.
	Plugins string `toml:"plugins"`
	// Folder of the configurations of those plugins, as /etc/nri/conf.d.
	PluginConfig string `toml:"plugin_config"`
}

// Metrics is where Prometheus finds numbers.
type Metrics struct {
	// Address that serves /metrics and /healthz over HTTP, as "127.0.0.1:9745". Whoever reaches it may
	// read. Empty serves them on node.sock in the run folder alone.
	Address string `toml:"address"`
}

// Tracing is where the steps of each pod's start are sent to.
type Tracing struct {
	// OpenTelemetry collector that takes OTLP over HTTP, as "http://127.0.0.1:4318". Empty sends nothing.
	Endpoint string `toml:"endpoint"`
	// Share of the calls that are traced, from 0 to 1. A caller that brings a trace decides for itself.
	SampleRatio float64 `toml:"sample_ratio"`
}

// Default is what holds where nothing is configured.
func Default() Config {
	return Config{
		Root: "/var/lib/berth", Run: "/run/berth",
		Log:       Log{Level: "info", Format: "text"},
		CRI:       CRI{CDIDirs: []string{"/etc/cdi", "/var/run/cdi"}},
		Streaming: Streaming{Address: "127.0.0.1:0", IdleTimeout: Duration{4 * time.Hour}},
		Shims:     Shims{GroupSize: 72, LogMaxFiles: 5, Spare: true},
		Handlers:  map[string]Handler{},
		Network: Network{Driver: "bridge", Spares: 4, CNI: CNI{
			ConfDir: "/etc/cni/net.d", BinDirs: []string{"/opt/cni/bin"}, Timeout: Duration{time.Minute},
		}},
		Images: Images{Namespace: "k8s.io", Pinned: []string{}, RegistryDirs: []string{"/etc/berth/certs.d", "/etc/containerd/certs.d", "/etc/docker/certs.d"}, Downloads: 6, Blanks: 64, KeepForRetry: Duration{10 * time.Minute},
			GCHighPercent: 85, GCLowPercent: 80, GCMinAge: Duration{2 * time.Minute}},
		Cgroup:  Cgroup{Driver: "cgroupfs"},
		Tracing: Tracing{SampleRatio: 1},
	}
}
