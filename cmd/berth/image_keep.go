package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/11f9778f/berth/internal/image"
)

func (c *cli) imageTag() *cobra.Command {
	return imageVerb(c, &cobra.Command{
		Use:     "tag IMAGE NAME",
		Short:   "Give an image one more name",
		Long:    "Give an image one more name. An image that had this name loses it, and goes if it was its last.",
		Example: "  berth image tag busybox:1.36 127.0.0.1:5000/team/busybox:1",
		Args:    cobra.ExactArgs(2),
	}, func(ctx context.Context, h *handle, args []string) (image.Image, error) {
		return h.node.TagImage(ctx, args[0], args[1])
	}, c.printNames)
}

// printNames prints an image's names, one a line.
func (c *cli) printNames(img image.Image) error {
	_, err := fmt.Fprintln(c.out, strings.Join(img.RepoTags, "\n"))
	return err
}

func (c *cli) imageUntag() *cobra.Command {
	return imageVerb(c, &cobra.Command{
		Use:     "untag NAME…",
		Short:   "Take names from the images that have them",
		Long:    "Take names from the images that have them. An image that loses its last name, tag or digest, goes, unless it is pinned.",
		Example: "  berth image untag 127.0.0.1:5000/team/busybox:1",
		Args:    needArgs(1, "the name of an image"),
	}, func(ctx context.Context, h *handle, args []string) ([]string, error) {
		return each(args, func(name string) (string, error) { return name, h.node.UntagImage(ctx, name) })
	}, func(names []string) error {
		_, err := fmt.Fprintf(c.out, "untagged %s\n", strings.Join(names, "\nuntagged "))
		return err
	})
}

// imagePin is pin and unpin.
func (c *cli) imagePin(on bool) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "pin IMAGE…",
		Short: "Keep images from being collected",
		Long: "Keep images from being collected, by berth image prune or by a kubelet, until berth image unpin. berth image rm\n" +
			"removes them all the same. The configuration's images.pinned does the same for names with patterns.",
		Example: "  berth image pin registry.k8s.io/pause:3.10",
		Args:    needArgs(1, "the name or ID of an image"),
	}
	did := "pinned"
	if !on {
		cmd.Use, cmd.Short, did = "unpin IMAGE…", "Let pinned images be collected again", "unpinned"
		cmd.Long, cmd.Example = cmd.Short+".", "  berth image unpin registry.k8s.io/pause:3.10"
	}
	return imageVerb(c, cmd, func(ctx context.Context, h *handle, args []string) ([]image.Image, error) {
		return each(args, func(ref string) (image.Image, error) { return h.node.PinImage(ctx, ref, on) })
	}, func(images []image.Image) error {
		for i := range images {
			fmt.Fprintf(c.out, "%s %s\n", did, shortID(&images[i]))
		}
		return nil
	})
}

func (c *cli) imagePrune() *cobra.Command {
	var o image.PruneOptions
	cmd := imageVerb(c, &cobra.Command{
		Use:   "prune",
		Short: "Remove the images that nobody uses, those first that were used longest ago",
		Long: "Remove the images that no container uses and that are not pinned, those first that were used longest ago.\n" +
			"With --high nothing goes while less of the filesystem is used; else as much goes as brings it down to --low, as a\n" +
			"kubelet does. The files go in the background.",
		Example: "  berth image prune --dry-run\n  berth image prune --untagged\n  berth image prune --unused 168h\n  berth image prune --high 85 --low 80",
		Args:    cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
	}, func(ctx context.Context, h *handle, _ []string) (image.Pruned, error) {
		return h.node.PruneImages(ctx, o)
	}, func(p image.Pruned) error {
		verb := "removed"
		if o.DryRun {
			verb = "would remove"
		}
		for i := range p.Images {
			name := shortID(&p.Images[i])
			if tags := p.Images[i].RepoTags; len(tags) > 0 {
				name = strings.Join(tags, ", ")
			}
			fmt.Fprintf(c.out, "%s %s (last used %s ago)\n", verb, name, age(p.Images[i].Used, time.Now()))
		}
		fmt.Fprintf(c.out, "%d images, %s; the filesystem was %d %% full\n", len(p.Images), size(p.Bytes), p.Usage)
		if p.Missing > 0 {
			return fail("end containers, or unpin images", "%s more would have to go, but every other image is in use, pinned or used too lately", size(p.Missing))
		}
		return nil
	})
	fl := cmd.Flags()
	fl.BoolVar(&o.Untagged, "untagged", false, "only images without a tag")
	fl.DurationVar(&o.Unused, "unused", 0, "only images that nobody has used for so long, such as 48h")
	fl.IntVar(&o.High, "high", 0, "per cent of the filesystem that must be used for anything to go; 0 looks at no disk")
	fl.IntVar(&o.Low, "low", 0, "per cent that should be used at most afterwards")
	fl.BoolVar(&o.DryRun, "dry-run", false, "remove nothing, say what would go")
	for _, name := range []string{"unused", "high", "low"} {
		cmd.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions)
	}
	return cmd
}
