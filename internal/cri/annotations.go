package cri

import (
	"net/netip"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/11f9778f/berth/internal/runtime"
)

// Annotations of a pod. The first two are Kubernetes'.
const (
	annotationIngress = "kubernetes.io/ingress-bandwidth"
	annotationEgress  = "kubernetes.io/egress-bandwidth"
	annotationIPs     = "io.berth.pod.ips"
	annotationLimit   = "io.berth.pod.writable-limit"
)

// Bounds of a writable layer's limit in bytes: below it a container could not even be made.
const minWritable, maxWritable = 1 << 20, 1 << 50

// writableAnnotation reads what each container of the pod may write into its root filesystem.
func writableAnnotation(spec *runtime.SandboxSpec) error {
	text, ok := spec.Annotations[annotationLimit]
	if !ok {
		return nil
	}
	q, err := resource.ParseQuantity(text)
	if err != nil {
		return badRequest("config.annotations[%s]: %q is no quantity, as 10Gi is for ten gibibytes", annotationLimit, text)
	}
	if spec.WritableLimit = q.Value(); spec.WritableLimit < minWritable || spec.WritableLimit > maxWritable {
		return badRequest("config.annotations[%s]: %s is not from 1Mi to 1Pi", annotationLimit, text)
	}
	return nil
}

// Bounds of a bandwidth in bits a second, as Kubernetes sets them.
const minBandwidth, maxBandwidth = 1_000, 1_000_000_000_000_000

// networkAnnotations reads them. A pod on the host's network has nothing of its own to be limited.
func networkAnnotations(spec *runtime.SandboxSpec) error {
	for name, to := range map[string]*uint64{annotationIngress: &spec.Bandwidth.Ingress, annotationEgress: &spec.Bandwidth.Egress} {
		text, ok := spec.Annotations[name]
		if !ok {
			continue
		}
		q, err := resource.ParseQuantity(text)
		if err != nil {
			return badRequest("config.annotations[%s]: %q is no quantity, as 10M is for ten megabits a second", name, text)
		}
		if n := q.Value(); n < minBandwidth || n > maxBandwidth {
			return badRequest("config.annotations[%s]: %s is not from 1k to 1P", name, text)
		}
		*to = uint64(q.Value())
	}
	text, ok := spec.Annotations[annotationIPs]
	if !ok {
		return nil
	}
	var have4, have6 bool
	for s := range strings.SplitSeq(text, ",") {
		ip, err := netip.ParseAddr(strings.TrimSpace(s))
		if err != nil || ip.Zone() != "" || ip.Is4In6() || ip.IsUnspecified() || ip.IsLoopback() || ip.IsMulticast() || ip.IsLinkLocalUnicast() {
			return badRequest("config.annotations[%s]: %q is no address for a pod", annotationIPs, s)
		}
		if ip.Is4() && have4 || ip.Is6() && have6 {
			return badRequest("config.annotations[%s]: %s is the second of its family, and there can be one", annotationIPs, ip)
		}
		have4, have6 = have4 || ip.Is4(), have6 || ip.Is6()
		spec.IPs = append(spec.IPs, ip)
	}
	return nil
}
