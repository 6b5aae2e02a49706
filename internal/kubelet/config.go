package kubelet

import (
	"log/slog"
	"time"

	"github.com/11f9778f/berth/internal/kubelet/imagegc"
)

// Config is what a Kubelet needs. Root and Runtime and Images are required; zero values of the others mean
// the defaults that are named.
type Config struct {
	// Root is the directory of state that outlives a boot. The kubelet keeps <Root>/kubelet and
	// <Root>/logs/pods.
	Root string
	// Socket is the unix socket of the node API, such as /run/berth/node.sock. Empty: none is served;
	// Handler still can be.
	Socket string
	// NodeName is what spec.nodeName tells a container. Default: the host's name.
	NodeName string
	// HostIP is what status.hostIP tells. Default: the address that the default route uses.
	HostIP string
	// CgroupParent is the directory that pod cgroups are made below. Default "/berth".
	CgroupParent string
	// ResolvConf is what dnsPolicy Default reads. Default /etc/resolv.conf.
	ResolvConf string
	// HostsFile is what a host-network pod's /etc/hosts begins with. Default /etc/hosts.
	HostsFile string

	Runtime Runtime
	Images  Images

	// BackOffInitial, BackOffMax and BackOffReset are the crash-loop back-off. Defaults 10 s, 5 min, 10 min.
	BackOffInitial, BackOffMax, BackOffReset time.Duration

	// ImageGC is when images go that no container uses; the zero value collects none, as does an Images
	// that can't list and remove.
	ImageGC imagegc.Policy

	// EventRing is how many events are kept for readers that come late. Default 4096.
	EventRing int

	Logger *slog.Logger
}
