package network

import (
	"context"
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
	// Spares is how many namespaces with a link to the bridge are made ahead, while no pod is being started and
	// once there was a first one. 0 makes none.
	Spares int
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
	// Bandwidth limits the pod; the zero value does not.
	Bandwidth Bandwidth
	// IPs are the addresses that the pod wants, at most one of each family. Empty lets the network choose.
	IPs []netip.Addr
	// DNS is the pod's resolver configuration, for networks that want to know. Nil is the host's.
	DNS *DNS
}

// pod names the pod to people: "default/web".
func (r Request) pod() string {
	if r.PodName == "" {
		return ""
	}
	return r.PodNamespace + "/" + r.PodName
}

// Bandwidth is what a pod may receive and send, in bits a second; 0 is no limit.
type Bandwidth struct {
	Ingress uint64 `json:"ingress,omitempty"` // to the pod
	Egress  uint64 `json:"egress,omitempty"`  // from the pod
}

// DNS is the content of a resolv.conf.
type DNS struct{ Servers, Searches, Options []string }

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

// Attachment is what a sandbox has of the network, as it is written down.
type Attachment struct {
	SandboxID string `json:"sandbox"`
	// Network is the name of the bridge, or of the CNI network.
	Network string `json:"network"`
	// State is "attached", or "attaching" and "detaching" for what was not finished.
	State string `json:"state"`
	NetNS string `json:"netns"`
	// Interface is the link in the namespace, HostInterface its other end, where that is known.
	Interface     string         `json:"interface"`
	HostInterface string         `json:"hostInterface,omitempty"`
	Addresses     []netip.Prefix `json:"addresses"`
	Ports         []string       `json:"ports,omitempty"` // "tcp 127.0.0.1:8080 → 80"
	Bandwidth     Bandwidth      `json:"bandwidth,omitzero"`
}

// Problem is something that Check found wrong.
type Problem struct {
	// What is wrong, in a sentence, and what to do about it.
	What   string `json:"what"`
	Remedy string `json:"remedy,omitempty"`
}

// Network gives sandboxes their network. A Manager is one, and so is cni.Network. Methods are idempotent and
// may be called from several goroutines.
type Network interface {
	// CreateNetNS makes and pins a network namespace with lo up and the net.* sysctls set; AdoptNetNS pins the
	// one at the path from; RemoveNetNS removes a pin.
	CreateNetNS(ctx context.Context, id string, sysctls map[string]string) (path string, err error)
	AdoptNetNS(ctx context.Context, id, from string) (path string, err error)
	RemoveNetNS(ctx context.Context, id string) error
	Attach(ctx context.Context, r Request) (*Result, error)
	// Detach takes back what Attach gave. An error means that something is left, and Detach is to be called again.
	Detach(ctx context.Context, id string) error
	// Inventory lists what there is on disk and in the kernel. Repair removes what belongs to nobody who is alive.
	Inventory(ctx context.Context) ([]Item, error)
	Repair(ctx context.Context, live func(id string) bool) ([]Item, error)
	// SetSubnets changes where new pods get their addresses from.
	SetSubnets(ctx context.Context, subnets []netip.Prefix) error
	// Ready returns why no pod could be attached now, if that is so.
	Ready(ctx context.Context) error
	// List tells what each sandbox has, from memory or disk; Check looks whether a sandbox's is as it should be.
	List(ctx context.Context) ([]Attachment, error)
	Check(ctx context.Context, id string) ([]Problem, error)
	// Usage tells what went through the interfaces of sandboxes, as far as that can be told of all at once; nil where it can't.
	Usage(ctx context.Context) (map[string]Usage, error)
	Close() error
}

// Usage counts what went through a sandbox's interface since it was made, as the sandbox sees it.
type Usage struct {
	Interface                               string
	RxPackets, RxBytes, RxErrors, RxDropped uint64
	TxPackets, TxBytes, TxErrors, TxDropped uint64
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
	KindRecord  Kind = "record"  // a damaged record; the book does not know whose
	KindCNI     Kind = "cni"     // a sandbox's attachment to a CNI network
)

// Item is one thing that exists on disk or in the kernel because of the network.
type Item struct {
	Kind  Kind
	Owner string // sandbox id; empty where the thing belongs to all, or where the owner is not known
	Name  string // path, link name, address, "tcp 0.0.0.0:80"
	// Note says what is wrong with the item, if anything: "in the table but not in the book".
	Note string
}
