// Package dnsconf renders a pod's /etc/resolv.conf and /etc/hosts. Its functions are pure: they read no
// file and know no default of this machine.
package dnsconf

import (
	"bufio"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// DNS is a resolver's configuration (resolv.conf(5)).
type DNS struct {
	Servers  []string
	Searches []string
	Options  []string // "ndots:5", "edns0"
}

// Limits of a pod's configuration, as Kubernetes sets them.
const (
	MaxServers        = 3
	MaxSearches       = 32
	MaxSearchesLength = 2048
)

// maxLine bounds a line of a host's file.
const maxLine = 64 << 10

// Parse reads a resolv.conf. Unknown lines are passed over, as the resolver does. The last search (or
// domain) line counts; options add up.
func Parse(text string) DNS {
	var d DNS
	lines := bufio.NewScanner(strings.NewReader(text))
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		line := lines.Text()
		if strings.HasPrefix(line, "#") || strings.HasPrefix(line, ";") {
			continue
		}
		fields := strings.Fields(line)
		if len(fields) < 2 {
			if len(fields) == 1 && fields[0] == "search" {
				d.Searches = nil
			}
			continue
		}
		switch fields[0] {
		case "nameserver":
			d.Servers = append(d.Servers, fields[1])
		case "search":
			d.Searches = fields[1:]
		case "domain":
			d.Searches = fields[1:2]
		case "options":
			d.Options = append(d.Options, fields[1:]...)
		}
	}
	return d
}

// Policy says where a pod's resolver configuration comes from (Kubernetes, DNSPolicy).
type Policy string

// The policies. ClusterFirst is that of a pod that asks for nothing; for a pod on the host's network it means
// Default.
const (
	ClusterFirst            Policy = "ClusterFirst"
	ClusterFirstWithHostNet Policy = "ClusterFirstWithHostNet"
	Default                 Policy = "Default"
	None                    Policy = "None"
)

// Cluster is the cluster's own resolver. Without Servers there is none, and ClusterFirst means Default.
type Cluster struct {
	Servers []string
	Domain  string // "cluster.local"
}

// ForPod returns the configuration of a pod: what the policy gives, and the pod's own (dnsConfig) added.
// Servers and searches beyond the limits are left out; dropped tells which.
func ForPod(policy Policy, podNamespace string, hostNetwork bool, host DNS, cluster Cluster, own DNS) (d DNS, dropped []string) {
	useCluster := policy == ClusterFirstWithHostNet || ((policy == ClusterFirst || policy == "") && !hostNetwork)
	switch {
	case policy == None:
	case useCluster && len(cluster.Servers) > 0:
		d.Servers = slices.Clone(cluster.Servers)
		if cluster.Domain != "" {
			d.Searches = []string{podNamespace + ".svc." + cluster.Domain, "svc." + cluster.Domain, cluster.Domain}
		}
		d.Searches = append(d.Searches, host.Searches...)
		d.Options = []string{"ndots:5"}
	default:
		d = DNS{Servers: withoutLoopback(host.Servers, hostNetwork), Searches: slices.Clone(host.Searches), Options: slices.Clone(host.Options)}
	}
	d.Servers = unique(append(d.Servers, own.Servers...))
	d.Searches = unique(append(d.Searches, own.Searches...))
	d.Options = mergeOptions(d.Options, own.Options)
	return limit(d)
}

// withoutLoopback leaves out the host's servers on loopback addresses (as systemd-resolved's 127.0.0.53),
// which are nobody in a pod's own network.
func withoutLoopback(servers []string, hostNetwork bool) []string {
	var out []string
	for _, s := range servers {
		a, err := netip.ParseAddr(s)
		if !hostNetwork && err == nil && a.IsLoopback() {
			continue
		}
		out = append(out, s)
	}
	return out
}

func unique(in []string) []string {
	var out []string
	for _, s := range in {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// mergeOptions adds the pod's options to the policy's; one of the same name (before the colon) replaces.
func mergeOptions(base, own []string) []string {
	out := slices.Clone(base)
	for _, o := range own {
		name, _, _ := strings.Cut(o, ":")
		at := slices.IndexFunc(out, func(have string) bool { n, _, _ := strings.Cut(have, ":"); return n == name })
		if at < 0 {
			out = append(out, o)
		} else {
			out[at] = o
		}
	}
	return out
}

func limit(d DNS) (DNS, []string) {
	var dropped []string
	if len(d.Servers) > MaxServers {
		dropped = append(dropped, d.Servers[MaxServers:]...)
		d.Servers = d.Servers[:MaxServers]
	}
	length := 0
	for i, s := range d.Searches {
		if length += len(s) + 1; i >= MaxSearches || length-1 > MaxSearchesLength {
			dropped = append(dropped, d.Searches[i:]...)
			d.Searches = d.Searches[:i]
			break
		}
	}
	return d, dropped
}

// ResolvConf renders a resolv.conf. An error means that a value could not be written without changing the
// meaning of the file.
func ResolvConf(d DNS) (string, error) {
	var b strings.Builder
	for _, words := range [][]string{d.Servers, d.Searches, d.Options} {
		for _, w := range words {
			if err := word(w); err != nil {
				return "", fmt.Errorf("resolv.conf: %w", err)
			}
		}
	}
	if len(d.Searches) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(d.Searches, " "))
	}
	for _, s := range d.Servers {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	if len(d.Options) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(d.Options, " "))
	}
	return b.String(), nil
}

// word refuses what would become something else in a file of words and lines.
func word(w string) error {
	if w == "" || strings.ContainsFunc(w, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '#' || r == ';' }) {
		return fmt.Errorf("%q is not a word", w)
	}
	return nil
}
