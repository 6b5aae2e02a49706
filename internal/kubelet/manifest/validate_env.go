package manifest

import (
	"fmt"
	"regexp"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

func (c *checker) env(at string, ctr *v1.Container) {
	for i, e := range ctr.Env {
		where := fmt.Sprintf("%s.env[%d]", at, i)
		if e.Name == "" {
			c.add(where+".name", "a name is needed")
		} else {
			c.all(where+".name", e.Name, validation.IsRelaxedEnvVarName(e.Name))
		}
		if e.ValueFrom != nil {
			if e.Value != "" {
				c.add(where, "value and valueFrom exclude each other")
			}
			c.envSource(where+".valueFrom", e.ValueFrom)
		}
	}
	for i, from := range ctr.EnvFrom {
		where := fmt.Sprintf("%s.envFrom[%d]", at, i)
		if from.Prefix != "" {
			c.all(where+".prefix", from.Prefix, validation.IsRelaxedEnvVarName(from.Prefix))
		}
		switch {
		case (from.ConfigMapRef == nil) == (from.SecretRef == nil):
			c.add(where, "exactly one of configMapRef and secretRef is needed")
		case from.ConfigMapRef != nil:
			c.ref(where+".configMapRef", configMapKind, from.ConfigMapRef.Name, "", from.ConfigMapRef.Optional)
		default:
			c.ref(where+".secretRef", secretKind, from.SecretRef.Name, "", from.SecretRef.Optional)
		}
	}
}

func (c *checker) envSource(at string, s *v1.EnvVarSource) {
	n := 0
	if r := s.ConfigMapKeyRef; r != nil {
		n++
		c.keyRef(at+".configMapKeyRef", configMapKind, r.Name, r.Key, r.Optional)
	}
	if r := s.SecretKeyRef; r != nil {
		n++
		c.keyRef(at+".secretKeyRef", secretKind, r.Name, r.Key, r.Optional)
	}
	if r := s.FieldRef; r != nil {
		n++
		if r.APIVersion != "v1" {
			c.add(at+".fieldRef.apiVersion", "%q is not v1", r.APIVersion)
		}
		if !fieldPath.MatchString(r.FieldPath) {
			c.add(at+".fieldRef.fieldPath", "%q is none of the fields that a container can be told: metadata.name, "+
				"metadata.namespace, metadata.uid, metadata.labels['KEY'], metadata.annotations['KEY'], spec.nodeName, "+
				"spec.serviceAccountName, status.hostIP, status.hostIPs, status.podIP and status.podIPs", r.FieldPath)
		}
	}
	if r := s.ResourceFieldRef; r != nil {
		n++
		c.resourceRef(at+".resourceFieldRef", r)
	}
	if n != 1 {
		c.add(at, "exactly one of configMapKeyRef, secretKeyRef, fieldRef and resourceFieldRef is needed")
	}
}

var fieldPath = regexp.MustCompile(`^(metadata\.(name|namespace|uid|labels\['[^']+'\]|annotations\['[^']+'\])` +
	`|spec\.(nodeName|serviceAccountName)|status\.(hostIPs?|podIPs?))$`)

func (c *checker) resourceRef(at string, r *v1.ResourceFieldSelector) {
	switch r.Resource {
	case "limits.cpu", "limits.memory", "requests.cpu", "requests.memory":
	default:
		c.add(at+".resource", "%q is none of limits.cpu, limits.memory, requests.cpu and requests.memory", r.Resource)
	}
	if r.Divisor.Sign() < 0 {
		c.add(at+".divisor", "%s is negative", r.Divisor.String())
	}
	if r.ContainerName == "" {
		return
	}
	found := false
	eachContainer(&c.pod.Spec, func(_ string, ctr *v1.Container) { found = found || ctr.Name == r.ContainerName })
	if !found {
		c.add(at+".containerName", "the pod has no container %q", r.ContainerName)
	}
}

func (c *checker) keyRef(at, kind, name, key string, optional *bool) {
	if key == "" {
		c.add(at+".key", "a key is needed")
		return
	}
	c.ref(at, kind, name, key, optional)
}

const (
	configMapKind = "ConfigMap"
	secretKind    = "Secret"
)

// ref sees that the manifest holds the object, and the key in it if one is named, unless the reference
// is optional.
func (c *checker) ref(at, kind, name, key string, optional *bool) {
	if name == "" {
		c.add(at+".name", "a name is needed")
		return
	}
	if optional != nil && *optional {
		return
	}
	keys, found := c.keysOf(kind, name)
	if !found {
		c.add(at+".name", "the manifest holds no %s %q in namespace %q", kind, name, c.pod.Namespace)
	} else if key != "" && !keys[key] {
		c.add(at+".key", "%s %q has no key %q", kind, name, key)
	}
}

func (c *checker) keysOf(kind, name string) (map[string]bool, bool) {
	keys := map[string]bool{}
	if kind == configMapKind {
		cm := FindConfigMap(c.m.ConfigMaps, c.pod.Namespace, name)
		if cm == nil {
			return nil, false
		}
		for k := range cm.Data {
			keys[k] = true
		}
		for k := range cm.BinaryData {
			keys[k] = true
		}
		return keys, true
	}
	s := FindSecret(c.m.Secrets, c.pod.Namespace, name)
	if s == nil {
		return nil, false
	}
	for k := range s.Data {
		keys[k] = true
	}
	return keys, true
}
