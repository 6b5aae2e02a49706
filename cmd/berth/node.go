package main

import (
	"time"

	"github.com/spf13/cobra"
)

func (c *cli) nodeCommand() *cobra.Command {
	var idle time.Duration
	cmd := &cobra.Command{
		Use:   "node",
		Short: "Run the daemon that keeps the pods",
		Long: `Run the daemon that keeps the pods, until SIGTERM or Ctrl-C. Pods run on without it, and the next one
takes them over. "berth run" starts one by itself where none is running.

It serves the node API on <run>/node.sock and the Container Runtime Interface v1 on <run>/cri.sock.
Two nodes can live side by side with different --root and --run; what they are called on the
machine follows from --run, if nothing else is configured.

It is set up by /etc/berth/config.toml: "berth config default" explains every key. SIGHUP makes it
read that again. SIGUSR2 puts the binary that is at its path by now in its place, as after an upgrade.`,
		Example: "  berth node\n  berth node --subnet 10.99.0.0/24 --log-level debug\n" +
			"  berth --root /tmp/a/root --run /tmp/a/run node --idle-exit 1m",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.daemon(cmd, daemonOf{idleExit: idle}) },
	}
	register(cmd.Flags(), daemonSettings)
	cmd.Flags().DurationVar(&idle, "idle-exit", 0, "end after so long without a pod and a call; 0 is never")
	return cmd
}
