package kubelet

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/11f9778f/berth/internal/failpoint"
	"github.com/11f9778f/berth/internal/kubelet/lifecycle"
	"github.com/11f9778f/berth/internal/kubelet/volume"
)

// record is what of a pod outlives the daemon: <root>/kubelet/pods/<uid>/pod.json. It is the first thing of a pod
// that is written and the last that is removed.
type record struct {
	Version    int             `json:"version"`
	Created    time.Time       `json:"created"`
	Pod        *v1.Pod         `json:"pod"` // as it was asked for, defaults set; its status is empty
	ConfigMaps []*v1.ConfigMap `json:"configMaps,omitempty"`
	Secrets    []*v1.Secret    `json:"secrets,omitempty"`
	// Deletion is set once the pod shall go.
	Deletion *lifecycle.Deletion `json:"deletion,omitempty"`
	// Final is the status of a pod that has run to its end.
	Final *v1.PodStatus `json:"final,omitempty"`
}

const (
	recordVersion = 1
	recordFile    = "pod.json"
	// maxRecord bounds what is read back, in bytes: a manifest and what defaults add to it.
	maxRecord = 32 << 20
)

// paths are the folders of one kubelet.
type paths struct {
	pods string // <root>/kubelet/pods
	logs string // <root>/logs/pods
}

func (p paths) pod(uid string) string { return filepath.Join(p.pods, uid) }

// podLogs is where the logs of a pod go, as with a kubelet: <namespace>_<name>_<uid>.
func (p paths) podLogs(pod *v1.Pod) string {
	return filepath.Join(p.logs, pod.Namespace+"_"+pod.Name+"_"+string(pod.UID))
}

// save writes the record so that after a power cut there is the old one or the new one.
func (p paths) save(r *record) error {
	dir := p.pod(string(r.Pod.UID))
	if err := failpoint.Here("kubelet/persist/before"); err != nil {
		return err
	}
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	made := false
	if err := os.Mkdir(dir, 0o750); err == nil {
		made = true
	} else if !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := writeSynced(filepath.Join(dir, recordFile), data); err != nil {
		return fmt.Errorf("persist pod %s/%s: %w", r.Pod.Namespace, r.Pod.Name, err)
	}
	if made {
		if err := syncDir(p.pods); err != nil {
			return err
		}
	}
	return failpoint.Here("kubelet/persist/after")
}

// writeSynced replaces a file: data, rename, folder, each on disk before the next.
func writeSynced(path string, data []byte) error {
	tmp := path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = failpoint.Here("kubelet/persist/rename")
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		os.Remove(tmp)
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// load reads every record. A folder without one is what a crash left of a pod that was never acknowledged, or
// that was removed: it is taken away. A record that can't be read is an error: its pod must not be forgotten.
func (p paths) load() ([]*record, error) {
	for _, dir := range []string{p.pods, p.logs} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	entries, err := os.ReadDir(p.pods)
	if err != nil {
		return nil, err
	}
	var out []*record
	for _, e := range entries {
		dir := p.pod(e.Name())
		r, err := readRecord(filepath.Join(dir, recordFile))
		if errors.Is(err, fs.ErrNotExist) {
			if err := volume.RemoveStray(dir); err != nil {
				return nil, fmt.Errorf("remove what is left of pod %s: %w", e.Name(), err)
			}
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w (repair or remove it)", filepath.Join(dir, recordFile), err)
		}
		os.Remove(filepath.Join(dir, recordFile+".tmp"))
		out = append(out, r)
	}
	return out, nil
}

func readRecord(path string) (*record, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var r record
	if err := json.NewDecoder(io.LimitReader(f, maxRecord)).Decode(&r); err != nil {
		return nil, err
	}
	if r.Version != recordVersion || r.Pod == nil {
		return nil, fmt.Errorf("it is of version %d, this Berth reads version %d", r.Version, recordVersion)
	}
	return &r, nil
}

// remove takes away a pod's files, its record last. It can be called again after a crash at any point.
func (p paths) remove(r *record) error {
	dir := p.pod(string(r.Pod.UID))
	v := volume.Pod{Dir: dir, Pod: r.Pod}
	if err := v.Remove(); err != nil {
		return err
	}
	steps := []struct {
		name string
		path string
	}{
		{"kubelet/remove/logs", p.podLogs(r.Pod)},
		{"kubelet/remove/containers", filepath.Join(dir, "containers")},
		{"kubelet/remove/hosts", filepath.Join(dir, hostsFile)},
		{"kubelet/remove/record", filepath.Join(dir, recordFile)},
		{"kubelet/remove/dir", dir},
	}
	for _, s := range steps {
		if err := failpoint.Here(s.name); err != nil {
			return err
		}
		if err := os.RemoveAll(s.path); err != nil {
			return fmt.Errorf("remove %s: %w", s.path, err)
		}
	}
	return failpoint.Here("kubelet/remove/after")
}
