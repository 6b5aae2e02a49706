package image

import (
	"context"
	"errors"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Sentinels that a caller decides on; errors of the store wrap them.
var (
	ErrNotFound     = errors.New("not found")
	ErrInvalid      = errors.New("invalid")
	ErrUnauthorized = errors.New("unauthorized")
	ErrPlatform     = errors.New("wrong platform")
	ErrCorrupt      = errors.New("corrupt")
	ErrAmbiguous    = errors.New("ambiguous")
)

// Store is the store of images. All methods may be called at the same time.
type Store struct{}

var errSkeleton = errors.New("not there yet")

func Open(c Config) (*Store, error) { return nil, errSkeleton }
func (s *Store) Close() error       { return errSkeleton }
func (s *Store) Pull(ctx context.Context, ref string, o PullOptions) (*Image, error) {
	return nil, errSkeleton
}
func (s *Store) Import(ctx context.Context, r io.Reader, o ImportOptions) ([]*Image, error) {
	return nil, errSkeleton
}
func (s *Store) Put(ctx context.Context, ref string, img v1.Image) (*Image, error) {
	return nil, errSkeleton
}

// Get finds an image by name, by ID ("sha256:…" or bare hex) or by a unique prefix of its ID.
func (s *Store) Get(refOrID string) (*Image, error) { return nil, errSkeleton }
func (s *Store) List() []*Image                     { return nil }

// Remove removes the image with all its names; no error where there is none (ErrNotFound).
func (s *Store) Remove(ctx context.Context, refOrID string) error { return errSkeleton }
func (s *Store) Prepare(ctx context.Context, key string, img *Image) (Rootfs, error) {
	return Rootfs{}, errSkeleton
}
func (s *Store) RemoveRootfs(ctx context.Context, key string) error { return errSkeleton }
func (s *Store) Rootfses() []string                                 { return nil }
func (s *Store) Usage(ctx context.Context, key string) (Usage, error) {
	return Usage{}, errSkeleton
}
func (s *Store) ReadFile(ctx context.Context, img *Image, path string, limit int64) ([]byte, error) {
	return nil, errSkeleton
}

// FSInfo measures the filesystem of the images and that of the containers' writable layers.
func (s *Store) FSInfo(ctx context.Context) (images, snapshots FSInfo, err error) {
	return FSInfo{}, FSInfo{}, errSkeleton
}
