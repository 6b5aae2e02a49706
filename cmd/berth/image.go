package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/11f9778f/berth/internal/image"
)

func (c *cli) imageCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "image",
		Short: "Look after the images in the store",
		Long: "Look after the images in the store. Every verb takes names (busybox is docker.io/library/busybox:latest),\n" +
			"IDs or their first digits, and -o json.\n\n" +
			"Several can share a store as namespaces, as containerd has them: each sees its own names, pins and users, while\n" +
			"bytes and unpacked layers are there once. Pods and kubelets are in k8s.io, which is where these verbs work unless\n" +
			"-n says another.",
		Example: "  berth image pull docker.io/library/busybox:1.36\n  berth image import busybox.tar\n" +
			"  berth image ls\n  berth image tag busybox:1.36 127.0.0.1:5000/busybox:1\n  berth image push 127.0.0.1:5000/busybox:1\n  berth image rm busybox:1.36",
	}
	register(cmd.PersistentFlags(), imageSettings)
	cmd.AddCommand(c.imageLs("ls"), c.imageInspect(), c.imageExplain(), c.imageRm(),
		c.imagePull(), c.imagePush(), c.imageImport(), c.imageExport(),
		c.imageTag(), c.imageUntag(), c.imagePin(true), c.imagePin(false), c.imagePrune())
	return cmd
}

// imagesCommand is `berth image ls` for short.
func (c *cli) imagesCommand() *cobra.Command {
	cmd := c.imageLs("images")
	register(cmd.Flags(), imageSettings)
	return cmd
}

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

// imageVerb gives cmd what the verbs on images have in common: a node, -o json, and completion with the names
// that are here. run returns what -o json prints; print is for people.
func imageVerb[T any](c *cli, cmd *cobra.Command, run func(ctx context.Context, h *handle, args []string) (T, error), print func(T) error) *cobra.Command {
	var output string
	if cmd.ValidArgsFunction == nil {
		cmd.ValidArgsFunction = c.completeImages
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		l, err := c.load(cmd, imageSettings)
		if err != nil {
			return err
		}
		return c.withNode(cmd.Context(), func(h *handle) error {
			h.node.Namespace = l.Images.Namespace
			v, err := run(cmd.Context(), h, args)
			if err != nil {
				return err
			}
			if output == "json" {
				return writeJSON(c.out, v)
			}
			return print(v)
		})
	}
	outputFlag(cmd, &output, "json")
	return cmd
}

// each calls f for each argument, and collects what it returns.
func each[T any](args []string, f func(string) (T, error)) ([]T, error) {
	out := []T{}
	for _, a := range args {
		v, err := f(a)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

func (c *cli) imageLs(use string) *cobra.Command {
	all := false
	cmd := imageVerb(c, &cobra.Command{
		Use:               use,
		Short:             "List the images in the store",
		Example:           "  berth image ls\n  berth image ls -n default\n  berth image ls -o json | jq -r '.[].ID'",
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
	}, func(ctx context.Context, h *handle, _ []string) ([]image.Image, error) {
		if all {
			return h.node.AllImages(ctx)
		}
		return h.node.Images(ctx)
	}, func(images []image.Image) error {
		rows := [][]string{{"IMAGE", "ID", "PLATFORM", "SIZE", "AGE", "USED", "PINNED"}}
		for i := range images {
			rows = append(rows, imageRows(&images[i], all)...)
		}
		if all {
			rows[0] = append(rows[0], "NAMESPACE")
		}
		return table(c.out, rows)
	})
	cmd.Flags().BoolVarP(&all, "all-namespaces", "A", false, "the images of all namespaces")
	return cmd
}

// imageRows is a row for each name of an image.
func imageRows(img *image.Image, namespaces bool) [][]string {
	names := img.RepoTags
	if len(names) == 0 {
		names = img.RepoDigests
	}
	if len(names) == 0 {
		names = []string{"-"}
	}
	var rows [][]string
	rest := []string{""}
	if img.Pinned {
		rest[0] = "yes"
	}
	if namespaces {
		rest = append(rest, img.Namespace)
	}
	for _, n := range names {
		rows = append(rows, append([]string{
			n, shortID(img), img.Config.OS + "/" + img.Config.Architecture, size(img.Size), age(img.Pulled, time.Now()), age(img.Used, time.Now()),
		}, rest...))
	}
	return rows
}

func shortID(img *image.Image) string {
	_, hex, _ := strings.Cut(img.ID.String(), ":")
	return hex[:min(12, len(hex))]
}

func (c *cli) imageRm() *cobra.Command {
	return imageVerb(c, &cobra.Command{
		Use:   "rm IMAGE…",
		Short: "Remove images, by name or ID, with all their names",
		Long: "Remove images, by name or ID, with all their names. Their files go in the background; layers that a container\n" +
			"lies on go with the container. To take a name from an image that has others, use berth image untag.",
		Example: "  berth image rm busybox:1.36\n  berth image rm 3f2a91c0",
		Args:    needArgs(1, "the name or ID of an image"),
	}, func(ctx context.Context, h *handle, args []string) ([]string, error) {
		return each(args, func(ref string) (string, error) { return ref, h.node.RemoveImage(ctx, ref) })
	}, func(removed []string) error {
		_, err := fmt.Fprintf(c.out, "removed %s\n", strings.Join(removed, "\nremoved "))
		return err
	})
}

// inspected is all that is known of an image.
type inspected struct {
	image.Image
	// UsedBy are the containers that lie on it.
	UsedBy []string
}

func (c *cli) imageInspect() *cobra.Command {
	print := func(all []inspected) error { return writeJSON(c.out, all) }
	return imageVerb(c, &cobra.Command{
		Use:     "inspect IMAGE…",
		Short:   "Print all that the store knows of images: configuration, layers, who uses them",
		Long:    "Print all that the store knows of images, as JSON: names, configuration, layers with their blobs, when they\nwere pulled and last used, and which containers use them.",
		Example: "  berth image inspect busybox\n  berth image inspect busybox | jq '.[].UsedBy'",
		Args:    needArgs(1, "the name or ID of an image"),
	}, func(ctx context.Context, h *handle, args []string) ([]inspected, error) {
		return each(args, func(ref string) (i inspected, err error) {
			if i.Image, err = h.node.Image(ctx, ref); err != nil {
				return i, err
			}
			i.UsedBy, err = h.node.ImageUsers(ctx, ref)
			return i, err
		})
	}, print)
}
