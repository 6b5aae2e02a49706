package cri

import (
	"context"
	"errors"
	"maps"
	"path/filepath"
	"slices"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/11f9778f/berth/internal/checkpoint"
	"github.com/11f9778f/berth/internal/image"
	"github.com/11f9778f/berth/internal/runtime"
)

// maxTimeout bounds the timeout of a request in seconds.
const maxTimeout = 24 * 60 * 60

// CheckpointContainer writes an archive in Kubernetes' format; see package checkpoint.
func (s *Server) CheckpointContainer(ctx context.Context, req *runtimeapi.CheckpointContainerRequest) (*runtimeapi.CheckpointContainerResponse, error) {
	id, err := s.runningID(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	if t := req.GetTimeout(); t < 0 || t > maxTimeout {
		return nil, badRequest("timeout: %d is not from 0 to %d seconds", t, maxTimeout)
	}
	if req.GetLocation() == "" {
		return nil, badRequest("location: the path of the archive to write is missing")
	}
	if err := s.rt.CheckpointContainer(ctx, id, req.GetLocation(), time.Duration(req.GetTimeout())*time.Second); err != nil {
		return nil, asStatus(err)
	}
	return &runtimeapi.CheckpointContainerResponse{}, nil
}

// noOptions refuses options, of which Berth's shim knows none.
func noOptions(options map[string]string) error {
	if len(options) == 0 {
		return nil
	}
	return badRequest("options: %q is not known", slices.Min(slices.Collect(maps.Keys(options))))
}

// CheckpointPod writes archives of containers of a pod, all of one moment, into a folder.
func (s *Server) CheckpointPod(ctx context.Context, req *runtimeapi.CheckpointPodRequest) (*runtimeapi.CheckpointPodResponse, error) {
	id, err := s.sandboxID(req.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	if err := noOptions(req.GetOptions()); err != nil {
		return nil, err
	}
	if len(req.GetContainerIds()) == 0 {
		return nil, badRequest("container_ids: at least one container has to be named")
	}
	var ids []string
	for _, c := range req.GetContainerIds() {
		c, err := s.runningID(c)
		if err != nil {
			return nil, err
		}
		ids = append(ids, c)
	}
	if err := s.rt.CheckpointPod(ctx, id, req.GetOutputPath(), ids); err != nil {
		return nil, asStatus(err)
	}
	return &runtimeapi.CheckpointPodResponse{}, nil
}

// RestorePod makes a sandbox and created containers of a checkpoint that CheckpointPod has written.
func (s *Server) RestorePod(ctx context.Context, req *runtimeapi.RestorePodRequest) (*runtimeapi.RestorePodResponse, error) {
	if err := noOptions(req.GetOptions()); err != nil {
		return nil, err
	}
	sb, err := sandboxSpec(req.GetConfig())
	if err != nil {
		return nil, err
	}
	sb.Handler = req.GetRuntimeHandler()
	if !s.rt.Handler(sb.Handler) {
		return nil, badRequest("runtime_handler: no handler %q is configured", sb.Handler)
	}
	var list []runtime.ContainerSpec
	for i, c := range req.GetContainerConfigs() {
		spec, err := containerSpec(c)
		if err == nil {
			err = agree(sb, spec, c)
		}
		if err != nil {
			return nil, err
		}
		if spec.PIDTarget != "" {
			return nil, badRequest("container_configs[%d]: a process of another container's PID namespace can't be restored", i)
		}
		list = append(list, spec)
	}
	if len(list) == 0 {
		return nil, badRequest("container_configs: the configurations of the checkpoint's containers are missing")
	}
	id, made, err := s.rt.RestorePod(ctx, req.GetCheckpointPath(), sb, list)
	if err != nil {
		return nil, asStatus(err)
	}
	resp := &runtimeapi.RestorePodResponse{PodSandboxId: id}
	for _, c := range made {
		resp.RestoredContainers = append(resp.RestoredContainers, &runtimeapi.RestoredContainer{Name: c.Name, ContainerId: c.ID})
	}
	return resp, nil
}

// Annotations by which an image says that it holds the archive of a checkpoint (of Podman's and buildah's
// convention, and the older one of CRI-O's).
var checkpointAnnotations = []string{checkpoint.AnnotationName, "io.kubernetes.cri-o.annotations.checkpoint.name"}

// fromCheckpoint tells a container that is to be made from a checkpoint: what stands for its image is the absolute path
// of an archive, which no image is called, or an image that holds one.
func (s *Server) fromCheckpoint(spec *runtime.ContainerSpec) error {
	if filepath.IsAbs(spec.Image) {
		spec.Checkpoint.Path, spec.Image = spec.Image, ""
		return nil
	}
	img, err := s.images.Get(spec.Image)
	if err != nil {
		if errors.Is(err, image.ErrNotFound) || errors.Is(err, image.ErrInvalid) || errors.Is(err, image.ErrAmbiguous) {
			return nil // the runtime says so
		}
		return asStatus(err)
	}
	if c := img.Config.Config; len(img.Layers) != 1 || len(c.Entrypoint)+len(c.Cmd) > 0 {
		return nil // a checkpoint is one layer, and nothing that could be run
	}
	annotations, err := s.images.Annotations(img)
	if err != nil {
		return asStatus(err)
	}
	for _, name := range checkpointAnnotations {
		if _, ok := annotations[name]; ok {
			spec.Checkpoint.Image, spec.Image = img.ID.String(), ""
			return nil
		}
	}
	return nil
}
