package dnsconf

import (
	"fmt"
	"net/netip"
	"strings"
)

// HostAlias gives names to an address in a pod's hosts file (Kubernetes, HostAlias).
type HostAlias struct {
	IP    string
	Names []string
}

const managed = "# Berth writes this file.\n"

// Hosts renders the hosts file of a pod with a network of its own: loopback, the pod's own addresses with its
// host name (and, where domain is not empty, its full name first), and the aliases.
func Hosts(ips []netip.Addr, hostname, domain string, aliases []HostAlias) (string, error) {
	var b strings.Builder
	b.WriteString(managed)
	b.WriteString("127.0.0.1\tlocalhost\n" +
		"::1\tlocalhost ip6-localhost ip6-loopback\n" +
		"fe00::\tip6-localnet\n" +
		"ff00::\tip6-mcastprefix\n" +
		"ff02::1\tip6-allnodes\n" +
		"ff02::2\tip6-allrouters\n")
	names := []string{hostname}
	if domain != "" {
		names = []string{hostname + "." + domain, hostname}
	}
	if hostname != "" {
		for _, ip := range ips {
			if err := line(&b, ip.String(), names); err != nil {
				return "", err
			}
		}
	}
	if err := appendAliases(&b, aliases); err != nil {
		return "", err
	}
	return b.String(), nil
}

// HostNetworkHosts renders the hosts file of a pod on the host's network: the host's own, and the aliases.
func HostNetworkHosts(host string, aliases []HostAlias) (string, error) {
	var b strings.Builder
	b.WriteString(managed)
	b.WriteString(host)
	if host != "" && !strings.HasSuffix(host, "\n") {
		b.WriteByte('\n')
	}
	if err := appendAliases(&b, aliases); err != nil {
		return "", err
	}
	return b.String(), nil
}

func appendAliases(b *strings.Builder, aliases []HostAlias) error {
	if len(aliases) == 0 {
		return nil
	}
	b.WriteString("\n# Host aliases of the pod.\n")
	for _, a := range aliases {
		if len(a.Names) == 0 {
			continue
		}
		if err := line(b, a.IP, a.Names); err != nil {
			return err
		}
	}
	return nil
}

// line writes one line, or says which of its words is none.
func line(b *strings.Builder, ip string, names []string) error {
	if _, err := netip.ParseAddr(ip); err != nil {
		return fmt.Errorf("hosts file: %q is not an IP address", ip)
	}
	for _, n := range names {
		if err := word(n); err != nil {
			return fmt.Errorf("hosts file: name of %s: %w", ip, err)
		}
	}
	fmt.Fprintf(b, "%s\t%s\n", ip, strings.Join(names, "\t"))
	return nil
}
