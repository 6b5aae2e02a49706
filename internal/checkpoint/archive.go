package checkpoint

import (
	"archive/tar"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"time"
)

// Names in an archive.
const (
	ImagesFolder = "checkpoint"
	DumpLog      = "dump.log"
	ConfigFile   = "config.dump"
	SpecFile     = "spec.dump"
	DiffFile     = "rootfs-diff.tar"
	LogFile      = "container.log"
)

// Config is config.dump: the fields, and their names, are those that all runtimes of Kubernetes write.
type Config struct {
	ID              string    `json:"id"`
	Name            string    `json:"name"`
	RootfsImage     string    `json:"rootfsImage,omitempty"`
	RootfsImageRef  string    `json:"rootfsImageRef,omitempty"`
	RootfsImageName string    `json:"rootfsImageName,omitempty"`
	OCIRuntime      string    `json:"runtime,omitempty"`
	CreatedTime     time.Time `json:"createdTime"`
	CheckpointedAt  time.Time `json:"checkpointedTime"`
	RestoredAt      time.Time `json:"restoredTime"`
	Restored        bool      `json:"restored"`
}

// Content is what goes into an archive.
type Content struct {
	Config Config
	Spec   []byte // the OCI spec, JSON
	// Images is the folder with CRIU's images and its log (DumpLog).
	Images string
	// Diff is the file that Diff has written.
	Diff string
	// Log is the container's log, nil if it has none, of which the first LogSize bytes count.
	Log     *os.File
	LogSize int64
}

// Write writes an archive.
func Write(ctx context.Context, w io.Writer, c Content) error {
	a := &archive{ctx: ctx, tw: tar.NewWriter(w), now: c.Config.CheckpointedAt}
	config, err := json.MarshalIndent(c.Config, "", "  ")
	if err != nil {
		return err
	}
	if err := a.bytes(ConfigFile, config); err != nil {
		return err
	}
	if err := a.bytes(SpecFile, c.Spec); err != nil {
		return err
	}
	if err := a.images(c.Images); err != nil {
		return err
	}
	if err := a.path(DiffFile, c.Diff); err != nil {
		return err
	}
	if c.Log != nil {
		if err := a.file(LogFile, io.NewSectionReader(c.Log, 0, c.LogSize), c.LogSize); err != nil {
			return err
		}
	}
	return a.tw.Close()
}

type archive struct {
	ctx context.Context
	tw  *tar.Writer
	now time.Time
}

// images writes CRIU's files: its log beside the folder, the rest in it.
func (a *archive) images(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("read CRIU's images: %w", err)
	}
	hdr := &tar.Header{Typeflag: tar.TypeDir, Name: ImagesFolder + "/", Mode: 0o700, ModTime: a.now}
	if err := a.tw.WriteHeader(hdr); err != nil {
		return err
	}
	for _, e := range entries {
		name := path.Join(ImagesFolder, e.Name())
		if e.Name() == DumpLog {
			name = DumpLog
		}
		if !e.Type().IsRegular() {
			continue // a link of CRIU's to the images of an earlier checkpoint, of which there is none
		}
		if err := a.path(name, filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

func (a *archive) path(name, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	return a.file(name, f, st.Size())
}

func (a *archive) file(name string, r io.Reader, size int64) error {
	if err := a.header(name, size); err != nil {
		return err
	}
	if _, err := io.CopyN(a.tw, reader{a.ctx, r}, size); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

func (a *archive) bytes(name string, b []byte) error {
	if err := a.header(name, int64(len(b))); err != nil {
		return err
	}
	_, err := a.tw.Write(b)
	return err
}

func (a *archive) header(name string, size int64) error {
	return a.tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o600, Size: size, ModTime: a.now})
}
