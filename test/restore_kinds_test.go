package test

import (
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// kind is a way for a container to be.
type kind struct {
	name      string
	pod       func(*cri.PodSandboxConfig)
	container func(*cri.ContainerConfig)
	// unsaved and unmade are in the sentences of a checkpoint and of a restore that can't be.
	unsaved, unmade string
}

// What CRIU can't do is refused before anything is made, with the reason, and the container runs on.
func TestKindsThatAreNotRestored(t *testing.T) {
	needsCRIU(t)
	ids := []*cri.IDMapping{{HostId: 1 << 20, Length: 65536}}
	shared := func(o *cri.NamespaceOption) { o.Pid = cri.NamespaceMode_POD }
	users := func(o *cri.NamespaceOption) {
		o.UsernsOptions = &cri.UserNamespace{Uids: ids, Gids: ids}
	}
	both := func(f func(*cri.NamespaceOption)) (func(*cri.PodSandboxConfig), func(*cri.ContainerConfig)) {
		return func(c *cri.PodSandboxConfig) { f(c.Linux.SecurityContext.NamespaceOptions) },
			func(c *cri.ContainerConfig) { f(c.Linux.SecurityContext.NamespaceOptions) }
	}
	sharedPod, sharedContainer := both(shared)
	userPod, userContainer := both(users)
	for _, k := range []kind{
		{"shared PID namespace", sharedPod, sharedContainer, "shares the PID namespace", ""},
		{"user namespace", userPod, userContainer, "", "a container in a user namespace can't be restored"},
		{"terminal", func(*cri.PodSandboxConfig) {}, func(c *cri.ContainerConfig) { c.Tty = true }, "", "a container with a terminal can't be restored"},
	} {
		t.Run(k.name, func(t *testing.T) {
			m := newMachine(t)
			m.criDaemon(nil)
			c := newCountersOf(m, counting, k.pod, k.container, "app")
			m.eventually("it counts", func() bool { return c.count("app") > 2 })
			archive := filepath.Join(m.dir, "app.tar")
			err := c.checkpoint(c.ids[0], archive, 60)
			c.goesOn(m, "app")
			if k.unsaved != "" {
				refusal(t, "the checkpoint", err, k.unsaved)
			} else if err != nil {
				t.Error(err)
			} else {
				config := proto.Clone(c.configs[0]).(*cri.ContainerConfig)
				config.Metadata.Name, config.Image.Image, config.Command = "again", archive, nil
				_, err := c.CreateContainer(c.ctx, &cri.CreateContainerRequest{PodSandboxId: c.pod, SandboxConfig: c.config, Config: config})
				refusal(t, "the restore", err, k.unmade)
			}
			c.removePod(c.pod)
			m.clean()
			stopCRI(m)
		})
	}
}

func refusal(t *testing.T, what string, err error, words string) {
	t.Helper()
	if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), words) {
		t.Errorf("%s: %v, want %q", what, err, words)
	}
}
