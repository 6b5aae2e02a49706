package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/11f9778f/berth/internal/demo"
)

func (c *cli) demoCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "The small programs of the example pod",
		Long: `The programs that examples/hello.yaml runs. The image ` + demo.Reference + ` is made from this very
binary when a manifest asks for it, so that the example needs no network.`,
		Annotations: map[string]string{anyone: ""},
	}
	cmd.AddCommand(c.demoWritePage(), c.demoServe(), c.demoWatch(), c.demoShow())
	return cmd
}

func (c *cli) demoWritePage() *cobra.Command {
	return &cobra.Command{
		Use:   "write-page FILE",
		Short: "Write a page that greets with $POD_NAME",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := demo.WritePage(args[0], env("POD_NAME", "berth"), time.Now()); err != nil {
				return err
			}
			_, err := fmt.Fprintf(c.out, "wrote %s\n", args[0])
			return err
		},
	}
}

func (c *cli) demoServe() *cobra.Command {
	var listen, dir string
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve a folder over HTTP until SIGTERM",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGTERM, os.Interrupt)
			defer stop()
			return demo.Serve(ctx, listen, dir, c.out)
		},
	}
	cmd.Flags().StringVar(&listen, "listen", ":80", "address to listen on")
	cmd.Flags().StringVar(&dir, "dir", ".", "folder to serve")
	return cmd
}

func (c *cli) demoWatch() *cobra.Command {
	var every time.Duration
	cmd := &cobra.Command{
		Use:   "watch FILE",
		Short: "Say each time that a file changes, until SIGTERM",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGTERM, os.Interrupt)
			defer stop()
			return demo.Watch(ctx, args[0], every, c.out)
		},
	}
	cmd.Flags().DurationVar(&every, "every", time.Second, "how often to look")
	return cmd
}

// demoShow prints what a container sees, so that a pod without a shell can tell.
func (c *cli) demoShow() *cobra.Command {
	var vars, files []string
	var code int
	var wait time.Duration
	var toErr string
	cmd := &cobra.Command{
		Use:     "show",
		Short:   "Print variables, files, user and folder, wait, then exit with a code",
		Example: "  berth demo show --env HOME --file /etc/hostname --wait 1s --exit 3",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, v := range vars {
				fmt.Fprintf(c.out, "%s=%s\n", v, os.Getenv(v))
			}
			var errs []error
			for _, f := range files {
				b, err := os.ReadFile(f)
				if err != nil {
					errs = append(errs, err)
					continue
				}
				fmt.Fprintf(c.out, "%s: %s\n", f, strings.TrimSpace(string(b)))
			}
			wd, err := os.Getwd()
			errs = append(errs, err)
			fmt.Fprintf(c.out, "uid=%d gid=%d dir=%s pid=%d\n", os.Getuid(), os.Getgid(), wd, os.Getpid())
			if toErr != "" {
				fmt.Fprintln(c.err, toErr)
			}
			if err := errors.Join(errs...); err != nil {
				return err
			}
			pause(cmd, wait)
			if code != 0 {
				return exited(code)
			}
			return nil
		},
	}
	cmd.Flags().StringArrayVar(&vars, "env", nil, "variable to print (repeatable)")
	cmd.Flags().StringArrayVar(&files, "file", nil, "file to print (repeatable)")
	cmd.Flags().StringVar(&toErr, "stderr", "", "text for standard error")
	cmd.Flags().DurationVar(&wait, "wait", 0, "how long to stay, or until SIGTERM")
	cmd.Flags().IntVar(&code, "exit", 0, "exit code at the end")
	return cmd
}

// pause waits for d, or until the container is asked to end.
func pause(cmd *cobra.Command, d time.Duration) {
	if d <= 0 {
		return
	}
	ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
