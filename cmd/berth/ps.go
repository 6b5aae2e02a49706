package main

import (
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func (c *cli) psCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:     "ps",
		Aliases: []string{"pods"},
		Short:   "List the pods and their containers",
		Example: "  berth ps\n  berth ps -o wide\n  berth ps -o json | jq -r '.items[].metadata.name'",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var pods []v1.Pod
			h, ok, err := c.connect(cmd.Context())
			if err != nil {
				return err
			}
			if ok {
				defer h.Close()
				if pods, err = h.Pods(cmd.Context()); err != nil {
					return err
				}
			}
			if output == "json" {
				return writeJSON(c.out, v1.PodList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PodList"}, Items: pods})
			}
			if !ok {
				_, err := fmt.Fprintf(c.err, "no node is running on %s, so there are no pods\n", c.run)
				return err
			}
			return writePods(c.out, pods, output == "wide", time.Now())
		},
	}
	outputFlag(cmd, &output, "wide", "json")
	return cmd
}

// writePods writes a row for each container, with what belongs to the pod on its first one.
func writePods(w io.Writer, pods []v1.Pod, wide bool, now time.Time) error {
	head := []string{"POD", "CONTAINER", "STATE", "READY", "RESTARTS", "IP", "PORTS", "AGE"}
	if wide {
		head = append(head, "IMAGE", "CONTAINER ID")
	}
	rows := [][]string{head}
	for i := range pods {
		p := &pods[i]
		name := nameOf(p).String()
		ip, ports, old := orDash(p.Status.PodIP), orDash(hostPorts(p)), age(p.CreationTimestamp.Time, now)
		add := func(ct v1.Container, st *v1.ContainerStatus) {
			row := []string{name, ct.Name, stateOf(p, st), readyOf(st), restartsOf(st), ip, ports, old}
			if wide {
				row = append(row, ct.Image, orDash(idOf(st)))
			}
			rows = append(rows, row)
			name, ip, ports, old = "", "", "", ""
		}
		for _, ct := range p.Spec.InitContainers {
			if st := statusOf(p.Status.InitContainerStatuses, ct.Name); st == nil || st.State.Terminated == nil || st.State.Terminated.ExitCode != 0 {
				add(ct, st) // one that has done its work is of no interest any more
			}
		}
		for _, ct := range p.Spec.Containers {
			add(ct, statusOf(p.Status.ContainerStatuses, ct.Name))
		}
	}
	return table(w, rows)
}

func statusOf(list []v1.ContainerStatus, name string) *v1.ContainerStatus {
	for i := range list {
		if list[i].Name == name {
			return &list[i]
		}
	}
	return nil
}

// stateOf is a container's state in one word, with its reason or exit code.
func stateOf(p *v1.Pod, st *v1.ContainerStatus) string {
	suffix := ""
	if p.DeletionTimestamp != nil {
		suffix = ", ending"
	}
	switch {
	case st == nil:
		return "waiting" + suffix
	case st.State.Running != nil:
		return "running" + suffix
	case st.State.Terminated != nil:
		return fmt.Sprintf("exited (%d)", st.State.Terminated.ExitCode) + suffix
	case st.State.Waiting != nil && st.State.Waiting.Reason != "":
		return "waiting: " + st.State.Waiting.Reason + suffix
	}
	return "waiting" + suffix
}

func readyOf(st *v1.ContainerStatus) string {
	if st != nil && st.Ready {
		return "yes"
	}
	return "no"
}

func restartsOf(st *v1.ContainerStatus) string {
	if st == nil {
		return "0"
	}
	return strconv.Itoa(int(st.RestartCount))
}

func idOf(st *v1.ContainerStatus) string {
	if st == nil {
		return ""
	}
	return st.ContainerID
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
