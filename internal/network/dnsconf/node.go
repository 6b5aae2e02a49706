package dnsconf

import (
	"net/netip"
	"os"
	"strings"
)

// Where a node has its resolver's configuration, and where systemd-resolved keeps the servers that are behind the
// 127.0.0.53 of the first (systemd-resolved.service(8)).
const (
	nodeFile = "/etc/resolv.conf"
	behind   = "/run/systemd/resolve/resolv.conf"
)

// NodeFile is the path of the resolv.conf that pods are to have: the node's, or where that leads to the node's own
// loopback, at which a pod finds nobody, systemd-resolved's.
func NodeFile() string { return choose(nodeFile, behind) }

func choose(file, instead string) string {
	b, err := os.ReadFile(file)
	if err != nil || !OnlyLoopback(Servers(string(b))) {
		return file
	}
	b, err = os.ReadFile(instead)
	if servers := Servers(string(b)); err != nil || len(servers) == 0 || OnlyLoopback(servers) {
		return file
	}
	return instead
}

// Servers are the name servers of a resolv.conf.
func Servers(resolvConf string) []string {
	var out []string
	for line := range strings.Lines(resolvConf) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "nameserver" {
			out = append(out, f[1])
		}
	}
	return out
}

// OnlyLoopback tells whether there are name servers, and all of them are of the host's own loopback.
func OnlyLoopback(servers []string) bool {
	for _, s := range servers {
		if ip, err := netip.ParseAddr(s); err != nil || !ip.IsLoopback() {
			return false
		}
	}
	return len(servers) > 0
}
