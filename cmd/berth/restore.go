package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	v1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/11f9778f/berth/internal/checkpoint"
	"github.com/11f9778f/berth/internal/image"
)

// restored is what a restore has made.
type restored struct {
	Pod        string            `json:"pod"`
	Containers map[string]string `json:"containers"` // the image that holds the checkpoint, by the container's name
}

func (c *cli) restoreCommand() *cobra.Command {
	var output, name string
	cmd := &cobra.Command{
		Use:   "restore FOLDER",
		Short: "Run a pod on from a checkpoint",
		Long: `Run a pod on from a checkpoint that berth checkpoint has written. Its containers go on where they were, with
their memory and the files that they had written; those that are not in the checkpoint, and init containers, start
anew. Volumes are what the manifest says: what was in them is not in the checkpoint.

Each container's checkpoint becomes an image, so that it can be restarted, or pushed to another node. Connections over
the network are closed; open files of volumes must be there again.`,
		Example: "  berth restore /var/tmp/hello\n  berth restore /var/tmp/hello --name hello-again",
		Args: func(cmd *cobra.Command, args []string) error {
			return needArgs(1, "the folder of a checkpoint")(cmd, args)
		},
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveFilterDirs
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			pod, saved, err := readCheckpoint(args[0])
			if err != nil {
				return err
			}
			if name != "" {
				pod.Name = name
			}
			done := restored{Pod: nameOf(&pod).String(), Containers: map[string]string{}}
			err = c.runManifest(cmd.Context(), runOptions{detach: true}, func(ctx context.Context, h *handle) ([]byte, error) {
				if err := fromCheckpoint(ctx, h, args[0], &pod, saved, done.Containers); err != nil {
					return nil, err
				}
				return yaml.Marshal(pod)
			})
			if err == nil && output == "json" {
				err = writeJSON(c.out, done)
			}
			return err
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "another name for the pod")
	outputFlag(cmd, &output, "json")
	return cmd
}

// readCheckpoint reads what the folder says of the pod.
func readCheckpoint(folder string) (pod v1.Pod, saved checkpoint.Pod, err error) {
	if saved, err = checkpoint.ReadPod(folder); err != nil {
		return pod, saved, fail("berth checkpoint POD --to FOLDER writes one", "%s holds no checkpoint of a pod: %w", folder, err)
	}
	b, err := os.ReadFile(filepath.Join(folder, checkpointManifest))
	if err == nil {
		err = yaml.UnmarshalStrict(b, &pod)
	}
	if err != nil {
		return pod, saved, fmt.Errorf("read the manifest of the checkpoint: %w", err)
	}
	return pod, saved, nil
}

// fromCheckpoint makes an image of each archive, and has the pod's containers be made of them.
func fromCheckpoint(ctx context.Context, h *handle, folder string, pod *v1.Pod, saved checkpoint.Pod, images map[string]string) error {
	for _, s := range saved.Containers {
		name := fmt.Sprintf("berth.local/checkpoint/%s-%s-%s", pod.Namespace, pod.Name, s.Name)
		img, err := importArchive(ctx, h, filepath.Join(folder, s.Archive), s.Name, name)
		if err != nil {
			return fmt.Errorf("make an image of container %s: %w", s.Name, err)
		}
		images[s.Name] = img.ID.String()
		found := false
		for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
			for i := range list {
				if list[i].Name == s.Name {
					list[i].Image, list[i].ImagePullPolicy, found = img.ID.String(), v1.PullNever, true
				}
			}
		}
		if !found {
			return fmt.Errorf("the manifest of the checkpoint has no container %s", s.Name)
		}
	}
	return nil
}

func importArchive(ctx context.Context, h *handle, archive, container, name string) (image.Image, error) {
	r, w := io.Pipe()
	go func() { w.CloseWithError(checkpoint.WriteImage(ctx, w, archive, container)) }()
	defer r.Close()
	images, err := h.node.Import(ctx, name, r, nil)
	if err != nil {
		return image.Image{}, err
	}
	if len(images) != 1 {
		return image.Image{}, fmt.Errorf("the archive became %d images", len(images))
	}
	return images[0], nil
}
