package dnsconf

import (
	"fmt"
	"net/netip"
	"strings"
)

// Hosts renders the hosts file of a pod with a network of its own: loopback, and the pod's own addresses with its
// host name.
func Hosts(ips []netip.Addr, hostname string) (string, error) {
	var b strings.Builder
	b.WriteString("127.0.0.1\tlocalhost\n" +
		"::1\tlocalhost ip6-localhost ip6-loopback\n" +
		"fe00::\tip6-localnet\n" +
		"ff00::\tip6-mcastprefix\n" +
		"ff02::1\tip6-allnodes\n" +
		"ff02::2\tip6-allrouters\n")
	if hostname == "" {
		return b.String(), nil
	}
	if err := word(hostname); err != nil {
		return "", fmt.Errorf("hosts file: host name: %w", err)
	}
	for _, ip := range ips {
		fmt.Fprintf(&b, "%s\t%s\n", ip, hostname)
	}
	return b.String(), nil
}
