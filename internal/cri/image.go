package cri

import (
	"context"
	"errors"
	"strconv"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/11f9778f/berth/internal/image"
)

// PullProgress is how far a pull is, in bytes. Total is 0 while it is unknown.
type PullProgress struct {
	Current, Total int64
	Detail         string
}

// PullImage fetches an image and answers its ID.
func (s *Server) PullImage(ctx context.Context, req *runtimeapi.PullImageRequest) (*runtimeapi.PullImageResponse, error) {
	return s.PullImageProgress(ctx, req, nil)
}

// PullImageProgress is PullImage for callers in the same process: progress, unless it is nil, is called
// now and then until the call returns.
func (s *Server) PullImageProgress(ctx context.Context, req *runtimeapi.PullImageRequest, progress func(PullProgress)) (*runtimeapi.PullImageResponse, error) {
	ref := req.GetImage().GetImage()
	if ref == "" {
		return nil, badRequest("image.image is missing")
	}
	if h := req.GetImage().GetRuntimeHandler(); !s.rt.Handler(h) {
		return nil, badRequest("image.runtime_handler: no handler %q is configured", h)
	}
	o := image.PullOptions{Auth: auth(req.GetAuth())}
	if progress != nil {
		o.Progress = func(p image.Progress) { progress(summary(p)) }
	}
	img, err := s.images.Pull(ctx, ref, o)
	if err != nil {
		return nil, asStatus(err)
	}
	return &runtimeapi.PullImageResponse{ImageRef: img.ID.String()}, nil
}

func auth(a *runtimeapi.AuthConfig) *image.Auth {
	if a == nil {
		return nil
	}
	return &image.Auth{
		Username: a.GetUsername(), Password: a.GetPassword(), Auth: a.GetAuth(), ServerAddress: a.GetServerAddress(),
		IdentityToken: a.GetIdentityToken(), RegistryToken: a.GetRegistryToken(),
	}
}

func summary(p image.Progress) PullProgress {
	out := PullProgress{Detail: string(p.Phase)}
	for _, l := range p.Layers {
		out.Current += l.Downloaded
		out.Total += l.Size
	}
	return out
}

// ListImages lists the images in the store.
func (s *Server) ListImages(_ context.Context, req *runtimeapi.ListImagesRequest) (*runtimeapi.ListImagesResponse, error) {
	resp := &runtimeapi.ListImagesResponse{}
	if ref := req.GetFilter().GetImage().GetImage(); ref != "" {
		img, err := s.images.Get(ref)
		if errors.Is(err, image.ErrNotFound) {
			return resp, nil
		}
		if err != nil {
			return nil, asStatus(err)
		}
		resp.Images = append(resp.Images, s.criImage(img))
		return resp, nil
	}
	for _, img := range s.images.List() {
		resp.Images = append(resp.Images, s.criImage(img))
	}
	return resp, nil
}

// ImageStatus describes an image; one that is not there is an answer without one, not an error.
func (s *Server) ImageStatus(_ context.Context, req *runtimeapi.ImageStatusRequest) (*runtimeapi.ImageStatusResponse, error) {
	ref := req.GetImage().GetImage()
	if ref == "" {
		return nil, badRequest("image.image is missing")
	}
	img, err := s.images.Get(ref)
	if errors.Is(err, image.ErrNotFound) {
		return &runtimeapi.ImageStatusResponse{}, nil
	}
	if err != nil {
		return nil, asStatus(err)
	}
	resp := &runtimeapi.ImageStatusResponse{Image: s.criImage(img)}
	if resp.Image.Spec.Annotations, err = s.images.Annotations(img); err != nil {
		s.log.Warn("an image's annotations can't be read", "image", img.ID, "error", err)
	}
	if req.GetVerbose() {
		resp.Info = imageInfo(img)
	}
	return resp, nil
}

// RemoveImage removes an image with all its names; one that is not there is removed.
func (s *Server) RemoveImage(ctx context.Context, req *runtimeapi.RemoveImageRequest) (*runtimeapi.RemoveImageResponse, error) {
	ref := req.GetImage().GetImage()
	if ref == "" {
		return nil, badRequest("image.image is missing")
	}
	if err := s.images.Remove(ctx, ref); err != nil && !errors.Is(err, image.ErrNotFound) {
		return nil, asStatus(err)
	}
	return &runtimeapi.RemoveImageResponse{}, nil
}

// ImageFsInfo measures where images and writable layers are.
func (s *Server) ImageFsInfo(ctx context.Context, _ *runtimeapi.ImageFsInfoRequest) (*runtimeapi.ImageFsInfoResponse, error) {
	images, snapshots, err := s.images.FSInfo(ctx)
	if err != nil {
		return nil, asStatus(err)
	}
	return &runtimeapi.ImageFsInfoResponse{
		ImageFilesystems: []*runtimeapi.FilesystemUsage{fsUsage(images)}, ContainerFilesystems: []*runtimeapi.FilesystemUsage{fsUsage(snapshots)},
	}, nil
}

func fsUsage(f image.FSInfo) *runtimeapi.FilesystemUsage {
	return &runtimeapi.FilesystemUsage{
		Timestamp: f.Time.UnixNano(), FsId: &runtimeapi.FilesystemIdentifier{Mountpoint: f.Path},
		UsedBytes: number(uint64(f.Used.Bytes)), InodesUsed: number(uint64(f.Used.Inodes)),
	}
}

func (s *Server) criImage(img *image.Image) *runtimeapi.Image {
	out := &runtimeapi.Image{
		Id: img.ID.String(), RepoTags: img.RepoTags, RepoDigests: img.RepoDigests, Size: uint64(img.Size),
		Spec: &runtimeapi.ImageSpec{Image: img.ID.String()}, Pinned: img.Pinned || img.Named(s.cfg.Pinned),
	}
	user, _, _ := strings.Cut(img.Config.Config.User, ":")
	if uid, err := strconv.ParseInt(user, 10, 64); err == nil {
		out.Uid = &runtimeapi.Int64Value{Value: uid}
	} else {
		out.Username = user
	}
	return out
}
