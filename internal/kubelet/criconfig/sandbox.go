package criconfig

import (
	"path"
	"strings"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Node is what is the same for all pods of a node.
type Node struct {
	Name         string
	HostIP       string
	CgroupParent string // pods' cgroups are made below it; slices of systemd's if it is one
	MemoryTotal  int64  // bytes; for the OOM score of burstable pods
	CPUs         int64
	DNS          DNS // of the host, for dnsPolicy Default
}

// DNS is the content of a resolv.conf.
type DNS struct {
	Servers, Searches, Options []string
}

// ParseDNS reads a resolv.conf.
func ParseDNS(resolvConf string) DNS {
	var d DNS
	for _, line := range strings.Split(resolvConf, "\n") {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		switch f[0] {
		case "nameserver":
			d.Servers = append(d.Servers, f[1])
		case "search", "domain":
			d.Searches = f[1:]
		case "options":
			d.Options = f[1:]
		}
	}
	return d
}

// Sandbox is the configuration of a pod's sandbox. logDir is where its containers' logs go.
func Sandbox(n *Node, pod *v1.Pod, attempt uint32, logDir string) *runtimeapi.PodSandboxConfig {
	labels := map[string]string{}
	for k, v := range pod.Labels {
		labels[k] = v
	}
	for k, v := range podLabels(pod) {
		labels[k] = v
	}
	annotations := map[string]string{annotationConfigSource: "api"}
	for k, v := range pod.Annotations {
		annotations[k] = v
	}
	c := &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: pod.Name, Namespace: pod.Namespace, Uid: string(pod.UID), Attempt: attempt},
		LogDirectory: logDir,
		Labels:       labels,
		Annotations:  annotations,
		DnsConfig:    n.dns(&pod.Spec),
		PortMappings: portMappings(&pod.Spec),
		Linux: &runtimeapi.LinuxPodSandboxConfig{
			CgroupParent:    n.podCgroup(pod),
			SecurityContext: sandboxSecurity(&pod.Spec),
			Resources:       podResources(&pod.Spec),
			Overhead:        &runtimeapi.LinuxContainerResources{},
		},
	}
	if !pod.Spec.HostNetwork {
		c.Hostname = Hostname(pod)
	}
	return c
}

// podCgroup is the pod's own cgroup, with the names that upstream's kubelet gives.
func (n *Node) podCgroup(pod *v1.Pod) string {
	name := "pod" + string(pod.UID)
	if slice, ok := strings.CutSuffix(path.Base(n.CgroupParent), ".slice"); ok {
		name = slice + "-" + strings.ReplaceAll(name, "-", "_") + ".slice"
	}
	return path.Join(n.CgroupParent, name)
}

// Hostname is the pod's own name in its network: spec.hostname, or the pod's name cut to what Linux takes.
func Hostname(pod *v1.Pod) string {
	if pod.Spec.Hostname != "" {
		return pod.Spec.Hostname
	}
	name := pod.Name
	if len(name) > 63 {
		name = strings.TrimRight(name[:63], "-.")
	}
	return name
}

// dns: there is no cluster DNS on a lone node, so ClusterFirst is what a kubelet without one makes of it,
// Default. dnsConfig is added to what the policy gives.
func (n *Node) dns(s *v1.PodSpec) *runtimeapi.DNSConfig {
	var d DNS
	if s.DNSPolicy != v1.DNSNone {
		d = n.DNS
	}
	out := &runtimeapi.DNSConfig{
		Servers: append([]string(nil), d.Servers...), Searches: append([]string(nil), d.Searches...), Options: append([]string(nil), d.Options...),
	}
	if c := s.DNSConfig; c != nil {
		out.Servers = union(out.Servers, c.Nameservers)
		out.Searches = union(out.Searches, c.Searches)
		for _, o := range c.Options {
			option := o.Name
			if o.Value != nil && *o.Value != "" {
				option += ":" + *o.Value
			}
			out.Options = withOption(out.Options, o.Name, option)
		}
	}
	return out
}

func union(a, b []string) []string {
	seen := map[string]bool{}
	var out []string
	for _, s := range append(append([]string(nil), a...), b...) {
		if !seen[s] {
			seen[s] = true
			out = append(out, s)
		}
	}
	return out
}

// withOption replaces the option of that name, or adds it.
func withOption(list []string, name, option string) []string {
	for i, o := range list {
		if old, _, _ := strings.Cut(o, ":"); old == name {
			list[i] = option
			return list
		}
	}
	return append(list, option)
}

// portMappings are the ports of the host that lead into the pod; with hostNetwork there is nothing to map.
func portMappings(s *v1.PodSpec) []*runtimeapi.PortMapping {
	if s.HostNetwork {
		return nil
	}
	var out []*runtimeapi.PortMapping
	eachContainer(s, func(c *v1.Container) {
		for _, p := range c.Ports {
			if p.HostPort == 0 {
				continue
			}
			out = append(out, &runtimeapi.PortMapping{
				Protocol: runtimeapi.Protocol(runtimeapi.Protocol_value[string(p.Protocol)]), ContainerPort: p.ContainerPort, HostPort: p.HostPort, HostIp: p.HostIP,
			})
		}
	})
	return out
}

func eachContainer(s *v1.PodSpec, fn func(*v1.Container)) {
	for i := range s.InitContainers {
		fn(&s.InitContainers[i])
	}
	for i := range s.Containers {
		fn(&s.Containers[i])
	}
}
