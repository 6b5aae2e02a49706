package network

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/11f9778f/berth/internal/network/dnsconf"
)

// CheckFiles looks at the resolv.conf and the hosts file of a pod with the addresses ips, for what keeps its
// programs from finding others by name, and it itself by its own.
func CheckFiles(resolvConf, hosts string, ips []netip.Addr) []Problem {
	const remedy = "put a server that pods can reach into the node's /etc/resolv.conf, or into the pod's dnsConfig, and start the pod anew"
	var out []Problem
	servers := dnsconf.Servers(resolvConf)
	switch {
	case len(servers) == 0:
		out = append(out, Problem{What: "the pod's resolv.conf names no name server", Remedy: remedy})
	case dnsconf.OnlyLoopback(servers):
		out = append(out, Problem{What: fmt.Sprintf("the pod's resolv.conf names %s alone, which is the pod's own loopback", strings.Join(servers, ", ")), Remedy: remedy})
	}
	for _, s := range servers {
		if _, err := netip.ParseAddr(s); err != nil {
			out = append(out, Problem{What: fmt.Sprintf("the pod's resolv.conf names the server %q, which is no address", s), Remedy: remedy})
		}
	}
	for _, ip := range ips {
		if !slices.Contains(strings.Fields(hosts), ip.String()) {
			out = append(out, Problem{What: fmt.Sprintf("the pod's hosts file lacks its own address %s", ip), Remedy: anew})
		}
	}
	return out
}
