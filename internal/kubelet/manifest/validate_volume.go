package manifest

import (
	"fmt"
	"path"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

// volumes checks the pod's volumes and returns their names.
func (c *checker) volumes(volumes []v1.Volume) map[string]bool {
	names := map[string]bool{}
	for i := range volumes {
		v := &volumes[i]
		at := fmt.Sprintf("spec.volumes[%d]", i)
		switch {
		case v.Name == "":
			c.add(at+".name", "a name is needed")
		case names[v.Name]:
			c.add(at+".name", "%q is used twice", v.Name)
		default:
			c.all(at+".name", v.Name, validation.IsDNS1123Label(v.Name))
		}
		names[v.Name] = true
		n := 0
		if v.EmptyDir != nil {
			n++
			c.emptyDir(at+".emptyDir", v.EmptyDir)
		}
		if v.HostPath != nil {
			n++
			c.hostPath(at+".hostPath", v.HostPath)
		}
		if s := v.ConfigMap; s != nil {
			n++
			c.ref(at+".configMap", configMapKind, s.Name, "", s.Optional)
			c.items(at+".configMap", configMapKind, s.Name, s.Items, s.DefaultMode, s.Optional)
		}
		if s := v.Secret; s != nil {
			n++
			c.secretVolume(at+".secret", s)
		}
		if n != 1 {
			c.add(at, "exactly one of emptyDir, hostPath, configMap and secret is needed")
		}
	}
	return names
}

func (c *checker) secretVolume(at string, s *v1.SecretVolumeSource) {
	if s.SecretName == "" {
		c.add(at+".secretName", "a name is needed")
		return
	}
	c.ref(at, secretKind, s.SecretName, "", s.Optional)
	c.items(at, secretKind, s.SecretName, s.Items, s.DefaultMode, s.Optional)
}

func (c *checker) emptyDir(at string, e *v1.EmptyDirVolumeSource) {
	switch e.Medium {
	case v1.StorageMediumDefault, v1.StorageMediumMemory:
	default:
		c.add(at+".medium", "%q is neither empty nor Memory", e.Medium)
	}
	if e.SizeLimit == nil {
		return
	}
	if e.SizeLimit.Sign() < 0 {
		c.add(at+".sizeLimit", "%s is negative", e.SizeLimit.String())
	}
	if e.Medium == v1.StorageMediumDefault {
		c.add(at+".sizeLimit", "Berth does not watch the size of an emptyDir on disk yet; use medium Memory or remove the limit")
	}
}

func (c *checker) hostPath(at string, h *v1.HostPathVolumeSource) {
	switch {
	case !path.IsAbs(h.Path):
		c.add(at+".path", "%q is not an absolute path", h.Path)
	case hasDotDot(h.Path):
		c.add(at+".path", "%q holds ..", h.Path)
	}
	if h.Type == nil {
		return
	}
	switch *h.Type {
	case v1.HostPathUnset, v1.HostPathDirectoryOrCreate, v1.HostPathDirectory, v1.HostPathFileOrCreate,
		v1.HostPathFile, v1.HostPathSocket, v1.HostPathCharDev, v1.HostPathBlockDev:
	default:
		c.add(at+".type", "%q is no type of host path", *h.Type)
	}
}

// items checks the keys of a configMap or secret volume that are chosen, and where they go.
func (c *checker) items(at, kind, name string, items []v1.KeyToPath, mode *int32, optional *bool) {
	c.mode(at+".defaultMode", mode)
	for i, it := range items {
		where := fmt.Sprintf("%s.items[%d]", at, i)
		if it.Key == "" {
			c.add(where+".key", "a key is needed")
		} else if keys, found := c.keysOf(kind, name); found && !keys[it.Key] && (optional == nil || !*optional) {
			c.add(where+".key", "%s %q has no key %q", kind, name, it.Key)
		}
		c.mode(where+".mode", it.Mode)
		if it.Path == "" || path.IsAbs(it.Path) || hasDotDot(it.Path) || strings.HasPrefix(it.Path, "..") || path.Clean(it.Path) == "." {
			c.add(where+".path", "%q must be a relative path without ..", it.Path)
		}
	}
}

func (c *checker) mode(at string, mode *int32) {
	if mode != nil && (*mode < 0 || *mode > 0o777) {
		c.add(at, "%d (octal %#o) is not between 0 and 0777", *mode, *mode)
	}
}

func (c *checker) mounts(at string, ctr *v1.Container, volumes map[string]bool) {
	paths := map[string]bool{}
	for i, m := range ctr.VolumeMounts {
		where := fmt.Sprintf("%s.volumeMounts[%d]", at, i)
		if !volumes[m.Name] {
			c.add(where+".name", "the pod has no volume %q", m.Name)
		}
		clean := path.Clean(m.MountPath)
		switch {
		case m.MountPath == "":
			c.add(where+".mountPath", "a path is needed")
		case !path.IsAbs(m.MountPath) || hasDotDot(m.MountPath):
			c.add(where+".mountPath", "%q must be an absolute path without ..", m.MountPath)
		case clean == "/":
			c.add(where+".mountPath", "a volume can't take the place of the root directory")
		case paths[clean]:
			c.add(where+".mountPath", "%q is used twice", m.MountPath)
		}
		paths[clean] = true
	}
}

func hasDotDot(p string) bool {
	for _, part := range strings.Split(p, "/") {
		if part == ".." {
			return true
		}
	}
	return false
}
