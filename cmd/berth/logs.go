package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	v1 "k8s.io/api/core/v1"

	"github.com/11f9778f/berth/internal/kubelet/api"
)

func (c *cli) logsCommand() *cobra.Command {
	var o api.LogOptions
	var container string
	var tail int64
	var since time.Duration
	cmd := &cobra.Command{
		Use:   "logs POD",
		Short: "Print what a pod's containers have said",
		Long:  "Print the logs of a pod. With several containers each line has its container's name in front; -c picks one.",
		Example: "  berth logs -f hello\n  berth logs hello -c web --tail 10 --timestamps\n" +
			"  berth logs hello -c web --previous   # of the instance before the last restart",
		Args:              needArgs(1, "the name of a pod"),
		ValidArgsFunction: c.completePods,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			if cmd.Flags().Changed("tail") && tail >= 0 {
				o.TailLines = &tail
			}
			if since > 0 {
				o.Since = time.Now().Add(-since)
			}
			err := c.logs(ctx, parsePod(args[0]), container, o)
			if ctx.Err() != nil {
				return nil // Ctrl-C ends following
			}
			return err
		},
	}
	cmd.Flags().BoolVarP(&o.Follow, "follow", "f", false, "go on until the container ends, or Ctrl-C")
	cmd.Flags().BoolVarP(&o.Previous, "previous", "p", false, "the instance before the present one")
	cmd.Flags().BoolVar(&o.Timestamps, "timestamps", false, "put the time in front of each line")
	cmd.Flags().Int64Var(&tail, "tail", -1, "only the last lines, so many")
	cmd.Flags().DurationVar(&since, "since", 0, "only what is younger, such as 10s or 5m")
	cmd.Flags().StringVarP(&container, "container", "c", "", "the container (default: all)")
	cmd.RegisterFlagCompletionFunc("container", c.completeContainers)
	return cmd
}

func (c *cli) logs(ctx context.Context, name podName, container string, o api.LogOptions) error {
	h, err := c.mustConnect(ctx)
	if err != nil {
		return err
	}
	defer h.Close()
	pod, err := findPod(ctx, h, name)
	if err != nil {
		return err
	}
	names, err := logContainers(pod, container)
	if err != nil {
		return err
	}
	if len(names) == 1 {
		return h.Logs(ctx, name.namespace, name.name, names[0], o, c.out)
	}
	v := newView(c, false)
	v.reserve(names)
	var g errgroup.Group
	for _, n := range names {
		follow := func() error {
			w := v.writer(n)
			defer w.flush()
			return h.Logs(ctx, name.namespace, name.name, n, o, w)
		}
		if !o.Follow {
			if err := follow(); err != nil {
				return err
			}
			continue
		}
		g.Go(follow)
	}
	return g.Wait()
}

// logContainers is whose logs are meant: the one that is named, or all that have begun.
func logContainers(pod *v1.Pod, want string) ([]string, error) {
	if want != "" || len(pod.Spec.InitContainers)+len(pod.Spec.Containers) == 1 {
		n, err := pickContainer(pod, want)
		return []string{n}, err
	}
	var names []string
	for _, st := range append(append([]v1.ContainerStatus(nil), pod.Status.InitContainerStatuses...), pod.Status.ContainerStatuses...) {
		if st.ContainerID != "" {
			names = append(names, st.Name)
		}
	}
	if len(names) == 0 {
		return nil, fail("see berth ps", "no container of pod %s has begun", nameOf(pod))
	}
	return names, nil
}
