package criconfig

import (
	"fmt"
	"path"
	"strconv"
	"time"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Input is what a container's configuration is made from.
type Input struct {
	Node       *Node
	Pod        *v1.Pod
	Container  *v1.Container
	Attempt    uint32
	BackOff    time.Duration
	ConfigMaps []*v1.ConfigMap
	Secrets    []*v1.Secret
	PodIPs     []string

	ImageRef  string            // what the image service answered
	ImageUser *runtimeapi.Image // for runAsNonRoot; nil if it was not asked for

	VolumePath  func(*v1.Volume) string // where a volume is on the node
	HostsFile   string                  // becomes /etc/hosts; empty: none
	MessageFile string                  // becomes terminationMessagePath; empty: none
}

// LogPath is a container's log, relative to the pod's log directory.
func LogPath(container string, attempt uint32) string {
	return path.Join(container, strconv.FormatUint(uint64(attempt), 10)+".log")
}

// Container is the configuration of one instance of a container. An error is the pod's fault and does not go
// away by itself: CreateContainerConfigError.
func Container(in *Input) (*runtimeapi.ContainerConfig, error) {
	env, err := environment(in)
	if err != nil {
		return nil, err
	}
	security, err := containerSecurity(in)
	if err != nil {
		return nil, err
	}
	mounts, err := in.mounts()
	if err != nil {
		return nil, err
	}
	labels := podLabels(in.Pod)
	labels[LabelContainerName] = in.Container.Name
	c := in.Container
	return &runtimeapi.ContainerConfig{
		Metadata:    &runtimeapi.ContainerMetadata{Name: c.Name, Attempt: in.Attempt},
		Image:       &runtimeapi.ImageSpec{Image: in.ImageRef, UserSpecifiedImage: c.Image},
		Command:     expandAll(c.Command, env),
		Args:        expandAll(c.Args, env),
		WorkingDir:  c.WorkingDir,
		Envs:        env.list(),
		Mounts:      mounts,
		Labels:      labels,
		Annotations: containerAnnotations(in),
		LogPath:     LogPath(c.Name, in.Attempt),
		Stdin:       c.Stdin,
		StdinOnce:   c.StdinOnce,
		Tty:         c.TTY,
		Linux:       &runtimeapi.LinuxContainerConfig{Resources: containerResources(in), SecurityContext: security},
	}, nil
}

func (in *Input) mounts() ([]*runtimeapi.Mount, error) {
	var out []*runtimeapi.Mount
	taken := map[string]bool{}
	for _, m := range in.Container.VolumeMounts {
		v := findVolume(&in.Pod.Spec, m.Name)
		if v == nil {
			return nil, fmt.Errorf("there is no volume %q", m.Name)
		}
		taken[path.Clean(m.MountPath)] = true
		out = append(out, &runtimeapi.Mount{
			ContainerPath: m.MountPath, HostPath: in.VolumePath(v),
			// The files of these two are the kubelet's: a container that wrote them would be overruled.
			Readonly: m.ReadOnly || v.ConfigMap != nil || v.Secret != nil,
		})
	}
	if in.HostsFile != "" && !taken["/etc/hosts"] {
		out = append(out, &runtimeapi.Mount{ContainerPath: "/etc/hosts", HostPath: in.HostsFile})
	}
	if in.MessageFile != "" && !taken[path.Clean(in.Container.TerminationMessagePath)] {
		out = append(out, &runtimeapi.Mount{ContainerPath: in.Container.TerminationMessagePath, HostPath: in.MessageFile})
	}
	return out, nil
}

func findVolume(s *v1.PodSpec, name string) *v1.Volume {
	for i := range s.Volumes {
		if s.Volumes[i].Name == name {
			return &s.Volumes[i]
		}
	}
	return nil
}
