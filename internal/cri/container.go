package cri

import (
	"context"
	"errors"
	"reflect"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/11f9778f/berth/internal/image"
	"github.com/11f9778f/berth/internal/runtime"
)

// CreateContainer prepares a container in a sandbox.
func (s *Server) CreateContainer(ctx context.Context, req *runtimeapi.CreateContainerRequest) (*runtimeapi.CreateContainerResponse, error) {
	spec, err := containerSpec(req.GetConfig())
	if err != nil {
		return nil, err
	}
	if spec.PIDTarget, err = s.containerID(spec.PIDTarget); err != nil {
		return nil, err
	}
	sandbox, err := s.sandboxID(req.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	sb, err := s.rt.Sandbox(sandbox)
	if err != nil {
		return nil, asStatus(err)
	}
	if err := agree(sb.Spec, spec, req.GetConfig()); err != nil {
		return nil, err
	}
	if err := s.fromCheckpoint(&spec); err != nil {
		return nil, err
	}
	if err := s.allowed(spec); err != nil {
		return nil, err
	}
	id, err := s.rt.CreateContainer(ctx, sandbox, spec)
	if err != nil {
		return nil, asStatus(err)
	}
	return &runtimeapi.CreateContainerResponse{ContainerId: id}, nil
}

// allowed asks the image policy about the container's image and those that it mounts.
func (s *Server) allowed(spec runtime.ContainerSpec) error {
	asked := [][2]string{{spec.Image, spec.UserImage}, {spec.Checkpoint.Image, spec.UserImage}}
	for _, m := range spec.Mounts {
		if m.Image != nil {
			asked = append(asked, [2]string{m.Image.Image, m.Image.Image})
		}
	}
	for _, a := range asked {
		if a[0] == "" {
			continue // a checkpoint has one or the other
		}
		if err := s.images.Allowed(a[0], a[1]); errors.Is(err, image.ErrRejected) {
			return asStatus(err)
		}
	}
	return nil // what is not here the runtime says
}

// agree refuses a container that asks for more, or for other namespaces, than its sandbox has.
func agree(sb runtime.SandboxSpec, c runtime.ContainerSpec, cfg *runtimeapi.ContainerConfig) error {
	if c.Security.Privileged && !sb.Privileged {
		return badRequest("config.linux.security_context.privileged: the sandbox is not privileged")
	}
	o := cfg.GetLinux().GetSecurityContext().GetNamespaceOptions()
	if o == nil {
		return nil
	}
	want := sandboxNamespaces(o)
	if c.PID != runtime.NamespacePod && sb.Namespaces.PID != runtime.NamespaceNode {
		want.PID = sb.Namespaces.PID // it has one of its own, or another container's
	}
	if o.GetUsernsOptions() != nil && !reflect.DeepEqual(userNamespace(o), sb.User) {
		return badRequest("config.linux.security_context.namespace_options.userns_options: they differ from the sandbox's")
	}
	if want != sb.Namespaces {
		return badRequest("config.linux.security_context.namespace_options: they differ from the sandbox's")
	}
	return nil
}

// StartContainer executes the container's program.
func (s *Server) StartContainer(ctx context.Context, req *runtimeapi.StartContainerRequest) (*runtimeapi.StartContainerResponse, error) {
	id, err := s.containerID(req.GetContainerId())
	if err == nil {
		err = s.rt.StartContainer(ctx, id)
	}
	return &runtimeapi.StartContainerResponse{}, asStatus(err)
}

// StopContainer ends the container within timeout seconds.
func (s *Server) StopContainer(ctx context.Context, req *runtimeapi.StopContainerRequest) (*runtimeapi.StopContainerResponse, error) {
	id, err := s.containerID(req.GetContainerId())
	if err == nil {
		err = s.rt.StopContainer(ctx, id, seconds(req.GetTimeout()))
	}
	return &runtimeapi.StopContainerResponse{}, asStatus(err)
}

// seconds bounds a number of seconds to what a Duration can hold: a year is for ever.
func seconds(n int64) time.Duration {
	return time.Duration(min(max(n, 0), 365*24*3600)) * time.Second
}

// RemoveContainer kills and removes the container.
func (s *Server) RemoveContainer(ctx context.Context, req *runtimeapi.RemoveContainerRequest) (*runtimeapi.RemoveContainerResponse, error) {
	id, err := s.containerID(req.GetContainerId())
	if err == nil {
		err = s.rt.RemoveContainer(ctx, id)
	}
	return &runtimeapi.RemoveContainerResponse{}, asStatus(err)
}

// ListContainers lists containers from memory.
func (s *Server) ListContainers(_ context.Context, req *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
	f := req.GetFilter()
	resp := &runtimeapi.ListContainersResponse{}
	id, err := s.containerID(f.GetId())
	if err != nil {
		return resp, nil // short for several: none is meant
	}
	sandbox, err := s.sandboxID(f.GetPodSandboxId())
	if err != nil {
		return resp, nil
	}
	for _, c := range s.rt.Containers(sandbox) {
		switch {
		case id != "" && c.ID != id,
			f.GetState() != nil && f.GetState().GetState() != containerState(c.State),
			!matches(c.Spec.Labels, f.GetLabelSelector()):
			continue
		}
		resp.Containers = append(resp.Containers, &runtimeapi.Container{
			Id: c.ID, PodSandboxId: c.SandboxID, Metadata: containerMetadata(c), Image: imageSpec(c),
			ImageRef: c.ImageRef, ImageId: c.ImageID, State: containerState(c.State), CreatedAt: c.CreatedAt.UnixNano(),
			Labels: c.Spec.Labels, Annotations: c.Spec.Annotations,
		})
	}
	return resp, nil
}

// ContainerStatus describes a container.
func (s *Server) ContainerStatus(_ context.Context, req *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error) {
	id, err := s.containerID(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	c, err := s.rt.Container(id)
	if err != nil {
		return nil, asStatus(err)
	}
	resp := &runtimeapi.ContainerStatusResponse{Status: containerStatus(c)}
	if req.GetVerbose() {
		resp.Info = s.containerInfo(c)
	}
	return resp, nil
}

// UpdateContainerResources changes limits; zero fields stay.
func (s *Server) UpdateContainerResources(ctx context.Context, req *runtimeapi.UpdateContainerResourcesRequest) (*runtimeapi.UpdateContainerResourcesResponse, error) {
	if req.GetWindows() != nil {
		return nil, badRequest("windows: this node runs Linux")
	}
	id, err := s.containerID(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	if err := checkLimits("linux.", req.GetLinux()); err != nil {
		return nil, err
	}
	if err := s.rt.UpdateResources(ctx, id, resources(req.GetLinux())); err != nil {
		return nil, asStatus(err)
	}
	return &runtimeapi.UpdateContainerResourcesResponse{}, nil
}

// ReopenContainerLog has the log written to a new file after a rotation.
func (s *Server) ReopenContainerLog(ctx context.Context, req *runtimeapi.ReopenContainerLogRequest) (*runtimeapi.ReopenContainerLogResponse, error) {
	id, err := s.containerID(req.GetContainerId())
	if err == nil {
		err = s.rt.ReopenLog(ctx, id)
	}
	if err != nil {
		return nil, asStatus(err)
	}
	return &runtimeapi.ReopenContainerLogResponse{}, nil
}
