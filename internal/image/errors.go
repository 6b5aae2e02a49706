package image

import (
	"errors"
	"io/fs"

	"github.com/11f9778f/berth/internal/image/inflate"
	"github.com/11f9778f/berth/internal/image/kind"
	"github.com/11f9778f/berth/internal/image/reference"
	"github.com/11f9778f/berth/internal/image/registry"
	"github.com/11f9778f/berth/internal/image/trust"
	"github.com/11f9778f/berth/internal/image/unpack"
	"github.com/11f9778f/berth/internal/sys"
)

// What a caller may want to tell apart; errors of the store wrap them.
var (
	// ErrNotFound is an image that the store, or the registry, does not have.
	ErrNotFound = registry.ErrNotFound
	// ErrUnauthorized is an image that the registry does not give to these credentials.
	ErrUnauthorized = registry.ErrUnauthorized
	// ErrUnavailable is a registry that can't be reached or kept failing.
	ErrUnavailable = registry.ErrUnavailable
	// ErrCorrupt is content that is not what its digest, size or format promised.
	ErrCorrupt = registry.ErrCorrupt
	// ErrInvalid is a name that names no image.
	ErrInvalid = reference.ErrInvalid
	// ErrRejected is an image that the policy does not allow.
	ErrRejected = trust.ErrRejected
	// ErrPlatform is an image for other machines.
	ErrPlatform = errors.New("wrong platform")
	// ErrAmbiguous is a short ID that several images have.
	ErrAmbiguous = errors.New("ambiguous")
	// ErrNoSpace is a full disk.
	ErrNoSpace error = sys.ErrNoSpace
	// ErrNoLimit is a limit of a writable layer that the filesystem can't hold it to.
	ErrNoLimit = errors.New("writable layers can't be limited")
	// ErrNoOverlay is a kernel without overlayfs.
	ErrNoOverlay = errors.New("no overlayfs")
	// ErrLocked is a store that another process has open.
	ErrLocked = errors.New("in use by another process")
	// ErrClosed is a store that was closed.
	ErrClosed = errors.New("the image store is closed")
)

// errRemedied marks what remedy has said already.
var errRemedied = errors.New("remedied")

// remedy adds to an error of the disk what the user can do about it.
func (s *Store) remedy(err error) error {
	switch {
	case err == nil, errors.Is(err, errRemedied):
		return err
	case errors.Is(err, sys.ErrNoSpace) && s.noInodes():
		return kind.Errorf(errRemedied, "the filesystem of %s has no inodes left; remove files, or images that nobody uses: %w", s.root, err)
	case errors.Is(err, sys.ErrReadOnly):
		return kind.Errorf(errRemedied, "the filesystem of %s is read-only; look at the kernel's log for errors of the disk, and remount it: %w", s.root, err)
	case errors.Is(err, sys.ErrNoSpace):
		return kind.Errorf(errRemedied, "the disk of %s is full; free some space, or remove images that nobody uses: %w", s.root, err)
	case errors.Is(err, sys.ErrQuota):
		return kind.Errorf(errRemedied, "the disk quota for %s is used up: %w", s.root, err)
	case errors.Is(err, fs.ErrPermission) && !errors.Is(err, ErrUnauthorized):
		return kind.Errorf(errRemedied, "no permission to change %s; run as root: %w", s.root, err)
	}
	return err
}

// noInodes tells whether it is inodes that the images' filesystem lacks.
func (s *Store) noInodes() bool {
	fs, err := fsInfo(s.images)
	return err == nil && fs.Inodes > 0 && fs.InodesFree*100 < fs.Inodes && fs.Available > 1<<20
}

// layerError makes the errors of what a layer holds the store's.
func layerError(err error) error {
	if errors.Is(err, unpack.ErrLayer) || errors.Is(err, inflate.ErrCorrupt) {
		return kind.Errorf(ErrCorrupt, "%w; do not use this image", err)
	}
	return err
}
