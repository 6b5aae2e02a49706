package manifest

import (
	"fmt"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

// maxObject is the largest ConfigMap or Secret, as in the API server.
const maxObject = 1 << 20

// FindConfigMap returns the ConfigMap of that name, or nil.
func FindConfigMap(list []*v1.ConfigMap, namespace, name string) *v1.ConfigMap {
	for _, cm := range list {
		if cm.Name == name && orDefault(cm.Namespace) == orDefault(namespace) {
			return cm
		}
	}
	return nil
}

// FindSecret returns the Secret of that name, or nil.
func FindSecret(list []*v1.Secret, namespace, name string) *v1.Secret {
	for _, s := range list {
		if s.Name == name && orDefault(s.Namespace) == orDefault(namespace) {
			return s
		}
	}
	return nil
}

func orDefault(namespace string) string {
	if namespace == "" {
		return "default"
	}
	return namespace
}

// Uses returns the manifest's ConfigMaps and Secrets that pod refers to.
func (m *Manifest) Uses(pod *v1.Pod) ([]*v1.ConfigMap, []*v1.Secret) {
	cms, secrets := map[string]bool{}, map[string]bool{}
	eachContainer(&pod.Spec, func(_ string, ctr *v1.Container) {
		for _, e := range ctr.Env {
			if e.ValueFrom != nil && e.ValueFrom.ConfigMapKeyRef != nil {
				cms[e.ValueFrom.ConfigMapKeyRef.Name] = true
			}
			if e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil {
				secrets[e.ValueFrom.SecretKeyRef.Name] = true
			}
		}
		for _, e := range ctr.EnvFrom {
			if e.ConfigMapRef != nil {
				cms[e.ConfigMapRef.Name] = true
			}
			if e.SecretRef != nil {
				secrets[e.SecretRef.Name] = true
			}
		}
	})
	for _, v := range pod.Spec.Volumes {
		if v.ConfigMap != nil {
			cms[v.ConfigMap.Name] = true
		}
		if v.Secret != nil {
			secrets[v.Secret.SecretName] = true
		}
	}
	var outMaps []*v1.ConfigMap
	var outSecrets []*v1.Secret
	for _, name := range sortedKeys(cms) {
		if cm := FindConfigMap(m.ConfigMaps, pod.Namespace, name); cm != nil {
			outMaps = append(outMaps, cm)
		}
	}
	for _, name := range sortedKeys(secrets) {
		if s := FindSecret(m.Secrets, pod.Namespace, name); s != nil {
			outSecrets = append(outSecrets, s)
		}
	}
	return outMaps, outSecrets
}

func validateConfigMaps(list []*v1.ConfigMap) Errors {
	var errs Errors
	seen := map[string]bool{}
	for _, cm := range list {
		c := &checker{what: fmt.Sprintf("configmap %q", cm.Name)}
		c.meta(&cm.ObjectMeta)
		c.once(seen, cm.Namespace, cm.Name)
		size := 0
		for _, k := range sortedKeys(cm.Data) {
			c.dataKey("data", k)
			size += len(cm.Data[k])
		}
		for _, k := range sortedKeys(cm.BinaryData) {
			c.dataKey("binaryData", k)
			size += len(cm.BinaryData[k])
			if _, twice := cm.Data[k]; twice {
				c.add("binaryData["+k+"]", "the key is in data too")
			}
		}
		c.size(size)
		errs = append(errs, c.errs...)
	}
	return errs
}

func validateSecrets(list []*v1.Secret) Errors {
	var errs Errors
	seen := map[string]bool{}
	for _, s := range list {
		c := &checker{what: fmt.Sprintf("secret %q", s.Name)}
		c.meta(&s.ObjectMeta)
		c.once(seen, s.Namespace, s.Name)
		size := 0
		for _, k := range sortedKeys(s.Data) {
			c.dataKey("data", k)
			size += len(s.Data[k])
		}
		c.size(size)
		errs = append(errs, c.errs...)
	}
	return errs
}

func (c *checker) once(seen map[string]bool, namespace, name string) {
	if seen[namespace+"/"+name] {
		c.add("metadata.name", "%q is used twice in namespace %q", name, namespace)
	}
	seen[namespace+"/"+name] = true
}

func (c *checker) dataKey(field, key string) {
	for _, s := range validation.IsConfigMapKey(key) {
		c.add(field+"["+strings.ReplaceAll(key, "\n", " ")+"]", "%s", s)
	}
}

func (c *checker) size(n int) {
	if n > maxObject {
		c.add("data", "it has %d bytes; the limit is %d", n, maxObject)
	}
}
