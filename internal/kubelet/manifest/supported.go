package manifest

import (
	"fmt"
	"reflect"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// What Berth does, by path. A path stands for the whole tree below it. [*] is any element of a list.
// Whoever teaches Berth a field adds it here, and to the tests.
var (
	podPaths = []string{
		"kind", "apiVersion",
		"metadata.name", "metadata.namespace", "metadata.labels", "metadata.annotations",
		"spec.restartPolicy", "spec.terminationGracePeriodSeconds", "spec.dnsPolicy", "spec.dnsConfig",
		"spec.hostNetwork", "spec.hostname", "spec.runtimeClassName", "spec.hostAliases", "spec.enableServiceLinks",
		"spec.volumes[*].name",
		"spec.volumes[*].emptyDir",
		"spec.volumes[*].hostPath",
		"spec.volumes[*].configMap",
		"spec.volumes[*].secret",
		"spec.securityContext.runAsUser", "spec.securityContext.runAsGroup", "spec.securityContext.runAsNonRoot",
		"spec.securityContext.supplementalGroups", "spec.securityContext.fsGroup",
		"spec.securityContext.fsGroupChangePolicy", "spec.securityContext.seccompProfile",
	}
	containerPaths = []string{
		"name", "image", "imagePullPolicy", "command", "args", "workingDir", "stdin", "stdinOnce", "tty",
		"terminationMessagePath", "terminationMessagePolicy",
		"env[*].name", "env[*].value",
		"env[*].valueFrom.configMapKeyRef", "env[*].valueFrom.secretKeyRef",
		"env[*].valueFrom.fieldRef", "env[*].valueFrom.resourceFieldRef",
		"envFrom[*].prefix", "envFrom[*].configMapRef", "envFrom[*].secretRef",
		"ports", "resources.limits", "resources.requests",
		"volumeMounts[*].name", "volumeMounts[*].mountPath", "volumeMounts[*].readOnly",
		"securityContext.runAsUser", "securityContext.runAsGroup", "securityContext.runAsNonRoot",
		"securityContext.capabilities", "securityContext.privileged", "securityContext.readOnlyRootFilesystem",
		"securityContext.allowPrivilegeEscalation", "securityContext.seccompProfile",
	}
	probePaths = []string{
		"exec", "httpGet", "tcpSocket",
		"initialDelaySeconds", "periodSeconds", "timeoutSeconds", "successThreshold", "failureThreshold",
	}
	configMapPaths = []string{
		"kind", "apiVersion", "data", "binaryData", "immutable",
		"metadata.name", "metadata.namespace", "metadata.labels", "metadata.annotations",
	}
	secretPaths = []string{
		"kind", "apiVersion", "data", "stringData", "type", "immutable",
		"metadata.name", "metadata.namespace", "metadata.labels", "metadata.annotations",
	}
)

// allowed is a set of paths: true where the whole tree is done, false where only something below is.
type allowed map[string]bool

func allow(paths ...string) allowed {
	a := allowed{}
	for _, p := range paths {
		for i, c := range p {
			if c == '.' || c == '[' {
				if _, there := a[p[:i]]; !there {
					a[p[:i]] = false
				}
			}
			if c == ']' && !a[p[:i+1]] {
				a[p[:i+1]] = false
			}
		}
		a[p] = true
	}
	return a
}

func supportedPod() allowed {
	paths := append([]string(nil), podPaths...)
	for _, list := range []string{"spec.containers[*].", "spec.initContainers[*]."} {
		for _, p := range containerPaths {
			paths = append(paths, list+p)
		}
		for _, kind := range []string{"livenessProbe.", "readinessProbe.", "startupProbe."} {
			for _, p := range probePaths {
				paths = append(paths, list+kind+p)
			}
		}
	}
	paths = append(paths, "spec.initContainers[*].restartPolicy")
	return allow(paths...)
}

// unsupported names every field of obj that is set and that Berth does not do.
func unsupported(obj any) []error {
	var a allowed
	switch obj.(type) {
	case *v1.Pod:
		a = supportedPod()
	case *v1.ConfigMap:
		a = allow(configMapPaths...)
	case *v1.Secret:
		a = allow(secretPaths...)
	}
	w := walker{allowed: a}
	w.walk("", "", reflect.ValueOf(obj).Elem())
	return w.errs
}

type walker struct {
	allowed allowed
	errs    []error
}

// walk visits v, found at path; pattern is the path with [*] for indexes.
func (w *walker) walk(path, pattern string, v reflect.Value) {
	if isUnset(v) {
		return
	}
	done, known := w.allowed[pattern]
	if pattern != "" && (done || harmless(pattern, v)) {
		return
	}
	if pattern != "" && !known {
		w.errs = append(w.errs, fmt.Errorf("%s: Berth does not do this yet; remove the field", path))
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		w.walk(path, pattern, v.Elem())
	case reflect.Slice:
		for i := range v.Len() {
			w.walk(fmt.Sprintf("%s[%d]", path, i), pattern+"[*]", v.Index(i))
		}
	case reflect.Struct:
		for i := range v.NumField() {
			name, inline := jsonName(v.Type().Field(i))
			switch {
			case name == "-":
			case inline:
				w.inline(path, pattern, v.Field(i))
			default:
				w.walk(join(path, name), join(pattern, name), v.Field(i))
			}
		}
	}
}

// inline visits the fields of an embedded struct as if they were the outer one's.
func (w *walker) inline(path, pattern string, v reflect.Value) {
	for i := range v.NumField() {
		name, inline := jsonName(v.Type().Field(i))
		if inline {
			w.inline(path, pattern, v.Field(i))
			continue
		}
		w.walk(join(path, name), join(pattern, name), v.Field(i))
	}
}

func jsonName(f reflect.StructField) (name string, inline bool) {
	name, opts, _ := strings.Cut(f.Tag.Get("json"), ",")
	if name == "" && (f.Anonymous || strings.Contains(opts, "inline")) {
		return "", true
	}
	if name == "" {
		name = f.Name
	}
	return name, false
}

// isUnset tells whether a field asks for nothing: zero, or empty as in "tolerations: []".
func isUnset(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Slice, reflect.Map:
		return v.Len() == 0
	case reflect.Struct:
		switch x := v.Interface().(type) {
		case metav1.Time:
			return x.IsZero()
		case resource.Quantity, intstr.IntOrString:
			return false
		}
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() && !isUnset(v.Field(i)) {
				return false
			}
		}
		return true
	case reflect.Pointer:
		// A pointer to an empty struct asks for something (emptyDir: {}); so does one to zero
		// (runAsUser: 0).
		return v.IsNil()
	}
	return v.IsZero()
}

// harmless values ask for what Berth does anyway, though the field is not done in general. Tools and
// people write them often.
func harmless(pattern string, v reflect.Value) bool {
	for v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	switch pattern {
	case "spec.automountServiceAccountToken", "spec.shareProcessNamespace", "spec.setHostnameAsFQDN":
		return v.Kind() == reflect.Bool && !v.Bool()
	case "spec.hostUsers":
		return v.Kind() == reflect.Bool && v.Bool()
	case "spec.serviceAccountName", "spec.serviceAccount":
		return v.String() == "default"
	case "spec.schedulerName":
		return v.String() == "default-scheduler"
	case "spec.os":
		return v.FieldByName("Name").String() == "linux"
	case "spec.containers[*].securityContext.procMount", "spec.initContainers[*].securityContext.procMount":
		return v.String() == string(v1.DefaultProcMount)
	}
	return false
}
