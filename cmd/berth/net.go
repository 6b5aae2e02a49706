package main

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"

	"github.com/11f9778f/berth/internal/network"
	"github.com/11f9778f/berth/internal/node"
)

func (c *cli) netCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "net",
		Short: "Look at the pods' network and find what is wrong with it",
		Long: `Each pod has a network namespace of its own. In it are lo and eth0; eth0's other end is a link of the
host, in a bridge with those of the other pods:

  pod: eth0 10.88.0.2/16 ──── bthxxxx ┐
                                      ├ berth0 10.88.0.1 ──(masquerade)── the world
  pod: eth0 10.88.0.3/16 ──── bthyyyy ┘

Host ports are entries of an nftables table (nft list table inet berth). With network.driver = "cni" in
the configuration, CNI plugins do all that instead.

"berth net ls" says which pod has what. When a pod can't be reached, "berth net check POD" goes from one
end to the other and names what is missing, and what to do. To look around with the host's own programs:

  nsenter --net=/run/berth/netns/SANDBOX ip addr     SANDBOX is in "berth net ls -o wide"`,
		Example: "  berth net ls\n  berth net check hello\n  berth net check && echo all is well",
	}
	cmd.AddCommand(c.netLs(), c.netCheck())
	return cmd
}

func (c *cli) netLs() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:     "ls",
		Short:   "List what each pod has of the network: addresses, link, host ports",
		Long:    "List the pods that have a network of their own. LINK is the host's end of the pod's eth0.",
		Example: "  berth net ls\n  berth net ls -o wide\n  berth net ls -o json | jq -r '.[] | .pod + \" \" + .addresses[0]'",
		Args:    cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			pods := []node.PodNetwork{}
			h, ok, err := c.connect(cmd.Context())
			if err != nil {
				return err
			}
			if ok {
				defer h.Close()
				if pods, err = h.node.Networks(cmd.Context()); err != nil {
					return err
				}
			}
			if output == "json" {
				return writeJSON(c.out, pods)
			}
			if !ok {
				_, err := fmt.Fprintf(c.err, "no node is running on %s, so there are no pods\n", c.run)
				return err
			}
			return table(c.out, networkRows(pods, output == "wide"))
		},
	}
	outputFlag(cmd, &output, "wide", "json")
	return cmd
}

func networkRows(pods []node.PodNetwork, wide bool) [][]string {
	head := []string{"POD", "ADDRESSES", "LINK", "NETWORK", "PORTS"}
	if wide {
		head = append(head, "TO THE POD", "FROM THE POD", "SANDBOX")
	}
	rows := [][]string{head}
	for _, p := range pods {
		name := "(" + p.State + ")" // of a pod that is gone, if that is all that is known
		if p.Pod != "" {
			name = podOf(p.Pod)
			if p.State != "attached" {
				name += " (" + p.State + ")"
			}
		}
		row := []string{name, orDash(joined(p.Addresses)), orDash(p.HostInterface), p.Network, orDash(strings.Join(p.Ports, ", "))}
		if wide {
			row = append(row, rate(p.Bandwidth.Ingress), rate(p.Bandwidth.Egress), p.SandboxID)
		}
		rows = append(rows, row)
	}
	return rows
}

// podOf is a pod's name as the command line takes it.
func podOf(name string) string { return parsePod(name).String() }

func joined(addresses []netip.Prefix) string {
	var out []string
	for _, a := range addresses {
		out = append(out, a.String())
	}
	return strings.Join(out, ", ")
}

// rate is a limit for people, as annotations say it.
func rate(bits uint64) string {
	for _, unit := range []struct {
		size uint64
		name string
	}{{1e9, "G"}, {1e6, "M"}, {1e3, "k"}} {
		if bits >= unit.size {
			return strings.TrimSuffix(fmt.Sprintf("%.1f", float64(bits)/float64(unit.size)), ".0") + unit.name + "bit/s"
		}
	}
	return "no limit"
}

func (c *cli) netCheck() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "check [POD…]",
		Short: "Find what is wrong with pods' network, and say what to do",
		Long: `Look at everything that a pod's packets need: its namespace, its link at both ends, addresses, routes,
limits, the bridge, the nftables rules and host ports, the host's own switches, other programs' firewalls,
and the pod's resolv.conf and hosts file. With CNI the plugins are asked too (CHECK). Nothing is changed.
Without a POD all of them are checked. Exit code 1 if something is wrong.`,
		Example:           "  berth net check hello\n  berth net check -o json | jq '.[].problems[].what'",
		ValidArgsFunction: c.completeNetworks,
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := c.mustConnect(cmd.Context())
			if err != nil {
				return err
			}
			defer h.Close()
			checks, err := checkNetworks(cmd.Context(), h, args)
			if err != nil {
				return err
			}
			return c.writeChecks(checks, output == "json")
		},
	}
	outputFlag(cmd, &output, "json")
	return cmd
}

// completeNetworks completes the names of pods that have a network, whoever runs them.
func (c *cli) completeNetworks(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	h, ok := c.completing(cmd)
	if !ok {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer h.Close()
	pods, err := h.node.Networks(cmd.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, p := range pods {
		if p.Pod != "" {
			names = append(names, podOf(p.Pod))
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

func checkNetworks(ctx context.Context, h *handle, args []string) ([]node.PodNetworkCheck, error) {
	if len(args) == 0 {
		return h.node.CheckNetwork(ctx, "", "")
	}
	var out []node.PodNetworkCheck
	for _, a := range args {
		p := parsePod(a)
		checks, err := h.node.CheckNetwork(ctx, p.namespace, p.name)
		if err != nil {
			return nil, err
		}
		out = append(out, checks...)
	}
	return out, nil
}

func (c *cli) writeChecks(checks []node.PodNetworkCheck, asJSON bool) error {
	bad := 0
	for _, k := range checks {
		if len(k.Problems) > 0 {
			bad++
		}
	}
	if asJSON {
		if checks == nil {
			checks = []node.PodNetworkCheck{}
		}
		if err := writeJSON(c.out, checks); err != nil {
			return err
		}
	} else {
		for _, k := range checks {
			c.writeCheck(k)
		}
	}
	if bad > 0 {
		return fail("see above what to do", "the network of %d of %d pods is not as it should be", bad, len(checks))
	}
	return nil
}

func (c *cli) writeCheck(k node.PodNetworkCheck) {
	switch {
	case k.HostNetwork:
		fmt.Fprintf(c.out, "%s: it uses the host's network, there is nothing to check\n", podOf(k.Pod))
	case len(k.Problems) == 0:
		fmt.Fprintf(c.out, "%s: good\n", podOf(k.Pod))
	}
	for _, p := range k.Problems {
		fmt.Fprintf(c.out, "%s: %s%s\n", podOf(k.Pod), p.What, remedy(p))
	}
}

func remedy(p network.Problem) string {
	if p.Remedy == "" {
		return ""
	}
	return "\n    → " + p.Remedy
}
