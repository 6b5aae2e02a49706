package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	v1 "k8s.io/api/core/v1"

	"github.com/11f9778f/berth/internal/failpoint"
	"github.com/11f9778f/berth/internal/kubelet/manifest"
	"github.com/11f9778f/berth/internal/sys"
)

// Pod is whose volumes are meant.
type Pod struct {
	// Dir is the pod's own directory.
	Dir        string
	Pod        *v1.Pod
	ConfigMaps []*v1.ConfigMap
	Secrets    []*v1.Secret
}

// Path is where a volume is on the node. It does not look whether it is there.
func (p *Pod) Path(v *v1.Volume) string {
	plugin := ""
	switch {
	case v.HostPath != nil:
		return v.HostPath.Path
	case v.EmptyDir != nil:
		plugin = "kubernetes.io~empty-dir"
	case v.ConfigMap != nil:
		plugin = "kubernetes.io~configmap"
	case v.Secret != nil:
		plugin = "kubernetes.io~secret"
	}
	return filepath.Join(p.Dir, "volumes", plugin, v.Name)
}

// Prepare makes every volume of the pod.
func (p *Pod) Prepare() error {
	for i := range p.Pod.Spec.Volumes {
		v := &p.Pod.Spec.Volumes[i]
		if err := p.prepare(v); err != nil {
			return fmt.Errorf("volume %q: %w", v.Name, err)
		}
	}
	return nil
}

func (p *Pod) prepare(v *v1.Volume) error {
	if v.HostPath != nil {
		return checkHostPath(v.HostPath)
	}
	dir := p.Path(v)
	if err := os.MkdirAll(filepath.Dir(dir), 0o750); err != nil {
		return err
	}
	switch {
	case v.EmptyDir != nil:
		return p.emptyDir(v.EmptyDir, dir)
	case v.ConfigMap != nil:
		files, err := p.configMapFiles(v.ConfigMap)
		if err != nil {
			return err
		}
		return project(dir, files, p.fsGroup())
	case v.Secret != nil:
		files, err := p.secretFiles(v.Secret)
		if err != nil {
			return err
		}
		return project(dir, files, p.fsGroup())
	}
	return errors.New("it has no source")
}

func (p *Pod) fsGroup() *int64 {
	if s := p.Pod.Spec.SecurityContext; s != nil {
		return s.FSGroup
	}
	return nil
}

// emptyDir makes the directory, which everybody may write as in Kubernetes. Once it is finished, which a
// marker beside it tells, it is left as it is, with what containers have made of it.
func (p *Pod) emptyDir(e *v1.EmptyDirVolumeSource, dir string) error {
	if err := failpoint.Here("kubelet/volume/before"); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	marker := filepath.Join(filepath.Dir(dir), "."+filepath.Base(dir)+".ready") // no volume is called so
	_, err := os.Lstat(marker)
	ready := err == nil
	if e.Medium == v1.StorageMediumMemory {
		mounted, err := mountMemory(e, dir)
		if err != nil {
			return err
		}
		ready = ready && !mounted
	}
	if err := failpoint.Here("kubelet/volume/after"); err != nil || ready {
		return err
	}
	mode := fs.FileMode(0o777) // Mkdir's went through the umask
	if g := p.fsGroup(); g != nil {
		if err := os.Lchown(dir, -1, int(*g)); err != nil {
			return err
		}
		mode |= fs.ModeSetgid
	}
	if err := os.Chmod(dir, mode); err != nil {
		return err
	}
	return os.WriteFile(marker, nil, 0o600)
}

// mountMemory mounts the tmpfs of an emptyDir and tells whether it had to: after a reboot it has.
func mountMemory(e *v1.EmptyDirVolumeSource, dir string) (bool, error) {
	if there, err := sys.IsMountPoint(dir); there || err != nil {
		return false, err
	}
	size := int64(0)
	if e.SizeLimit != nil {
		size = e.SizeLimit.Value()
	}
	if err := sys.MountTmpfs(dir, size, 0o777); err != nil {
		return false, fmt.Errorf("%w (an emptyDir of medium Memory needs root)", err)
	}
	return true, nil
}

// checkHostPath sees that the path is what its type says, and makes it where the type says so.
func checkHostPath(h *v1.HostPathVolumeSource) error {
	want := v1.HostPathUnset
	if h.Type != nil {
		want = *h.Type
	}
	if want == v1.HostPathUnset {
		return nil
	}
	info, err := os.Stat(h.Path)
	if errors.Is(err, fs.ErrNotExist) {
		switch want {
		case v1.HostPathDirectoryOrCreate:
			return os.MkdirAll(h.Path, 0o755)
		case v1.HostPathFileOrCreate:
			f, err := os.OpenFile(h.Path, os.O_CREATE|os.O_RDONLY, 0o644)
			if err != nil {
				return err
			}
			return f.Close()
		}
		return fmt.Errorf("hostPath %s does not exist; its type is %s", h.Path, want)
	}
	if err != nil {
		return err
	}
	mode := info.Mode()
	ok := map[v1.HostPathType]bool{
		v1.HostPathDirectoryOrCreate: mode.IsDir(),
		v1.HostPathDirectory:         mode.IsDir(),
		v1.HostPathFileOrCreate:      mode.IsRegular(),
		v1.HostPathFile:              mode.IsRegular(),
		v1.HostPathSocket:            mode&fs.ModeSocket != 0,
		v1.HostPathCharDev:           mode&fs.ModeCharDevice != 0,
		v1.HostPathBlockDev:          mode&fs.ModeDevice != 0 && mode&fs.ModeCharDevice == 0,
	}
	if !ok[want] {
		return fmt.Errorf("hostPath %s is a %s; its type should be %s", h.Path, mode.Type(), want)
	}
	return nil
}

// Remove takes away every volume: first what is mounted, then the files. Nothing of a hostPath is touched.
func (p *Pod) Remove() error {
	for i := range p.Pod.Spec.Volumes {
		v := &p.Pod.Spec.Volumes[i]
		if v.EmptyDir == nil || v.EmptyDir.Medium != v1.StorageMediumMemory {
			continue
		}
		if err := failpoint.Here("kubelet/unmount/before"); err != nil {
			return err
		}
		if err := sys.UnmountFolder(p.Path(v)); err != nil {
			return fmt.Errorf("volume %q: %w", v.Name, err)
		}
		if err := failpoint.Here("kubelet/unmount/after"); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(filepath.Join(p.Dir, "volumes")); err != nil {
		return fmt.Errorf("remove the volumes: %w", err)
	}
	return nil
}

// RemoveStray takes away the volumes of a pod directory whose record is lost: everything that is mounted
// below it, then its files.
func RemoveStray(dir string) error {
	mounts, err := filepath.Glob(filepath.Join(dir, "volumes", "kubernetes.io~empty-dir", "*"))
	if err != nil {
		return err
	}
	for _, m := range mounts {
		if err := sys.UnmountFolder(m); err != nil {
			return err
		}
	}
	return os.RemoveAll(dir)
}

func (p *Pod) configMapFiles(s *v1.ConfigMapVolumeSource) (map[string]file, error) {
	data := map[string][]byte{}
	cm := manifest.FindConfigMap(p.ConfigMaps, p.Pod.Namespace, s.Name)
	optional := s.Optional != nil && *s.Optional
	if cm == nil && !optional {
		return nil, fmt.Errorf("there is no ConfigMap %q", s.Name)
	}
	if cm != nil {
		for k, v := range cm.Data {
			data[k] = []byte(v)
		}
		for k, v := range cm.BinaryData {
			data[k] = v
		}
	}
	return choose(data, s.Items, s.DefaultMode, optional)
}

func (p *Pod) secretFiles(s *v1.SecretVolumeSource) (map[string]file, error) {
	secret := manifest.FindSecret(p.Secrets, p.Pod.Namespace, s.SecretName)
	optional := s.Optional != nil && *s.Optional
	if secret == nil && !optional {
		return nil, fmt.Errorf("there is no Secret %q", s.SecretName)
	}
	var data map[string][]byte
	if secret != nil {
		data = secret.Data
	}
	return choose(data, s.Items, s.DefaultMode, optional)
}

// choose returns the files of a volume by their path in it: those that items name, or all.
func choose(data map[string][]byte, items []v1.KeyToPath, defaultMode *int32, optional bool) (map[string]file, error) {
	mode := fs.FileMode(0o644)
	if defaultMode != nil {
		mode = fs.FileMode(*defaultMode)
	}
	files := map[string]file{}
	if items == nil {
		for k, v := range data {
			files[k] = file{v, mode}
		}
		return files, nil
	}
	for _, it := range items {
		v, there := data[it.Key]
		if !there {
			if optional {
				continue
			}
			return nil, fmt.Errorf("there is no key %q", it.Key)
		}
		m := mode
		if it.Mode != nil {
			m = fs.FileMode(*it.Mode)
		}
		files[filepath.Clean(it.Path)] = file{v, m}
	}
	return files, nil
}
