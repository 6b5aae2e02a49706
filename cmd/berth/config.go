package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/11f9778f/berth/internal/config"
)

func (c *cli) configCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Explain, check and show how the daemon is set up",
		Long: `The daemon is set up by ` + config.DefaultPath + ` and the drop-ins in config.d beside it, read in the order
of their names: a later one replaces single keys of an earlier one. Environment variables beat files,
flags beat both.`,
		Example: "  berth config default > " + config.DefaultPath + "\n  berth config check\n  berth config show\n" +
			"  systemctl reload berth",
		Annotations: map[string]string{anyone: ""},
	}
	cmd.AddCommand(c.configDefault(), c.configCheck(), c.configShow())
	return cmd
}

func (c *cli) configDefault() *cobra.Command {
	return &cobra.Command{
		Use:   "default",
		Short: "Print a configuration file that explains every key",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := io.WriteString(c.out, config.DefaultText)
			return err
		},
	}
}

func (c *cli) configCheck() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check [FILE]",
		Short: "Tell what is wrong in the configuration, with file, line and key",
		Long: `Read the configuration as the daemon would, or FILE in its place (with the drop-ins in config.d beside
it), and tell each mistake with its file, line and key. Exit code 1 if there is one. With the cgroup driver
systemd it looks for that, too.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				c.configFile = args[0]
			}
			l, err := c.load(cmd, allSettings())
			if err == nil {
				err = findSystemd(cmd.Context(), l)
			}
			if err != nil {
				return err
			}
			if len(l.Files) == 0 {
				_, err := fmt.Fprintln(c.out, "there is no configuration file: the defaults hold")
				return err
			}
			for _, f := range l.Files {
				fmt.Fprintf(c.out, "%s: good\n", f)
			}
			return nil
		},
	}
	register(cmd.Flags(), daemonSettings)
	return cmd
}

func (c *cli) configShow() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Print the configuration that holds, and where each value came from",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := c.load(cmd, allSettings())
			if err != nil {
				return err
			}
			return l.Show(c.out)
		},
	}
	register(cmd.Flags(), daemonSettings)
	return cmd
}
