package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	v1 "k8s.io/api/core/v1"

	"github.com/11f9778f/berth/internal/kubelet/api"
)

func (c *cli) eventsCommand() *cobra.Command {
	var output string
	var since uint64
	cmd := &cobra.Command{
		Use:     "events",
		Short:   "Follow what happens on the node, until Ctrl-C",
		Long:    "Print the events that the node still holds and follow what comes, until Ctrl-C. Events are numbered:\nwhoever lost the connection goes on with --since.",
		Example: "  berth events\n  berth events --since 120 -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			h, err := c.mustConnect(ctx)
			if err != nil {
				return err
			}
			defer h.Close()
			enc := json.NewEncoder(c.out)
			err = h.Events(ctx, since, func(e api.Event) error {
				if output == "json" {
					return enc.Encode(e)
				}
				_, err := fmt.Fprintln(c.out, eventLine(e))
				return err
			})
			if ctx.Err() != nil {
				return nil // asked to end
			}
			return err
		},
	}
	cmd.Flags().Uint64Var(&since, "since", 0, "only events after this number")
	outputFlag(cmd, &output, "json")
	return cmd
}

// eventLine is an event in one line for people.
func eventLine(e api.Event) string {
	who := e.Pod
	if e.Namespace != "" && e.Namespace != v1.NamespaceDefault {
		who = e.Namespace + "/" + e.Pod
	}
	if e.Container != "" {
		who += "/" + e.Container
	}
	var rest []string
	if e.Image != "" {
		rest = append(rest, e.Image)
	}
	if e.Progress != nil {
		rest = append(rest, size(e.Progress.Current)+" of "+size(e.Progress.Total))
	}
	if e.ExitCode != nil {
		rest = append(rest, fmt.Sprintf("exit code %d", *e.ExitCode))
	}
	if e.PodIP != "" {
		rest = append(rest, e.PodIP)
	}
	if e.Type == api.PodChanged && e.Status != nil {
		rest = append(rest, string(e.Status.Phase))
	}
	if e.Missed != 0 {
		rest = append(rest, fmt.Sprintf("%d events were lost", e.Missed))
	}
	for _, s := range []string{e.Reason, e.Message} {
		if s != "" {
			rest = append(rest, s)
		}
	}
	return strings.TrimRight(fmt.Sprintf("%6d  %s  %-16s  %-24s  %s", e.Seq, e.Time.Local().Format("15:04:05.000"), e.Type, who, strings.Join(rest, ": ")), " ")
}
