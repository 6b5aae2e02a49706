package cni

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/11f9778f/berth/internal/network"
)

const (
	argNamespace = "K8S_POD_NAMESPACE"
	argName      = "K8S_POD_NAME"
)

// podArgs are CNI_ARGS: the names that Kubernetes' runtimes have always used.
func podArgs(r network.Request) ([][2]string, error) {
	args := [][2]string{
		{"IgnoreUnknown", "1"},
		{argNamespace, r.PodNamespace}, {argName, r.PodName},
		{"K8S_POD_INFRA_CONTAINER_ID", r.SandboxID}, {"K8S_POD_UID", r.PodUID},
	}
	for _, a := range args {
		if strings.ContainsAny(a[1], ";=\x00\n") {
			return nil, fmt.Errorf("%s %q: plugins could not tell it from another argument", a[0], a[1])
		}
	}
	return args, nil
}

// capabilityArgs are the arguments of the specification's conventions (CONVENTIONS.md of the CNI project), of
// which libcni gives each plugin those that its configuration says it has the capability for.
func capabilityArgs(r network.Request, subnets []netip.Prefix) map[string]any {
	args := map[string]any{}
	if len(r.PortMappings) > 0 {
		args["portMappings"] = portMappings(r.PortMappings)
	}
	if b := r.Bandwidth; b != (network.Bandwidth{}) {
		args["bandwidth"] = bandwidth(b)
	}
	if len(subnets) > 0 {
		ranges := [][]map[string]string{}
		for _, s := range subnets {
			ranges = append(ranges, []map[string]string{{"subnet": s.String()}})
		}
		args["ipRanges"] = ranges
	}
	if len(r.IPs) > 0 {
		args["ips"] = r.IPs
	}
	if d := r.DNS; d != nil {
		args["dns"] = map[string][]string{"servers": d.Servers, "searches": d.Searches, "options": d.Options}
	}
	if r.PodName != "" {
		args["aliases"] = []string{r.PodName}
	}
	return args
}

type portMapping struct {
	HostPort      uint16 `json:"hostPort"`
	ContainerPort uint16 `json:"containerPort"`
	Protocol      string `json:"protocol"`
	HostIP        string `json:"hostIP,omitempty"`
}

func portMappings(in []network.PortMapping) []portMapping {
	out := []portMapping{}
	for _, p := range in {
		m := portMapping{HostPort: p.HostPort, ContainerPort: p.ContainerPort, Protocol: strings.ToLower(p.Protocol)}
		if m.Protocol == "" {
			m.Protocol = "tcp"
		}
		if p.HostIP.IsValid() && !p.HostIP.IsUnspecified() {
			m.HostIP = p.HostIP.String()
		}
		if m.HostPort != 0 {
			out = append(out, m)
		}
	}
	return out
}

// String is how people are shown a port.
func (m portMapping) String() string {
	host := m.HostIP
	if host == "" {
		host = "*"
	}
	return fmt.Sprintf("%s %s:%d → %d", m.Protocol, host, m.HostPort, m.ContainerPort)
}

// bandwidth is in bits a second and bits. A plugin wants a burst with each rate.
func bandwidth(b network.Bandwidth) map[string]uint64 {
	out := map[string]uint64{}
	if b.Ingress > 0 {
		out["ingressRate"], out["ingressBurst"] = b.Ingress, network.Burst(b.Ingress)
	}
	if b.Egress > 0 {
		out["egressRate"], out["egressBurst"] = b.Egress, network.Burst(b.Egress)
	}
	return out
}
