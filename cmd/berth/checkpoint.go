package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/11f9778f/berth/internal/node"
)

// checkpointManifest is what the pod is made of, beside its archives.
const checkpointManifest = "pod.yaml"

func (c *cli) checkpointCommand() *cobra.Command {
	var output, to string
	var containers []string
	cmd := &cobra.Command{
		Use:   "checkpoint POD --to FOLDER",
		Short: "Write the running processes of a pod to disk, to go on from there with berth restore",
		Long: `Write the processes of a pod's containers, their memory and the files that they have written into a
folder: an archive for each container in Kubernetes' format, what they share in memory, and the pod's
manifest. All are of the same moment, and the pod runs on.

The archives hold what is in the processes' memory, so their secrets: only root can read them. It needs
CRIU, version 4 or newer.`,
		Example:           "  berth checkpoint hello --to /var/tmp/hello\n  berth checkpoint hello --to /var/tmp/hello -c web -o json",
		Args:              podArgument,
		ValidArgsFunction: c.completePods,
		RunE: func(cmd *cobra.Command, args []string) error {
			folder, err := filepath.Abs(to)
			if err != nil {
				return err
			}
			h, err := c.mustConnect(cmd.Context())
			if err != nil {
				return err
			}
			defer h.Close()
			done, err := writeCheckpoint(cmd.Context(), h, parsePod(args[0]), folder, containers)
			if err != nil {
				return err
			}
			if output == "json" {
				return writeJSON(c.out, done)
			}
			_, err = fmt.Fprintf(c.out, "wrote %s of pod %s to %s\n", strings.Join(done.Containers, ", "), args[0], done.Folder)
			return err
		},
	}
	cmd.Flags().StringVar(&to, "to", "", "the folder, which must be empty or not be there yet")
	cmd.Flags().StringArrayVarP(&containers, "container", "c", nil, "only this container; may be given several times (default: all that run)")
	cmd.MarkFlagRequired("to")
	cmd.MarkFlagDirname("to")
	cmd.RegisterFlagCompletionFunc("container", c.completeContainers)
	outputFlag(cmd, &output, "json")
	return cmd
}

// podArgument wants the name of one pod.
func podArgument(cmd *cobra.Command, args []string) error {
	if err := needArgs(1, "the name of a pod")(cmd, args); err != nil {
		return err
	}
	return cobra.MaximumNArgs(1)(cmd, args)
}

// writeCheckpoint leaves no folder behind that it has made and that holds no checkpoint.
func writeCheckpoint(ctx context.Context, h *handle, name podName, folder string, containers []string) (done node.Checkpoint, err error) {
	pod, err := findPod(ctx, h, name)
	if err != nil {
		return done, err
	}
	made := os.Mkdir(folder, 0o700)
	if made != nil && !os.IsExist(made) {
		return done, made
	}
	defer func() {
		if err != nil && made == nil {
			os.RemoveAll(folder)
		}
	}()
	if done, err = h.node.Checkpoint(ctx, name.namespace, name.name, folder, containers); err != nil {
		return done, err
	}
	again := v1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}, Spec: pod.Spec, ObjectMeta: metav1.ObjectMeta{
		Name: pod.Name, Namespace: pod.Namespace, Labels: pod.Labels, Annotations: pod.Annotations,
	}}
	b, err := yaml.Marshal(again)
	if err != nil {
		return done, err
	}
	return done, os.WriteFile(filepath.Join(folder, checkpointManifest), b, 0o600)
}
