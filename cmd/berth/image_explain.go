package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/11f9778f/berth/internal/image"
)

func (c *cli) imageExplain() *cobra.Command {
	return imageVerb(c, &cobra.Command{
		Use:   "explain IMAGE…",
		Short: "Say what a pull would do, without pulling",
		Long: "Say what a pull would do, without pulling and without asking any host: the image's full name, which hosts\n" +
			"are asked in which order and why, with which credentials, trusted by what, through which proxy.\n\n" +
			"Hosts come from images.registry_dirs in the configuration, folders like containerd's certs.d.",
		Example: "  berth image explain busybox\n  berth image explain registry.example/app:1 -o json",
		Args:    needArgs(1, "the name of an image"),
	}, func(ctx context.Context, h *handle, args []string) ([]image.Explanation, error) {
		return each(args, func(ref string) (image.Explanation, error) { return h.node.ExplainImage(ctx, ref) })
	}, func(all []image.Explanation) error {
		for i := range all {
			writeExplanation(c.out, &all[i])
		}
		return nil
	})
}

func writeExplanation(w io.Writer, e *image.Explanation) {
	fmt.Fprintf(w, "%s for %s\n", e.Reference, e.Platform)
	if e.Image != "" {
		fmt.Fprintf(w, "  here already, with the ID %s; a pull asks whether the name means another image now\n", e.Image)
	}
	if e.Policy != "" {
		fmt.Fprintf(w, "  policy: %s\n", e.Policy)
	}
	if e.Refused != "" {
		fmt.Fprintf(w, "  no container may be made of what is here: %s\n", e.Refused)
	}
	switch {
	case e.File != "":
		fmt.Fprintf(w, "  hosts as in %s\n", e.File)
	default:
		fmt.Fprintln(w, "  no file in images.registry_dirs says anything about this registry")
	}
	for _, n := range e.Notes {
		fmt.Fprintf(w, "  note: %s\n", n)
	}
	for i := range e.Hosts {
		h := &e.Hosts[i]
		what := "the registry itself"
		if h.Mirror {
			what = "mirror"
		}
		fmt.Fprintf(w, "  %d. %s (%s)\n", i+1, h.URL, what)
		line := func(name, value string) {
			if value != "" {
				fmt.Fprintf(w, "       %-12s %s\n", name, value)
			}
		}
		if !h.Asked {
			line("passed over:", "it may not resolve tags; layers come from it all the same if it may pull")
		}
		line("may:", strings.Join(h.Capabilities, ", "))
		line("asked:", h.Credential.String())
		line("TLS:", h.TLS)
		line("headers:", strings.Join(h.Headers, ", "))
		line("proxy:", h.Proxy)
		if h.LimitedUntil != nil {
			line("limited:", "it wants no requests before "+h.LimitedUntil.Local().Format(time.DateTime))
		}
		line("problem:", h.Error)
	}
}

// completeImages completes the names of images that are here, if a node is running.
func (c *cli) completeImages(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	h, ok := c.completing(cmd)
	if !ok {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer h.Close()
	if l, err := c.load(cmd, imageSettings); err == nil {
		h.node.Namespace = l.Images.Namespace
	}
	images, err := h.node.Images(cmd.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for i := range images {
		names = append(names, images[i].RepoTags...)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
