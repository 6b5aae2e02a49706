package network

import (
	"log/slog"
	"net"
	"net/netip"
)

// Config is what a Manager is made of. Only RunDir is required. Two managers can live on one host when
// RunDir, Bridge, Table and LinkPrefix differ.
type Config struct {
	// RunDir is the run directory; pins go to RunDir/netns, records to RunDir/network.
	RunDir string
	// Bridge is the name of the bridge, 15 characters at most. Default "berth0".
	Bridge string
	// Table is the name of the nftables table (family inet). Default "berth".
	Table string
	// LinkPrefix starts the names of the host's ends of the pods' links, 5 characters at most.
	// Default "bth".
	LinkPrefix string
	// Subnets are the pods' address ranges, at most one of each family; a pod gets an address of each.
	// Default: the first of 10.88.0.0/16 … 10.95.0.0/16 that no route of the host overlaps.
	Subnets []netip.Prefix
	// MTU of the bridge and the pods' links. Default 1500, or less where the default route's link has less.
	MTU int
	// HostNetNS is the path of the network namespace that plays the host. Default: the process's own.
	HostNetNS string
	// Live, when set, tells whether a sandbox is alive. Open then removes what is left of the others.
	Live func(id string) bool
	// Logger defaults to slog.Default().
	Logger *slog.Logger
}

// PortMapping publishes a port of a pod on the host.
type PortMapping struct {
	// Protocol is "tcp", "udp" or "sctp", in any case; empty means tcp.
	Protocol string
	// HostIP restricts the mapping to one address of the host. The zero value and the unspecified
	// addresses mean all of them.
	HostIP netip.Addr
	// HostPort is the port on the host. A mapping with HostPort 0 is ignored, as Kubernetes does.
	HostPort uint16
	// ContainerPort is the port in the pod.
	ContainerPort uint16
}

// Request asks for a sandbox to be attached.
type Request struct {
	// SandboxID is the owner of everything that Attach makes.
	SandboxID string
	// NetNS is the path of the sandbox's network namespace, as CreateNetNS returned it.
	NetNS string
	// PodNamespace, PodName and PodUID name the pod in messages and for networks that want to know.
	PodNamespace, PodName, PodUID string
	// PortMappings are the host ports of the pod.
	PortMappings []PortMapping
}

// Result is what a sandbox has got.
type Result struct {
	// Interface is the name of the interface inside the namespace.
	Interface string
	// HostInterface is the name of its other end on the host.
	HostInterface string
	MAC           net.HardwareAddr
	MTU           int
	// Addresses are the interface's addresses with their subnet's length; IPs are the same without it.
	// IPv4 comes first.
	Addresses []netip.Prefix
	IPs       []netip.Addr
	// Gateways are the next hops of the default routes, one for each of IPs, in the same order.
	Gateways []netip.Addr
}

// Kind says what an Item of the Inventory is.
type Kind string

// The kinds of an Item.
const (
	KindNetNS   Kind = "netns"   // a pinned network namespace
	KindLink    Kind = "link"    // the host's end of a pod's link
	KindAddress Kind = "address" // an address in the book
	KindPort    Kind = "port"    // a host port in the book or in the table
	KindBridge  Kind = "bridge"  // the bridge itself: no owner
	KindTable   Kind = "table"   // the nftables table itself: no owner
	KindRecord  Kind = "record"  // a damaged file of the book: no owner
)

// Item is one thing that exists on disk or in the kernel because of the network.
type Item struct {
	Kind  Kind
	Owner string // sandbox id; empty where the thing belongs to all, or where the owner is not known
	Name  string // path, link name, address, "tcp 0.0.0.0:80"
	// Note says what is wrong with the item, if anything: "in the table but not in the book".
	Note string
}
