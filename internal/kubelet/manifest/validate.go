package manifest

import (
	"fmt"
	"net/netip"
	"strings"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

// Validate checks a whole manifest whose defaults are set: each object, and what the objects say of each
// other. A reference to a ConfigMap or Secret must be found in the manifest itself: a node has no other
// place to look.
func Validate(m *Manifest) Errors {
	var errs Errors
	errs = append(errs, validateConfigMaps(m.ConfigMaps)...)
	errs = append(errs, validateSecrets(m.Secrets)...)
	names := map[string]bool{}
	ports := map[string]string{}
	for _, pod := range m.Pods {
		c := &checker{what: fmt.Sprintf("pod %q", pod.Name), pod: pod, m: m}
		c.meta(&pod.ObjectMeta)
		key := pod.Namespace + "/" + pod.Name
		if names[key] {
			c.add("metadata.name", "%q is used twice in namespace %q", pod.Name, pod.Namespace)
		}
		names[key] = true
		c.spec(&pod.Spec)
		c.portsOfOthers(ports)
		errs = append(errs, c.errs...)
	}
	return errs
}

// checker collects what is wrong with one object.
type checker struct {
	what string
	pod  *v1.Pod
	m    *Manifest
	errs Errors
}

func (c *checker) add(path, format string, args ...any) {
	c.errs = append(c.errs, fmt.Errorf("%s: %s: %s", c.what, path, fmt.Sprintf(format, args...)))
}

// all records each of a library validator's sentences about value.
func (c *checker) all(path string, value any, sentences []string) {
	for _, s := range sentences {
		c.add(path, "%q: %s", fmt.Sprint(value), s)
	}
}

func (c *checker) meta(m *metav1.ObjectMeta) {
	if m.Name == "" {
		c.add("metadata.name", "a name is needed")
	} else {
		c.all("metadata.name", m.Name, validation.IsDNS1123Subdomain(m.Name))
	}
	if m.Namespace != "" {
		c.all("metadata.namespace", m.Namespace, validation.IsDNS1123Label(m.Namespace))
	}
	for _, k := range sortedKeys(m.Labels) {
		c.all("metadata.labels", k, validation.IsQualifiedName(k))
		c.all("metadata.labels["+k+"]", m.Labels[k], validation.IsValidLabelValue(m.Labels[k]))
	}
	size := 0
	for _, k := range sortedKeys(m.Annotations) {
		c.all("metadata.annotations", k, validation.IsQualifiedName(strings.ToLower(k)))
		size += len(k) + len(m.Annotations[k])
	}
	if size > 256<<10 {
		c.add("metadata.annotations", "they have %d bytes; the limit is %d", size, 256<<10)
	}
}

func (c *checker) spec(s *v1.PodSpec) {
	volumes := c.volumes(s.Volumes)
	if len(s.Containers) == 0 {
		c.add("spec.containers", "at least one container is needed")
	}
	names := map[string]bool{}
	for i := range s.InitContainers {
		path := fmt.Sprintf("spec.initContainers[%d]", i)
		c.container(path, &s.InitContainers[i], names, volumes)
		c.initOnly(path, &s.InitContainers[i])
	}
	for i := range s.Containers {
		path := fmt.Sprintf("spec.containers[%d]", i)
		c.container(path, &s.Containers[i], names, volumes)
	}
	c.ports()
	c.podPolicies(s)
	c.podNetwork(s)
	c.podSecurity(s.SecurityContext)
}

// initOnly checks what an init container may not have. One with restartPolicy Always is a sidecar and may
// have probes.
func (c *checker) initOnly(path string, ctr *v1.Container) {
	if ctr.RestartPolicy != nil {
		if *ctr.RestartPolicy != v1.ContainerRestartPolicyAlways {
			c.add(path+".restartPolicy", "%q: only Always is possible here (a sidecar)", *ctr.RestartPolicy)
		}
		return
	}
	for _, p := range []struct {
		name  string
		probe *v1.Probe
	}{{"livenessProbe", ctr.LivenessProbe}, {"readinessProbe", ctr.ReadinessProbe}, {"startupProbe", ctr.StartupProbe}} {
		if p.probe != nil {
			c.add(path+"."+p.name, "an init container runs to its end and has no probes, unless its restartPolicy is Always")
		}
	}
}

func (c *checker) podPolicies(s *v1.PodSpec) {
	switch s.RestartPolicy {
	case v1.RestartPolicyAlways, v1.RestartPolicyOnFailure, v1.RestartPolicyNever:
	default:
		c.add("spec.restartPolicy", "%q is none of Always, OnFailure and Never", s.RestartPolicy)
	}
	if n := s.TerminationGracePeriodSeconds; n != nil && *n < 0 {
		c.add("spec.terminationGracePeriodSeconds", "%d is negative", *n)
	}
}

func (c *checker) podNetwork(s *v1.PodSpec) {
	switch s.DNSPolicy {
	case v1.DNSClusterFirst, v1.DNSClusterFirstWithHostNet, v1.DNSDefault:
	case v1.DNSNone:
		if s.DNSConfig == nil || len(s.DNSConfig.Nameservers) == 0 {
			c.add("spec.dnsConfig.nameservers", "dnsPolicy None needs at least one name server")
		}
	default:
		c.add("spec.dnsPolicy", "%q is none of ClusterFirst, ClusterFirstWithHostNet, Default and None", s.DNSPolicy)
	}
	if d := s.DNSConfig; d != nil {
		for i, ns := range d.Nameservers {
			c.address(fmt.Sprintf("spec.dnsConfig.nameservers[%d]", i), ns)
		}
		if len(d.Nameservers) > 3 {
			c.add("spec.dnsConfig.nameservers", "there are %d; the limit is 3", len(d.Nameservers))
		}
		for i, search := range d.Searches {
			c.all(fmt.Sprintf("spec.dnsConfig.searches[%d]", i), search, validation.IsDNS1123Subdomain(strings.Trim(search, ".")))
		}
		for i, o := range d.Options {
			if o.Name == "" || strings.ContainsAny(o.Name, " \n\t") {
				c.add(fmt.Sprintf("spec.dnsConfig.options[%d].name", i), "%q is no option's name", o.Name)
			}
		}
	}
	if s.Hostname != "" {
		c.all("spec.hostname", s.Hostname, validation.IsDNS1123Label(s.Hostname))
	}
	for i, a := range s.HostAliases {
		c.address(fmt.Sprintf("spec.hostAliases[%d].ip", i), a.IP)
		for j, h := range a.Hostnames {
			c.all(fmt.Sprintf("spec.hostAliases[%d].hostnames[%d]", i, j), h, validation.IsDNS1123Subdomain(h))
		}
	}
}

func (c *checker) address(path, s string) {
	if _, err := netip.ParseAddr(s); err != nil {
		c.add(path, "%q is no IP address", s)
	}
}

// ports sees that each host port and each port name is used once in the pod.
func (c *checker) ports() {
	hostPorts := map[string]bool{}
	names := map[string]bool{}
	eachContainer(&c.pod.Spec, func(path string, ctr *v1.Container) {
		for i, p := range ctr.Ports {
			at := fmt.Sprintf("%s.ports[%d]", path, i)
			if p.HostPort != 0 {
				key := hostPortKey(p)
				if hostPorts[key] {
					c.add(at+".hostPort", "%d is used twice", p.HostPort)
				}
				hostPorts[key] = true
			}
			if key := ctr.Name + "/" + p.Name; p.Name != "" {
				if names[key] {
					c.add(at+".name", "%q is used twice", p.Name)
				}
				names[key] = true
			}
		}
	})
}

// portsOfOthers sees that no other pod of the manifest has one of this pod's host ports.
func (c *checker) portsOfOthers(taken map[string]string) {
	mine := map[string]bool{}
	eachContainer(&c.pod.Spec, func(path string, ctr *v1.Container) {
		for i, p := range ctr.Ports {
			if p.HostPort == 0 || mine[hostPortKey(p)] {
				continue
			}
			key := hostPortKey(p)
			mine[key] = true
			if other, there := taken[key]; there {
				c.add(fmt.Sprintf("%s.ports[%d].hostPort", path, i), "%d is used by pod %q too", p.HostPort, other)
			}
			taken[key] = c.pod.Name
		}
	})
}

func hostPortKey(p v1.ContainerPort) string {
	return fmt.Sprintf("%s/%s/%d", p.Protocol, p.HostIP, p.HostPort)
}

func (c *checker) podSecurity(s *v1.PodSecurityContext) {
	if s == nil {
		return
	}
	const path = "spec.securityContext"
	c.id(path+".runAsUser", s.RunAsUser)
	c.id(path+".runAsGroup", s.RunAsGroup)
	c.id(path+".fsGroup", s.FSGroup)
	for i := range s.SupplementalGroups {
		c.id(fmt.Sprintf("%s.supplementalGroups[%d]", path, i), &s.SupplementalGroups[i])
	}
	if p := s.FSGroupChangePolicy; p != nil && *p != v1.FSGroupChangeAlways && *p != v1.FSGroupChangeOnRootMismatch {
		c.add(path+".fsGroupChangePolicy", "%q is none of Always and OnRootMismatch", *p)
	}
	c.seccomp(path+".seccompProfile", s.SeccompProfile)
}

func (c *checker) seccomp(path string, p *v1.SeccompProfile) {
	if p == nil {
		return
	}
	switch p.Type {
	case v1.SeccompProfileTypeRuntimeDefault, v1.SeccompProfileTypeUnconfined:
		if p.LocalhostProfile != nil {
			c.add(path+".localhostProfile", "it goes with type Localhost only")
		}
	case v1.SeccompProfileTypeLocalhost:
		c.add(path+".type", "Berth does not do Localhost profiles yet; use RuntimeDefault or Unconfined")
	default:
		c.add(path+".type", "%q is none of RuntimeDefault and Unconfined", p.Type)
	}
}

// id checks a user or group id. The largest is 2³¹-1, as the API server has it.
func (c *checker) id(path string, id *int64) {
	if id != nil {
		for _, s := range validation.IsValidUserID(*id) {
			c.add(path, "%d: %s", *id, s)
		}
	}
}

// eachContainer calls fn for init containers, then app containers.
func eachContainer(s *v1.PodSpec, fn func(path string, ctr *v1.Container)) {
	for i := range s.InitContainers {
		fn(fmt.Sprintf("spec.initContainers[%d]", i), &s.InitContainers[i])
	}
	for i := range s.Containers {
		fn(fmt.Sprintf("spec.containers[%d]", i), &s.Containers[i])
	}
}
