package criconfig

import (
	"fmt"
	"math"
	"sort"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/11f9778f/berth/internal/kubelet/manifest"
)

// environ is an environment in the order of its first settings.
type environ struct {
	names  []string
	values map[string]string
}

func (e *environ) set(name, value string) {
	if _, there := e.values[name]; !there {
		e.names = append(e.names, name)
	}
	e.values[name] = value
}

func (e *environ) list() []*runtimeapi.KeyValue {
	out := make([]*runtimeapi.KeyValue, len(e.names))
	for i, n := range e.names {
		out[i] = &runtimeapi.KeyValue{Key: n, Value: []byte(e.values[n])}
	}
	return out
}

// environment is the container's: what envFrom brings, then env, each of which may refer to those before it.
func environment(in *Input) (*environ, error) {
	e := &environ{values: map[string]string{}}
	for i, from := range in.Container.EnvFrom {
		data, err := in.envFrom(from)
		if err != nil {
			return nil, fmt.Errorf("envFrom[%d]: %w", i, err)
		}
		keys := make([]string, 0, len(data))
		for k := range data {
			keys = append(keys, k)
		}
		sort.Strings(keys)
		for _, k := range keys {
			e.set(from.Prefix+k, data[k])
		}
	}
	for _, v := range in.Container.Env {
		if v.ValueFrom == nil {
			e.set(v.Name, Expand(v.Value, e.values))
			continue
		}
		value, there, err := in.valueFrom(v.ValueFrom)
		if err != nil {
			return nil, fmt.Errorf("env %s: %w", v.Name, err)
		}
		if there {
			e.set(v.Name, value)
		}
	}
	return e, nil
}

func (in *Input) envFrom(from v1.EnvFromSource) (map[string]string, error) {
	if r := from.ConfigMapRef; r != nil {
		cm := manifest.FindConfigMap(in.ConfigMaps, in.Pod.Namespace, r.Name)
		if cm == nil {
			return nil, missing("ConfigMap", r.Name, "", r.Optional)
		}
		return cm.Data, nil
	}
	r := from.SecretRef
	s := manifest.FindSecret(in.Secrets, in.Pod.Namespace, r.Name)
	if s == nil {
		return nil, missing("Secret", r.Name, "", r.Optional)
	}
	out := map[string]string{}
	for k, v := range s.Data {
		out[k] = string(v)
	}
	return out, nil
}

// missing is nil for what is optional.
func missing(kind, name, key string, optional *bool) error {
	switch {
	case isTrue(optional):
		return nil
	case key != "":
		return fmt.Errorf("%s %q has no key %q", kind, name, key)
	}
	return fmt.Errorf("there is no %s %q", kind, name)
}

// valueFrom returns a value; there is false where something optional is missing.
func (in *Input) valueFrom(s *v1.EnvVarSource) (value string, there bool, err error) {
	switch {
	case s.ConfigMapKeyRef != nil:
		r := s.ConfigMapKeyRef
		cm := manifest.FindConfigMap(in.ConfigMaps, in.Pod.Namespace, r.Name)
		if cm == nil {
			return "", false, missing("ConfigMap", r.Name, "", r.Optional)
		}
		if v, ok := cm.Data[r.Key]; ok {
			return v, true, nil
		}
		return "", false, missing("ConfigMap", r.Name, r.Key, r.Optional)
	case s.SecretKeyRef != nil:
		r := s.SecretKeyRef
		secret := manifest.FindSecret(in.Secrets, in.Pod.Namespace, r.Name)
		if secret == nil {
			return "", false, missing("Secret", r.Name, "", r.Optional)
		}
		if v, ok := secret.Data[r.Key]; ok {
			return string(v), true, nil
		}
		return "", false, missing("Secret", r.Name, r.Key, r.Optional)
	case s.FieldRef != nil:
		v, err := in.field(s.FieldRef.FieldPath)
		return v, err == nil, err
	case s.ResourceFieldRef != nil:
		v, err := in.resource(s.ResourceFieldRef)
		return v, err == nil, err
	}
	return "", false, fmt.Errorf("it has no source")
}

// field is what the downward API tells of the pod.
func (in *Input) field(path string) (string, error) {
	if base, key, ok := strings.Cut(strings.TrimSuffix(path, "']"), "['"); ok {
		switch base {
		case "metadata.labels":
			return in.Pod.Labels[key], nil
		case "metadata.annotations":
			return in.Pod.Annotations[key], nil
		}
	}
	firstIP := ""
	if len(in.PodIPs) > 0 {
		firstIP = in.PodIPs[0]
	}
	v, ok := map[string]string{
		"metadata.name":           in.Pod.Name,
		"metadata.namespace":      in.Pod.Namespace,
		"metadata.uid":            string(in.Pod.UID),
		"spec.nodeName":           in.Node.Name,
		"spec.serviceAccountName": "default",
		"status.hostIP":           in.Node.HostIP,
		"status.hostIPs":          in.Node.HostIP,
		"status.podIP":            firstIP,
		"status.podIPs":           strings.Join(in.PodIPs, ","),
	}[path]
	if !ok {
		return "", fmt.Errorf("there is no field %q", path)
	}
	return v, nil
}

// resource is a limit or request of a container in units of the divisor, rounded up. Without a limit it is
// what the node has.
func (in *Input) resource(r *v1.ResourceFieldSelector) (string, error) {
	c := in.Container
	if r.ContainerName != "" {
		eachContainer(&in.Pod.Spec, func(other *v1.Container) {
			if other.Name == r.ContainerName {
				c = other
			}
		})
	}
	kind, name, _ := strings.Cut(r.Resource, ".")
	list := c.Resources.Limits
	if kind == "requests" {
		list = c.Resources.Requests
	}
	q, there := list[v1.ResourceName(name)]
	if !there && kind == "limits" && name == "memory" {
		q = *resource.NewQuantity(in.Node.MemoryTotal, resource.BinarySI)
	}
	if !there && kind == "limits" && name == "cpu" {
		q = *resource.NewQuantity(in.Node.CPUs, resource.DecimalSI)
	}
	divisor := r.Divisor
	if divisor.IsZero() {
		divisor = resource.MustParse("1")
	}
	if name == "cpu" {
		return strconv.FormatInt(int64(math.Ceil(float64(q.MilliValue())/float64(divisor.MilliValue()))), 10), nil
	}
	return strconv.FormatInt(int64(math.Ceil(float64(q.Value())/float64(divisor.Value()))), 10), nil
}

func expandAll(list []string, e *environ) []string {
	var out []string
	for _, s := range list {
		out = append(out, Expand(s, e.values))
	}
	return out
}

// Expand replaces $(NAME) by the variable's value where there is such a variable, and $$ by $, so that
// $$(NAME) stays as $(NAME). Everything else stays as it is.
func Expand(s string, values map[string]string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '$' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		switch s[i+1] {
		case '$':
			b.WriteByte('$')
			i++
		case '(':
			end := strings.IndexByte(s[i:], ')')
			if end < 0 {
				b.WriteString(s[i:])
				return b.String()
			}
			name := s[i+2 : i+end]
			if v, there := values[name]; there {
				b.WriteString(v)
			} else {
				b.WriteString(s[i : i+end+1])
			}
			i += end
		default:
			b.WriteByte('$')
		}
	}
	return b.String()
}
