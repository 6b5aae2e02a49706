package cri

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/11f9778f/berth/internal/image"
)

// guarded is a store whose policy rejects one name.
type guarded struct {
	store
	rejects string
}

func (g guarded) Allowed(refOrID, asked string) error {
	if refOrID == g.rejects || asked == g.rejects {
		return fmt.Errorf("%w: %s", image.ErrRejected, g.rejects)
	}
	return nil
}

// No container is made of an image that the policy rejects, be it its own or one that it mounts, by the name
// that the user has for it.
func TestPolicyOfContainers(t *testing.T) {
	ctx := context.Background()
	s := newServer(t)
	pod, err := s.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: podConfig()})
	if err != nil {
		t.Fatal(err)
	}
	s.images = guarded{rejects: "bad:1"}
	for what, change := range map[string]func(*runtimeapi.ContainerConfig){
		"name":               func(c *runtimeapi.ContainerConfig) { c.Image.Image = "bad:1" },
		"what the user said": func(c *runtimeapi.ContainerConfig) { c.Image.UserSpecifiedImage = "bad:1" },
		"volume": func(c *runtimeapi.ContainerConfig) {
			c.Mounts = append(c.Mounts, &runtimeapi.Mount{ContainerPath: "/v", Readonly: true, Image: &runtimeapi.ImageSpec{Image: "bad:1"}})
		},
	} {
		c := containerConfig()
		change(c)
		_, err := s.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: pod.PodSandboxId, Config: c})
		if status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), signatureValidationFailed) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := s.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: pod.PodSandboxId, Config: containerConfig()}); err != nil {
		t.Error(err)
	}
}
