package checkpoint

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
)

// Names in the folder of a pod's checkpoint.
const (
	PodFile = "pod.json"
	ShmFile = "shm.tar"
)

// podVersion is the one version of the folder's format.
const podVersion = 1

// maxContainers bounds a pod.
const maxContainers = 4096

// Pod is pod.json. It is written last, so that a folder without it holds no checkpoint.
type Pod struct {
	Version    int            `json:"version"`
	Name       string         `json:"name"`
	Namespace  string         `json:"namespace"`
	UID        string         `json:"uid"`
	Containers []PodContainer `json:"containers"`
	// Shm is set if the pod's shared memory, /dev/shm, was written.
	Shm bool `json:"shm,omitempty"`
}

// PodContainer is a container of a pod and its archive, a name in the folder.
type PodContainer struct {
	Name    string `json:"name"`
	Archive string `json:"archive"`
}

// ArchiveName is what the archive of a pod's n-th container is called.
func ArchiveName(n int) string { return "container-" + strconv.Itoa(n) + ".tar" }

// WritePod writes pod.json.
func WritePod(ctx context.Context, dir string, p Pod) error {
	p.Version = podVersion
	b, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return err
	}
	return Place(ctx, filepath.Join(dir, PodFile), func(w io.Writer) error {
		_, err := w.Write(b)
		return err
	})
}

// ReadPod reads pod.json, which is not trusted.
func ReadPod(dir string) (Pod, error) {
	f, err := Open(filepath.Join(dir, PodFile))
	if err != nil {
		return Pod{}, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 1<<20))
	if err != nil {
		return Pod{}, err
	}
	return parsePod(b)
}

func parsePod(b []byte) (Pod, error) {
	var p Pod
	if err := json.Unmarshal(b, &p); err != nil {
		return Pod{}, fmt.Errorf("%s: %w: %w", PodFile, err, ErrArchive)
	}
	if p.Version != podVersion {
		return Pod{}, fmt.Errorf("%s: version %d is not known: %w", PodFile, p.Version, ErrArchive)
	}
	if n := len(p.Containers); n == 0 || n > maxContainers {
		return Pod{}, fmt.Errorf("%s: %d containers: %w", PodFile, n, ErrArchive)
	}
	var names []string
	for i, c := range p.Containers {
		if c.Archive != ArchiveName(i) || c.Name == "" || slices.Contains(names, c.Name) {
			return Pod{}, fmt.Errorf("%s: container %q in %q: %w", PodFile, c.Name, c.Archive, ErrArchive)
		}
		names = append(names, c.Name)
	}
	return p, nil
}

// CheckEmpty refuses a folder for a pod's checkpoint that is none, or is not empty.
func CheckEmpty(dir string) error {
	if !filepath.IsAbs(dir) {
		return fmt.Errorf("%q is no absolute path", dir)
	}
	st, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	if !st.IsDir() {
		return fmt.Errorf("%s is no folder", dir)
	}
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	switch _, err := f.ReadDir(1); {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		return err
	}
	return fmt.Errorf("%s is not empty", dir)
}
