package sys

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// MountLayers mounts the folders of an image's layers, the topmost first, as one read-only tree at dir:
// an overlay without an upper folder, or a bind mount of a single layer. Unpin takes it away.
func MountLayers(dir string, layers []string) error {
	var tree int
	var err error
	if len(layers) == 1 {
		tree, err = unix.OpenTree(unix.AT_FDCWD, layers[0], unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	} else {
		tree, err = overlay(layers)
	}
	if err != nil {
		return &os.PathError{Op: "mount image", Path: dir, Err: err}
	}
	defer unix.Close(tree)
	attr := unix.MountAttr{
		Attr_set:    unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV,
		Propagation: unix.MS_PRIVATE,
	}
	err = unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &attr)
	if err == nil {
		err = unix.MoveMount(tree, "", unix.AT_FDCWD, dir, unix.MOVE_MOUNT_F_EMPTY_PATH)
	}
	if err != nil {
		return &os.PathError{Op: "mount image", Path: dir, Err: err}
	}
	return nil
}

// overlay makes a detached overlay of lower folders. They go one by one: a list of them could be longer
// than what one option may hold (Linux 6.5).
func overlay(layers []string) (int, error) {
	if len(layers) == 0 {
		return -1, errors.New("an image without a layer")
	}
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer unix.Close(fs)
	for _, l := range layers {
		if err := unix.FsconfigSetString(fs, "lowerdir+", l); err != nil {
			return -1, err
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, err
	}
	return unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY)
}
