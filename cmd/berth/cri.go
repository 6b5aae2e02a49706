package main

import (
	"github.com/spf13/cobra"
)

func (c *cli) criCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cri",
		Short: "Run the daemon that serves the Container Runtime Interface to a kubelet",
		Long: `Serve the Container Runtime Interface v1 on a unix socket, until SIGTERM or Ctrl-C: what a kubelet's
--container-runtime-endpoint points to, in place of containerd or CRI-O. It is "berth node" without
Berth's own kubelet. Pods run on without it, and the next one takes them over.

The socket can be used by its owner alone. One that a dead daemon left is replaced; where another
program answers on it, the daemon does not start. Under systemd it says when it is ready.

It is set up by /etc/berth/config.toml: "berth config default" explains every key. SIGHUP makes it
read that again. SIGUSR2 puts the binary that is at its path by now in its place, as after an upgrade.

The verbs that look after images and leftovers ("berth image", "berth fsck") work with it; its pods
are the kubelet's, so look at them with kubectl or crictl.`,
		Example: "  berth cri\n  berth cri --listen /run/berth/cri.sock --log-format json\n" +
			"  kubelet --container-runtime-endpoint unix:///run/berth/cri.sock …\n" +
			"  crictl --runtime-endpoint unix:///run/berth/cri.sock ps",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.daemon(cmd, daemonOf{criOnly: true}) },
	}
	register(cmd.Flags(), daemonSettings)
	return cmd
}
