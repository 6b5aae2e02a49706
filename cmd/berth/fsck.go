package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/11f9778f/berth/internal/node"
)

func (c *cli) fsckCommand() *cobra.Command {
	var output string
	var repair bool
	cmd := &cobra.Command{
		Use:   "fsck",
		Short: "Show what Berth has on disk and in the kernel, and whose it is",
		Long: `Show every mount, network namespace, link, address, cgroup, shim, snapshot, layer and record that
Berth has made, by owner. It ends with exit code 1 if something has no owner; --repair removes that.`,
		Example: "  berth fsck\n  berth fsck --repair\n  berth fsck -o json | jq '.[] | select(.orphan)'",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.withNode(cmd.Context(), func(h *handle) error {
				look := h.node.Inventory
				if repair {
					look = h.node.Repair
				}
				items, err := look(cmd.Context())
				if err != nil {
					return err
				}
				return c.writeItems(items, output == "json", repair)
			})
		},
	}
	cmd.Flags().BoolVar(&repair, "repair", false, "remove what has no owner, and list that")
	outputFlag(cmd, &output, "json")
	return cmd
}

func (c *cli) writeItems(items []node.Item, asJSON, repaired bool) error {
	if items == nil {
		items = []node.Item{}
	}
	orphans := 0
	rows := [][]string{{"OWNER", "KIND", "NAME", "NOTE"}}
	for _, i := range items {
		owner := orDash(i.Owner)
		if i.Orphan {
			orphans++
			owner = "(nobody)"
		}
		rows = append(rows, []string{owner, i.Kind, i.Name, i.Note})
	}
	if asJSON {
		if err := writeJSON(c.out, items); err != nil {
			return err
		}
	} else if err := table(c.out, rows); err != nil {
		return err
	}
	switch {
	case repaired:
		fmt.Fprintf(c.err, "%d things without an owner were removed\n", len(items))
	case orphans > 0:
		return fail("remove them with berth fsck --repair", "%d things have no owner", orphans)
	}
	return nil
}
