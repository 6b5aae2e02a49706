package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

func (c *cli) rmCommand() *cobra.Command {
	var grace int64
	var all, wait bool
	cmd := &cobra.Command{
		Use:     "rm POD…",
		Aliases: []string{"delete"},
		Short:   "End pods and remove every trace of them",
		Long: `End pods within their grace period (terminationGracePeriodSeconds, or --grace-period) and remove
every trace of them. It returns when they are gone.`,
		Example:           "  berth rm hello\n  berth rm --grace-period 0 hello   # at once\n  berth rm --all",
		ValidArgsFunction: c.completePods,
		RunE: func(cmd *cobra.Command, args []string) error {
			if all == (len(args) > 0) {
				return &failure{err: fmt.Errorf("berth rm needs the names of pods, or --all"), remedy: "see berth ps", code: 2}
			}
			h, err := c.mustConnect(cmd.Context())
			if err != nil {
				return err
			}
			defer h.Close()
			names := make([]podName, 0, len(args))
			for _, a := range args {
				names = append(names, parsePod(a))
			}
			if all {
				pods, err := h.Pods(cmd.Context())
				if err != nil {
					return err
				}
				for i := range pods {
					names = append(names, nameOf(&pods[i]))
				}
			}
			var seconds *int64
			if cmd.Flags().Changed("grace-period") {
				seconds = &grace
			}
			return c.remove(cmd.Context(), h, names, seconds, wait)
		},
	}
	cmd.Flags().Int64Var(&grace, "grace-period", 0, "seconds that containers get to end by themselves (default: the pod's own)")
	cmd.Flags().BoolVar(&all, "all", false, "every pod of the node")
	cmd.Flags().BoolVar(&wait, "wait", true, "wait until they are gone")
	return cmd
}

// remove asks for the end of all pods first and waits for each afterwards.
func (c *cli) remove(ctx context.Context, h *handle, names []podName, grace *int64, wait bool) error {
	for _, n := range names {
		if _, err := findPod(ctx, h, n); err != nil {
			return err
		}
	}
	for _, n := range names {
		err := c.persist(ctx, h, func() error {
			_, err := h.Delete(ctx, n.namespace, n.name, grace)
			return err
		})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("remove pod %s: %w", n, err)
		}
	}
	for _, n := range names {
		if wait {
			if err := c.awaitGone(ctx, h, n); err != nil {
				return err
			}
		}
		fmt.Fprintf(c.out, "pod %s removed\n", n)
	}
	return nil
}

// awaitGone waits until the node knows the pod no more. The wish is on disk: where the node dies
// meanwhile, the next one fulfils it.
func (c *cli) awaitGone(ctx context.Context, h *handle, n podName) error {
	pause := 2 * time.Millisecond
	for {
		err := c.persist(ctx, h, func() error {
			_, err := h.Pod(ctx, n.namespace, n.name)
			return err
		})
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("wait for the end of pod %s: %w", n, err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
		pause = min(2*pause, 100*time.Millisecond)
	}
}
