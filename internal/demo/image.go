package demo

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"fmt"
	"io"
	"os"
	"runtime"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

const (
	// Reference is the name under which manifests ask for the demo image.
	Reference = "berth.local/demo:latest"
	// IdentityLabel is the image label that holds Identity of the binary inside.
	IdentityLabel = "local.berth.demo.identity"
)

// Identity names the content of the Go binary at path without reading all of it: its Go build ID
// and its size.
func Identity(path string) (string, error) {
	st, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("identify demo binary: %w", err)
	}
	f, err := elf.Open(path)
	if err != nil {
		return "", fmt.Errorf("identify demo binary %s: %w", path, err)
	}
	defer f.Close()
	note := f.Section(".note.go.buildid")
	if note == nil {
		return "", fmt.Errorf("identify demo binary %s: no Go build ID in it", path)
	}
	id, err := note.Data()
	if err != nil {
		return "", fmt.Errorf("identify demo binary %s: %w", path, err)
	}
	const header = 16 // name size, description size, type, "Go\0\0"
	if len(id) <= header {
		return "", fmt.Errorf("identify demo binary %s: Go build ID is cut short", path)
	}
	return fmt.Sprintf("%s-%d", bytes.TrimRight(id[header:], "\x00"), st.Size()), nil
}

// Image makes the demo image from the static binary at path, which must stay as it is for as long
// as the image is read: the layer is a stream over the file, not a copy of it.
func Image(path string) (v1.Image, error) {
	id, err := Identity(path)
	if err != nil {
		return nil, err
	}
	layer, err := newLayer(path)
	if err != nil {
		return nil, err
	}
	img := mutate.MediaType(empty.Image, types.OCIManifestSchema1)
	img = mutate.ConfigMediaType(img, types.OCIConfigJSON)
	img, err = mutate.Append(img, mutate.Addendum{
		Layer:   layer,
		History: v1.History{CreatedBy: "berth demo", Comment: "/berth from berth's own binary", Created: v1.Time{Time: epoch}},
	})
	if err != nil {
		return nil, fmt.Errorf("append demo layer: %w", err)
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("read demo image configuration: %w", err)
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture = "linux", runtime.GOARCH
	cfg.Created = v1.Time{Time: epoch}
	cfg.Config.Entrypoint = []string{"/berth"}
	cfg.Config.Cmd = []string{"demo"}
	cfg.Config.Env = []string{"PATH=/"}
	cfg.Config.WorkingDir = "/"
	cfg.Config.Labels = map[string]string{IdentityLabel: id}
	if img, err = mutate.ConfigFile(img, cfg); err != nil {
		return nil, fmt.Errorf("configure demo image: %w", err)
	}
	return img, nil
}

// epoch is the time of every file in the image, so that one binary makes one digest.
var epoch = time.Unix(0, 0).UTC()

type file struct {
	name string
	mode int64
	body string
}

// small is what the layer has besides the binary. A name that ends in / is a directory.
var small = []file{
	{"etc/", 0o755, ""},
	{"etc/passwd", 0o644, "root:x:0:0:root:/:/berth\nnobody:x:65534:65534:nobody:/:/berth\n"},
	{"etc/group", 0o644, "root:x:0:\nnogroup:x:65534:\n"},
	{"tmp/", 0o1777, ""},
}

// writeLayer writes the layer's tar archive to w.
func writeLayer(w io.Writer, path string) error {
	bin, err := os.Open(path)
	if err != nil {
		return err
	}
	defer bin.Close()
	st, err := bin.Stat()
	if err != nil {
		return err
	}
	tw := tar.NewWriter(w)
	for _, f := range small {
		kind := byte(tar.TypeReg)
		if f.name[len(f.name)-1] == '/' {
			kind = tar.TypeDir
		}
		if err := tw.WriteHeader(&tar.Header{Typeflag: kind, Name: f.name, Mode: f.mode, Size: int64(len(f.body)), ModTime: epoch}); err != nil {
			return err
		}
		if _, err := io.WriteString(tw, f.body); err != nil {
			return err
		}
	}
	if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "berth", Mode: 0o755, Size: st.Size(), ModTime: epoch}); err != nil {
		return err
	}
	if _, err := io.Copy(tw, bin); err != nil {
		return err
	}
	return tw.Close()
}
