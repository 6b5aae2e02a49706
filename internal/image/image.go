package image

import (
	"path"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Image is what the store knows about one image. It is a value that belongs to the caller.
type Image struct {
	// ID is the digest of the configuration, as the Container Runtime Interface has it.
	ID digest.Digest
	// Namespace is whose image it is: another one may have the same under other names.
	Namespace string
	// Manifest is the digest of the manifest that the layers came by.
	Manifest digest.Digest
	// RepoTags are the full names with a tag, "docker.io/library/busybox:1.36", sorted.
	RepoTags []string
	// RepoDigests are the full names with a digest, "docker.io/library/busybox@sha256:…", sorted.
	RepoDigests []string
	// Size is the sum of manifest, configuration and compressed layers in bytes.
	Size int64
	// Config is the image's configuration: environment, command, user and so on.
	Config ispec.Image
	// Layers are the image's layers, the lowest first.
	Layers []Layer
	// Pulled is when the image came into this store.
	Pulled time.Time
	// Used is when a container was last made of it, or Pulled.
	Used time.Time
	// Pinned says that neither Prune nor a kubelet may collect it.
	Pinned bool
}

// Named tells whether one of the image's tags matches one of the patterns (path.Match).
func (i *Image) Named(patterns []string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		return slices.ContainsFunc(i.RepoTags, func(name string) bool {
			ok, err := path.Match(pattern, name)
			return err == nil && ok
		})
	})
}

// Layer is one layer of an image: the blob that carried it and the tar that it holds.
type Layer struct {
	// Blob describes the (usually compressed) bytes: media type, digest, size.
	Blob ispec.Descriptor
	// DiffID is the digest of the uncompressed tar.
	DiffID digest.Digest
}

// Mount is a mount as the OCI runtime specification and the shim API have it.
type Mount struct {
	Type    string
	Source  string
	Options []string
}

// Rootfs is one container's writable root filesystem: an overlay of an image's layers.
type Rootfs struct {
	// Mounts is what to mount, in order, at the root: one overlay mount, or where the kernel has no overlayfs
	// a bind mount of Upper, which holds a copy of the image then.
	// Its option string can be longer than a memory page, which mount(2) refuses: then
	// mount Lower, Upper and Work with fsconfig(2) "lowerdir+".
	Mounts []Mount
	// Lower are the layers' directories, the topmost first.
	Lower []string
	// Upper and Work are the overlay's upperdir and workdir.
	Upper, Work string
}

// Usage is space on a disk.
type Usage struct {
	Bytes  int64
	Inodes int64
	// MaxBytes and MaxInodes are a writable layer's limits; 0 is none.
	MaxBytes, MaxInodes int64
}

func (u *Usage) add(v Usage) {
	u.Bytes += v.Bytes
	u.Inodes += v.Inodes
}

// FSInfo is the filesystem below one of the store's directories, and the store's part of it.
type FSInfo struct {
	// Path is a directory on the filesystem.
	Path string
	// Used is what the store keeps there.
	Used Usage
	// Capacity and Available are the filesystem's size, and what is left for root, in bytes.
	Capacity, Available int64
	// Inodes and InodesFree count the filesystem's inodes; 0, 0 where it has no fixed number.
	Inodes, InodesFree int64
	// Time is when this was measured.
	Time time.Time
}
