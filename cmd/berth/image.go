package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/11f9778f/berth/internal/image"
)

func (c *cli) imageCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "image",
		Short: "Look after the images in the store",
		Example: "  berth image pull docker.io/library/busybox:1.36\n  berth image import busybox.tar\n" +
			"  berth image ls\n  berth image rm busybox:1.36",
	}
	cmd.AddCommand(c.imageLs("ls"), c.imagePull(), c.imageImport(), c.imageRm(), c.imageInspect(), c.imageExplain())
	return cmd
}

// imagesCommand is `berth image ls` for short.
func (c *cli) imagesCommand() *cobra.Command { return c.imageLs("images") }

// withNode runs f with a node, started for it if there is none.
func (c *cli) withNode(ctx context.Context, f func(*handle) error) error {
	h, err := c.ensureNode(ctx)
	if err != nil {
		return err
	}
	err = f(h)
	if late := h.release(context.WithoutCancel(ctx)); err == nil {
		err = late
	}
	return err
}

func (c *cli) imageLs(use string) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   use,
		Short: "List the images in the store",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.withNode(cmd.Context(), func(h *handle) error {
				images, err := h.node.Images(cmd.Context())
				if err != nil {
					return err
				}
				if output == "json" {
					return writeJSON(c.out, images)
				}
				rows := [][]string{{"IMAGE", "ID", "PLATFORM", "SIZE", "AGE"}}
				for i := range images {
					rows = append(rows, imageRows(&images[i])...)
				}
				return table(c.out, rows)
			})
		},
	}
	outputFlag(cmd, &output, "json")
	return cmd
}

// imageRows is a row for each name of an image.
func imageRows(img *image.Image) [][]string {
	names := img.RepoTags
	if len(names) == 0 {
		names = img.RepoDigests
	}
	if len(names) == 0 {
		names = []string{"-"}
	}
	var rows [][]string
	for _, n := range names {
		rows = append(rows, []string{n, shortID(img), img.Config.OS + "/" + img.Config.Architecture, size(img.Size), age(img.Pulled, time.Now())})
	}
	return rows
}

func shortID(img *image.Image) string {
	_, hex, _ := strings.Cut(img.ID.String(), ":")
	return hex[:min(12, len(hex))]
}

func (c *cli) imagePull() *cobra.Command {
	return &cobra.Command{
		Use:     "pull IMAGE…",
		Short:   "Fetch images from their registries",
		Example: "  berth image pull docker.io/library/busybox:1.36\n  berth image pull 127.0.0.1:5000/app@sha256:…",
		Args:    needArgs(1, "the name of an image"),
		RunE: func(cmd *cobra.Command, args []string) error {
			v := newView(c, false)
			return c.withNode(cmd.Context(), func(h *handle) error {
				for _, ref := range args {
					began := time.Now()
					images, err := h.node.Pull(cmd.Context(), ref, func(p image.Progress) { v.pull(ref, p) })
					v.progress(ref, 0, 0, "", true)
					if err != nil {
						return err
					}
					for i := range images {
						v.note("%s pulled in %s (%s, ID %s)", ref, milliseconds(time.Since(began)), size(images[i].Size), shortID(&images[i]))
					}
				}
				return nil
			})
		},
	}
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

func (c *cli) imageImport() *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:     "import FILE…",
		Short:   "Take images from archives (docker save, OCI layout); - is standard input",
		Example: "  berth image import busybox.tar\n  docker save app:1 | berth image import -",
		Args:    needArgs(1, "the name of an archive"),
		RunE: func(cmd *cobra.Command, args []string) error {
			v := newView(c, false)
			return c.withNode(cmd.Context(), func(h *handle) error {
				for _, file := range args {
					images, err := c.importFile(cmd.Context(), h, v, name, file)
					if err != nil {
						return err
					}
					for i := range images {
						fmt.Fprintf(c.out, "imported %s (ID %s)\n", strings.Join(images[i].RepoTags, ", "), shortID(&images[i]))
					}
				}
				return nil
			})
		},
	}
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

func (c *cli) imageRm() *cobra.Command {
	return &cobra.Command{
		Use:   "rm IMAGE…",
		Short: "Remove images, by name or ID, with all their names",
		Args:  needArgs(1, "the name or ID of an image"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.withNode(cmd.Context(), func(h *handle) error {
				for _, ref := range args {
					if err := h.node.RemoveImage(cmd.Context(), ref); err != nil {
						return err
					}
					fmt.Fprintf(c.out, "removed %s\n", ref)
				}
				return nil
			})
		},
	}
}

func (c *cli) imageInspect() *cobra.Command {
	return &cobra.Command{
		Use:   "inspect IMAGE…",
		Short: "Print all that the store knows of images, as JSON",
		Args:  needArgs(1, "the name or ID of an image"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.withNode(cmd.Context(), func(h *handle) error {
				out := []image.Image{}
				for _, ref := range args {
					img, err := h.node.Image(cmd.Context(), ref)
					if err != nil {
						return err
					}
					out = append(out, img)
				}
				return writeJSON(c.out, out)
			})
		},
	}
}
