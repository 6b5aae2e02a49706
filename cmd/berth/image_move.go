package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/11f9778f/berth/internal/image"
)

func (c *cli) imagePull() *cobra.Command {
	v := newView(c, false)
	return imageVerb(c, &cobra.Command{
		Use:   "pull IMAGE…",
		Short: "Fetch images from their registries",
		Long: "Fetch images from their registries. Mirrors and certificates come from images.registry_dirs in the configuration,\n" +
			"credentials from Docker's configuration; berth image explain says what a pull would do.",
		Example: "  berth image pull docker.io/library/busybox:1.36\n  berth image pull 127.0.0.1:5000/app@sha256:…",
		Args:    needArgs(1, "the name of an image"),
	}, func(ctx context.Context, h *handle, args []string) ([]image.Image, error) {
		return each(args, func(ref string) (image.Image, error) {
			began := time.Now()
			images, err := h.node.Pull(ctx, ref, func(p image.Progress) { v.pull(ref, p) })
			v.progress(ref, 0, 0, "", true)
			if err != nil {
				return image.Image{}, err
			}
			v.note("%s pulled in %s (%s, ID %s)", ref, milliseconds(time.Since(began)), size(images[0].Size), shortID(&images[0]))
			return images[0], nil
		})
	}, func([]image.Image) error { return nil })
}

// pull shows how far a pull is.
func (v *view) pull(ref string, p image.Progress) {
	var have, all int64
	done := 0
	for _, l := range p.Layers {
		have += l.Downloaded
		all += l.Size
		if l.Phase == image.PhaseDone || l.Phase == image.PhaseExists {
			done++
		}
	}
	v.progress(ref, have, all, fmt.Sprintf("%d of %d layers", done, len(p.Layers)), p.Phase == image.PhaseDone || p.Phase == image.PhaseFailed)
}

// pushed is what a push has done.
type pushed struct{ Image, Pushed string }

func (c *cli) imagePush() *cobra.Command {
	v := newView(c, false)
	return imageVerb(c, &cobra.Command{
		Use:   "push IMAGE [NAME]",
		Short: "Upload an image to a registry, under its own name or another",
		Long: "Upload an image to the registry that its name says, or that NAME says. What the registry has is not sent again.\n" +
			"It prints the full name with the digest.",
		Example: "  berth image push 127.0.0.1:5000/app:1\n  berth image push app:1 registry.example/team/app:1",
		Args: func(cmd *cobra.Command, args []string) error {
			if err := needArgs(1, "the name of an image")(cmd, args); err != nil {
				return err
			}
			return cobra.MaximumNArgs(2)(cmd, args)
		},
	}, func(ctx context.Context, h *handle, args []string) (pushed, error) {
		to := ""
		if len(args) > 1 {
			to = args[1]
		}
		name, err := h.node.PushImage(ctx, args[0], to, func(done, all int64) { v.progress(args[0], done, all, "", false) })
		v.progress(args[0], 0, 0, "", true)
		return pushed{args[0], name}, err
	}, func(p pushed) error {
		_, err := fmt.Fprintln(c.out, p.Pushed)
		return err
	})
}

func (c *cli) imageImport() *cobra.Command {
	var name string
	v := newView(c, false)
	cmd := imageVerb(c, &cobra.Command{
		Use:     "import FILE…",
		Short:   "Take images from archives (docker save, OCI layout); - is standard input",
		Example: "  berth image import busybox.tar\n  docker save app:1 | berth image import -",
		Args:    needArgs(1, "the name of an archive"),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return []string{"tar", "gz", "tgz", "zst"}, cobra.ShellCompDirectiveFilterFileExt
		},
	}, func(ctx context.Context, h *handle, args []string) ([]image.Image, error) {
		all := []image.Image{}
		for _, file := range args {
			images, err := c.importFile(ctx, h, v, name, file)
			if err != nil {
				return nil, err
			}
			all = append(all, images...)
		}
		return all, nil
	}, func(images []image.Image) error {
		for i := range images {
			fmt.Fprintf(c.out, "imported %s (ID %s)\n", strings.Join(images[i].RepoTags, ", "), shortID(&images[i]))
		}
		return nil
	})
	cmd.Flags().StringVar(&name, "name", "", "name for an image whose archive has none")
	return cmd
}

func (c *cli) importFile(ctx context.Context, h *handle, v *view, name, file string) ([]image.Image, error) {
	var r io.Reader = c.in
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		r = f
	}
	defer v.progress(file, 0, 0, "", true)
	return h.node.Import(ctx, name, r, func(p image.Progress) { v.pull(file, p) })
}

// exported is what an export has done.
type exported struct {
	File   string
	Bytes  int64
	Images []string
}

func (c *cli) imageExport() *cobra.Command {
	var file string
	cmd := imageVerb(c, &cobra.Command{
		Use:   "export IMAGE… --file FILE",
		Short: "Write images into one archive that docker, podman, skopeo and berth can read",
		Long: "Write images into one tar that is both an OCI image layout and what docker save writes: docker load, podman load,\n" +
			"skopeo, ctr images import and berth image import take it. The same images make the same bytes.",
		Example: "  berth image export app:1 --file app.tar\n  berth image export app:1 --file - | docker load",
		Args:    needArgs(1, "the name or ID of an image"),
		PreRunE: func(cmd *cobra.Command, _ []string) error {
			if file == "-" && cmd.Flag("output").Changed {
				return fail("write the archive into a file", "the archive and what -o prints can't both go to standard output")
			}
			return nil
		},
	}, func(ctx context.Context, h *handle, args []string) (exported, error) {
		n, err := c.exportTo(ctx, h, file, args)
		return exported{file, n, args}, err
	}, func(e exported) error {
		if e.File != "-" {
			fmt.Fprintf(c.out, "wrote %s (%s)\n", e.File, size(e.Bytes))
		}
		return nil
	})
	cmd.Flags().StringVarP(&file, "file", "f", "", "the archive; - is standard output")
	cmd.MarkFlagRequired("file")
	cmd.MarkFlagFilename("file", "tar")
	return cmd
}

// exportTo writes the archive. A file gets its name when it is whole.
func (c *cli) exportTo(ctx context.Context, h *handle, file string, refs []string) (int64, error) {
	if file == "-" {
		w := &counter{w: c.out}
		err := h.node.ExportImages(ctx, w, refs...)
		return w.n, err
	}
	f, err := os.CreateTemp(filepath.Dir(file), ".berth-export-")
	if err != nil {
		return 0, err
	}
	defer os.Remove(f.Name()) // it is not there any more if all went well
	defer f.Close()
	w := &counter{w: f}
	if err := h.node.ExportImages(ctx, w, refs...); err != nil {
		return w.n, err
	}
	if err := f.Chmod(0o644); err != nil {
		return w.n, err
	}
	if err := f.Close(); err != nil {
		return w.n, err
	}
	return w.n, os.Rename(f.Name(), file)
}

// counter counts what goes through it.
type counter struct {
	w io.Writer
	n int64
}

// Write implements io.Writer.
func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}
