package manifest

import (
	"fmt"
	"path"
	"strings"

	"github.com/distribution/reference"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
)

// container checks one container, wherever it is. names holds the names of those before it, volumes those
// of the pod.
func (c *checker) container(at string, ctr *v1.Container, names, volumes map[string]bool) {
	switch {
	case ctr.Name == "":
		c.add(at+".name", "a name is needed")
	case names[ctr.Name]:
		c.add(at+".name", "%q is used twice", ctr.Name)
	default:
		c.all(at+".name", ctr.Name, validation.IsDNS1123Label(ctr.Name))
	}
	names[ctr.Name] = true
	c.image(at, ctr)
	c.env(at, ctr)
	c.mounts(at, ctr, volumes)
	c.resources(at+".resources", ctr)
	c.containerSecurity(at+".securityContext", ctr.SecurityContext)
	for i, p := range ctr.Ports {
		c.port(fmt.Sprintf("%s.ports[%d]", at, i), p)
	}
	c.probe(at+".livenessProbe", ctr.LivenessProbe, ctr, true)
	c.probe(at+".startupProbe", ctr.StartupProbe, ctr, true)
	c.probe(at+".readinessProbe", ctr.ReadinessProbe, ctr, false)
	if ctr.WorkingDir != "" && !path.IsAbs(ctr.WorkingDir) {
		c.add(at+".workingDir", "%q is not an absolute path", ctr.WorkingDir)
	}
	for _, s := range append(append([]string(nil), ctr.Command...), ctr.Args...) {
		if strings.ContainsRune(s, 0) {
			c.add(at+".command", "an argument holds a zero byte")
		}
	}
}

func (c *checker) image(at string, ctr *v1.Container) {
	if ctr.Image == "" {
		c.add(at+".image", "an image is needed")
	} else if _, err := reference.ParseNormalizedNamed(ctr.Image); err != nil {
		c.add(at+".image", "%q is no image reference: %v", ctr.Image, err)
	}
	switch ctr.ImagePullPolicy {
	case v1.PullAlways, v1.PullIfNotPresent, v1.PullNever:
	default:
		c.add(at+".imagePullPolicy", "%q is none of Always, IfNotPresent and Never", ctr.ImagePullPolicy)
	}
	switch ctr.TerminationMessagePolicy {
	case v1.TerminationMessageReadFile, v1.TerminationMessageFallbackToLogsOnError:
	default:
		c.add(at+".terminationMessagePolicy", "%q is none of File and FallbackToLogsOnError", ctr.TerminationMessagePolicy)
	}
	if !path.IsAbs(ctr.TerminationMessagePath) {
		c.add(at+".terminationMessagePath", "%q is not an absolute path", ctr.TerminationMessagePath)
	}
}

func (c *checker) port(at string, p v1.ContainerPort) {
	if validation.IsValidPortNum(int(p.ContainerPort)) != nil {
		c.add(at+".containerPort", "%d is not between 1 and 65535", p.ContainerPort)
	}
	if p.HostPort != 0 && validation.IsValidPortNum(int(p.HostPort)) != nil {
		c.add(at+".hostPort", "%d is not between 1 and 65535", p.HostPort)
	}
	if c.pod.Spec.HostNetwork && p.HostPort != p.ContainerPort {
		c.add(at+".hostPort", "%d differs from containerPort %d, which is not possible with hostNetwork", p.HostPort, p.ContainerPort)
	}
	switch p.Protocol {
	case v1.ProtocolTCP, v1.ProtocolUDP, v1.ProtocolSCTP:
	default:
		c.add(at+".protocol", "%q is none of TCP, UDP and SCTP", p.Protocol)
	}
	if p.HostIP != "" {
		c.address(at+".hostIP", p.HostIP)
	}
	if p.Name != "" {
		c.all(at+".name", p.Name, validation.IsValidPortName(p.Name))
	}
}

func (c *checker) resources(at string, ctr *v1.Container) {
	for _, list := range []struct {
		name string
		list v1.ResourceList
	}{{"limits", ctr.Resources.Limits}, {"requests", ctr.Resources.Requests}} {
		for name, q := range list.list {
			where := fmt.Sprintf("%s.%s[%s]", at, list.name, name)
			switch name {
			case v1.ResourceCPU, v1.ResourceMemory:
			default:
				c.add(where, "Berth does not do this resource yet; it does cpu and memory")
			}
			if q.Sign() < 0 {
				c.add(where, "%s is negative", q.String())
			}
		}
	}
	for name, limit := range ctr.Resources.Limits {
		if request, there := ctr.Resources.Requests[name]; there && request.Cmp(limit) > 0 {
			c.add(fmt.Sprintf("%s.requests[%s]", at, name), "%s is more than the limit %s", request.String(), limit.String())
		}
	}
	if limit, there := ctr.Resources.Limits[v1.ResourceMemory]; there && limit.Sign() > 0 && limit.Cmp(resource.MustParse("512Ki")) < 0 {
		c.add(at+".limits[memory]", "%s is too little for any process; did you mean %sMi?", limit.String(), limit.String())
	}
}

func (c *checker) containerSecurity(at string, s *v1.SecurityContext) {
	if s == nil {
		return
	}
	c.id(at+".runAsUser", s.RunAsUser)
	c.id(at+".runAsGroup", s.RunAsGroup)
	c.seccomp(at+".seccompProfile", s.SeccompProfile)
	if s.AllowPrivilegeEscalation != nil && !*s.AllowPrivilegeEscalation {
		if s.Privileged != nil && *s.Privileged {
			c.add(at+".allowPrivilegeEscalation", "false contradicts privileged: true")
		}
		if s.Capabilities != nil {
			for _, add := range s.Capabilities.Add {
				if strings.TrimPrefix(strings.ToUpper(string(add)), "CAP_") == "SYS_ADMIN" {
					c.add(at+".allowPrivilegeEscalation", "false contradicts the added capability %s", add)
				}
			}
		}
	}
}

func (c *checker) probe(at string, p *v1.Probe, ctr *v1.Container, successIsOne bool) {
	if p == nil {
		return
	}
	n := 0
	if p.Exec != nil {
		n++
		if len(p.Exec.Command) == 0 {
			c.add(at+".exec.command", "a command is needed")
		}
	}
	if p.HTTPGet != nil {
		n++
		c.probePort(at+".httpGet.port", p.HTTPGet.Port, ctr)
		if p.HTTPGet.Scheme != v1.URISchemeHTTP && p.HTTPGet.Scheme != v1.URISchemeHTTPS {
			c.add(at+".httpGet.scheme", "%q is none of HTTP and HTTPS", p.HTTPGet.Scheme)
		}
		for i, h := range p.HTTPGet.HTTPHeaders {
			c.all(fmt.Sprintf("%s.httpGet.httpHeaders[%d].name", at, i), h.Name, validation.IsHTTPHeaderName(h.Name))
		}
	}
	if p.TCPSocket != nil {
		n++
		c.probePort(at+".tcpSocket.port", p.TCPSocket.Port, ctr)
	}
	if n != 1 {
		c.add(at, "exactly one of exec, httpGet and tcpSocket is needed")
	}
	for _, f := range []struct {
		name string
		v    int32
		min  int32
	}{
		{"initialDelaySeconds", p.InitialDelaySeconds, 0}, {"periodSeconds", p.PeriodSeconds, 1},
		{"timeoutSeconds", p.TimeoutSeconds, 1}, {"successThreshold", p.SuccessThreshold, 1},
		{"failureThreshold", p.FailureThreshold, 1},
	} {
		if f.v < f.min {
			c.add(at+"."+f.name, "%d is less than %d", f.v, f.min)
		}
	}
	if successIsOne && p.SuccessThreshold > 1 {
		c.add(at+".successThreshold", "it must be 1 for this kind of probe")
	}
}

// probePort checks a number, or that the container names such a port.
func (c *checker) probePort(at string, port intstr.IntOrString, ctr *v1.Container) {
	if port.Type == intstr.Int {
		if validation.IsValidPortNum(int(port.IntVal)) != nil {
			c.add(at, "%d is not between 1 and 65535", port.IntVal)
		}
		return
	}
	for _, p := range ctr.Ports {
		if p.Name == port.StrVal {
			return
		}
	}
	c.add(at, "the container has no port named %q", port.StrVal)
}
