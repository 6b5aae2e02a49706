package main

import (
	"context"
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
	var o show
	cmd := &cobra.Command{
		Use:     "show",
		Short:   "Print variables, files, user and folder, wait, then exit with a code",
		Example: "  berth demo show --env HOME --file /etc/hostname --wait 1s --exit 3",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := o.listen(cmd.Context())
			defer stop()
			if err := o.print(c); err != nil {
				return err
			}
			o.stay(ctx)
			if o.code != 0 {
				return exited(o.code)
			}
			return nil
		},
	}
	cmd.Flags().StringArrayVar(&o.vars, "env", nil, "variable to print (repeatable)")
	cmd.Flags().StringArrayVar(&o.files, "file", nil, "file to print (repeatable)")
	cmd.Flags().StringVar(&o.toErr, "stderr", "", "text for standard error")
	cmd.Flags().IntVar(&o.eat, "eat", 0, "take so many MiB of memory")
	cmd.Flags().DurationVar(&o.wait, "wait", 0, "how long to stay, or until SIGTERM")
	cmd.Flags().BoolVar(&o.deaf, "deaf", false, "do not care for SIGTERM while waiting")
	cmd.Flags().IntVar(&o.code, "exit", 0, "exit code at the end")
	return cmd
}

// show is what `berth demo show` is asked for.
type show struct {
	vars, files []string
	toErr       string
	eat, code   int
	wait        time.Duration
	deaf        bool
}

// listen says what a signal does, before the first line: who reads that line may send one.
func (o *show) listen(ctx context.Context) (context.Context, func()) {
	if o.deaf {
		signal.Ignore(syscall.SIGTERM)
		return ctx, func() {}
	}
	return signal.NotifyContext(ctx, syscall.SIGTERM, os.Interrupt)
}

func (o *show) print(c *cli) error {
	for _, v := range o.vars {
		fmt.Fprintf(c.out, "%s=%s\n", v, os.Getenv(v))
	}
	var errs []error
	for _, f := range o.files {
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
	if o.toErr != "" {
		fmt.Fprintln(c.err, o.toErr)
	}
	return errors.Join(errs...)
}

// stay waits until it is time, or until the container is asked to end.
func (o *show) stay(ctx context.Context) {
	held := make([]byte, o.eat<<20)
	for i := 0; i < len(held); i += os.Getpagesize() {
		held[i] = 1 // only what is touched counts
	}
	switch {
	case o.deaf:
		time.Sleep(o.wait)
	case o.wait > 0:
		select {
		case <-ctx.Done():
		case <-time.After(o.wait):
		}
	}
}
