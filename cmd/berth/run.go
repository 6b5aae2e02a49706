package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

type runOptions struct {
	files                        []string
	detach, trace, stamps, plain bool
	check                        string
}

func (c *cli) runCommand() *cobra.Command {
	var o runOptions
	cmd := &cobra.Command{
		Use:   "run FILE…",
		Short: "Run the pods of manifest files, with their logs, until Ctrl-C",
		Long: `Run the pods of manifest files (v1 Pod, ConfigMap and Secret documents, YAML or JSON; - is standard
input). It prints what the containers say, what changes and where the host ports are.

Ctrl-C ends the pods within their grace period and removes every trace of them; a second Ctrl-C ends
them at once. Pods whose containers come to an end by themselves (restartPolicy Never or OnFailure)
end the run, with the exit code of the first container that failed. What can't work ends it too, with
a sentence, exit code 1 and nothing left behind.`,
		Example: `  berth run examples/hello.yaml
  berth run --detach pod.yaml config.yaml
  berth run pod.yaml --check http://127.0.0.1:8080/   # fetch a page once the pods are ready
  berth run --trace pod.yaml                           # where did the time of the start go?
  generate-pod | berth run -`,
		Args: needArgs(1, "a manifest file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.files = args
			return c.runPods(cmd.Context(), o)
		},
	}
	cmd.Flags().BoolVarP(&o.detach, "detach", "d", false, "return once the containers have been started; the pods run on")
	cmd.Flags().BoolVar(&o.trace, "trace", false, "print where the time of the start went")
	cmd.Flags().StringVar(&o.check, "check", "", "fetch this URL once the pods are ready, print it and how long the start took;\nwithout a terminal the pods are ended then, and the exit code tells")
	cmd.Flags().BoolVar(&o.stamps, "timestamps", false, "put the time in front of each line of log")
	cmd.Flags().BoolVar(&o.plain, "no-color", false, "no colours ($NO_COLOR does the same)")
	return cmd
}

func (c *cli) runPods(ctx context.Context, o runOptions) error {
	manifest, err := readManifests(o.files, c.in)
	if err != nil {
		return err
	}
	return c.runManifest(ctx, o, func(context.Context, *handle) ([]byte, error) { return manifest, nil })
}

// runManifest runs the pods of the manifest that prepare returns.
func (c *cli) runManifest(ctx context.Context, o runOptions, prepare func(context.Context, *handle) ([]byte, error)) (err error) {
	stop := catchSignals()
	defer stop.release()
	starting, cancel := stop.context(ctx)
	defer cancel()
	h, err := c.ensureNode(starting)
	if err != nil {
		return err
	}
	defer func() {
		if late := h.release(context.WithoutCancel(ctx)); err == nil {
			err = late
		}
	}()
	manifest, err := prepare(starting, h)
	if err != nil {
		return err
	}
	s := newSession(c, h, o, stop)
	return s.run(ctx, manifest)
}

// readManifests makes one manifest of all files.
func readManifests(files []string, in io.Reader) ([]byte, error) {
	var all bytes.Buffer
	for _, f := range files {
		var b []byte
		var err error
		if f == "-" {
			b, err = io.ReadAll(in)
		} else {
			b, err = os.ReadFile(f)
		}
		if err != nil {
			return nil, fmt.Errorf("read the manifest: %w", err)
		}
		if len(bytes.TrimSpace(b)) == 0 {
			return nil, fail("write a v1 Pod into it; berth run --help shows an example", "%s is empty", f)
		}
		if all.Len() > 0 {
			all.WriteString("\n---\n")
		}
		all.Write(b)
	}
	return all.Bytes(), nil
}

// signals are what a person at the terminal asks for: first tells of the first SIGINT, SIGTERM or
// SIGHUP, again of the second.
type signals struct {
	first, again chan struct{}
	raw          chan os.Signal
}

func catchSignals() *signals {
	s := &signals{first: make(chan struct{}), again: make(chan struct{}), raw: make(chan os.Signal, 4)}
	signal.Notify(s.raw, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		for _, c := range []chan struct{}{s.first, s.again} {
			if _, ok := <-s.raw; !ok {
				return
			}
			close(c)
		}
	}()
	return s
}

func (s *signals) release() {
	signal.Stop(s.raw)
	close(s.raw)
}

// context ends with the first signal.
func (s *signals) context(parent context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(parent)
	go func() {
		select {
		case <-s.first:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// sentence is what the node refused, without the API's wrapping.
func sentence(err error) error {
	if st, ok := err.(apierrors.APIStatus); ok && st.Status().Message != "" {
		return fmt.Errorf("%s", st.Status().Message)
	}
	return err
}
