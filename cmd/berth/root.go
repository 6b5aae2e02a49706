package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/11f9778f/berth/internal/config"
)

// cli is what all verbs share: the three streams and where the node lives.
type cli struct {
	in       *os.File
	out, err io.Writer

	configFile string // --config
	root, run  string // state that outlives a boot; state that dies with it
}

func newCLI(in, out, err *os.File) *cli { return &cli{in: in, out: out, err: err} }

func (c *cli) command() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "berth",
		Short: "A Kubernetes node in one binary: runs pods, starts them in milliseconds, leaves nothing behind",
		Long: `Berth runs Kubernetes pods from manifest files, with its own image store, network, shim and engine.

  berth run pod.yaml             run it here, with its logs, until Ctrl-C
  berth run -d pod.yaml          run it behind you
  berth ps                       what runs
  berth logs -f hello            what it says
  berth exec -it hello -- sh     look around inside
  berth rm hello                 end it and remove every trace

A node (the daemon that keeps the pods) is started when one is needed and ends when its last pod
is gone. "berth node" runs one for good.`,
		SilenceUsage:      true,
		SilenceErrors:     true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { return c.prepare(cmd) },
	}
	cmd.SetOut(c.out)
	cmd.SetErr(c.err)
	register(cmd.PersistentFlags(), folders)
	cmd.PersistentFlags().StringVar(&c.configFile, "config", "", "configuration file (default "+config.DefaultPath+") ($"+envConfig+")")
	cmd.MarkPersistentFlagFilename("config", "toml")
	cmd.MarkPersistentFlagDirname("root")
	cmd.MarkPersistentFlagDirname("run")
	cmd.AddGroup(&cobra.Group{ID: "pods", Title: "Pods:"}, &cobra.Group{ID: "node", Title: "The node:"})
	cmd.AddCommand(
		grouped("pods", c.runCommand(), c.psCommand(), c.logsCommand(), c.execCommand(), c.rmCommand(), c.checkpointCommand(), c.restoreCommand(), c.eventsCommand())...)
	cmd.AddCommand(
		grouped("node", c.nodeCommand(), c.criCommand(), c.configCommand(), c.imageCommand(), c.imagesCommand(), c.netCommand(), c.fsckCommand(), c.ociCommand(), c.demoCommand(), c.versionCommand())...)
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return &failure{err: err, remedy: "see " + cmd.CommandPath() + " --help", code: 2}
	})
	return cmd
}

func grouped(id string, cmds ...*cobra.Command) []*cobra.Command {
	for _, c := range cmds {
		c.GroupID = id
	}
	return cmds
}

// anyone marks a verb that needs neither root nor a node.
const anyone = "anyone"

// prepare settles the folders, and refuses everything else first if this is not root.
func (c *cli) prepare(cmd *cobra.Command) error {
	for p := cmd; p != nil; p = p.Parent() {
		if _, ok := p.Annotations[anyone]; ok || strings.HasPrefix(p.Name(), "__complete") || p.Name() == "completion" || p.Name() == "help" {
			return nil
		}
	}
	if os.Geteuid() != 0 {
		return fail(fmt.Sprintf("try again with: sudo %s", cmd.CommandPath()), "%s must be root, for it makes namespaces, mounts and cgroups", cmd.CommandPath())
	}
	l, err := c.load(cmd, folders)
	if err != nil {
		return err
	}
	c.root, c.run = l.Root, l.Run
	return nil
}

func (c *cli) nodeSocket() string { return filepath.Join(c.run, "node.sock") }

// env is the environment variable name, or fallback where that is unset or empty.
func env(name, fallback string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return fallback
}

// terminal tells whether w is one.
func terminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// needArgs says in a sentence what is missing, where cobra would print a count.
func needArgs(least int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < least {
			return &failure{err: fmt.Errorf("%s needs %s", cmd.CommandPath(), what), remedy: "see " + cmd.CommandPath() + " --help", code: 2}
		}
		return nil
	}
}
