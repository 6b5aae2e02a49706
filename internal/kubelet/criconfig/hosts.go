package criconfig

import (
	"fmt"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// Hosts is the content of a pod's /etc/hosts. host is that of the node's own file, which a host-network pod's
// begins with.
func Hosts(pod *v1.Pod, podIPs []string, host []byte) []byte {
	var b strings.Builder
	if pod.Spec.HostNetwork {
		b.WriteString("# The kubelet keeps this file (host network).\n")
		b.Write(host)
	} else {
		b.WriteString("# The kubelet keeps this file.\n" +
			"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n" +
			"fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n")
		for _, ip := range podIPs {
			fmt.Fprintf(&b, "%s\t%s\n", ip, Hostname(pod))
		}
	}
	for i, a := range pod.Spec.HostAliases {
		if i == 0 {
			b.WriteString("\n# From spec.hostAliases.\n")
		}
		fmt.Fprintf(&b, "%s\t%s\n", a.IP, strings.Join(a.Hostnames, "\t"))
	}
	return []byte(b.String())
}
