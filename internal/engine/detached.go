package engine

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// A detached mount is a mount, or a tree of them, that is in nobody's mount namespace yet: a
// descriptor. The parent makes what needs the host's paths; the child puts it into its own namespace.

const openPath = unix.O_PATH | unix.O_CLOEXEC

// cloneTree returns a detached copy of what is mounted at path.
func cloneTree(path string, recursive bool) (*os.File, error) {
	fd, err := unix.Open(path, openPath, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	return cloneTreeFD(fd, path, recursive)
}

func cloneTreeFD(fd int, name string, recursive bool) (*os.File, error) {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC | unix.AT_EMPTY_PATH)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	tree, err := unix.OpenTree(fd, "", flags)
	if err != nil {
		return nil, fmt.Errorf("open_tree %s: %w", name, err)
	}
	return os.NewFile(uintptr(tree), name), nil
}

// setAttr applies attributes to a detached mount; nothing to apply costs nothing.
func setAttr(mount *os.File, attr unix.MountAttr, recursive bool) error {
	if attr == (unix.MountAttr{}) {
		return nil
	}
	flags := uint(unix.AT_EMPTY_PATH)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	if err := unix.MountSetattr(int(mount.Fd()), "", flags, &attr); err != nil {
		return fmt.Errorf("mount_setattr: %w", err)
	}
	return nil
}

// mapOwners makes a detached mount an idmapped one.
func mapOwners(mount, idmap *os.File, recursive bool) error {
	if idmap == nil {
		return nil
	}
	err := setAttr(mount, unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(idmap.Fd())}, recursive)
	if errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("id-mapped mount: this kernel's filesystem there can't be id-mapped: %w", err)
	}
	return err
}

// bindTree makes the detached mount of a bind: a copy of source, private unless the options say
// otherwise, so that what the container mounts in it does not appear on the host.
func bindTree(source string, o mountOptions) (*os.File, error) {
	return bindMapped(source, o, nil)
}

// bindMapped is bindTree with the numbers of owners translated by the maps of the user namespace in the
// file idmap, if that is not nil (mount_setattr(2), ID-mapped mounts).
func bindMapped(source string, o mountOptions, idmap *os.File) (*os.File, error) {
	tree, err := cloneTree(source, o.recursive)
	if err != nil {
		return nil, err
	}
	return asBind(tree, source, o, idmap)
}

// asBind gives a copy of source what the options say. It takes tree over.
func asBind(tree *os.File, source string, o mountOptions, idmap *os.File) (*os.File, error) {
	if err := mapOwners(tree, idmap, o.recursive && o.idmap == recursively); err != nil {
		tree.Close()
		return nil, fmt.Errorf("%s: %w", source, err)
	}
	rattr := o.rattr
	if rattr.Propagation == 0 && o.attr.Propagation == 0 {
		rattr.Propagation = unix.MS_PRIVATE
	}
	// A shared mount may not become shared again, but it already is: the copy is its peer.
	if err := errors.Join(setAttr(tree, rattr, true), setAttr(tree, o.attr, false)); err != nil {
		tree.Close()
		return nil, fmt.Errorf("%s: %w", source, err)
	}
	return tree, nil
}

// newFilesystem makes a detached mount of a new filesystem instance in the host's namespaces.
func newFilesystem(fstype, source string, o mountOptions) (*os.File, error) {
	fs, err := unix.Fsopen(fstype, unix.FSOPEN_CLOEXEC)
	if errors.Is(err, unix.ENODEV) {
		return nil, fmt.Errorf("this kernel has no %s filesystem: %w", fstype, err)
	}
	if err != nil {
		return nil, fmt.Errorf("fsopen %s: %w", fstype, err)
	}
	defer unix.Close(fs)
	if source != "" {
		if err := unix.FsconfigSetString(fs, "source", source); err != nil {
			return nil, fsError(fs, "source="+source, err)
		}
	}
	for _, opt := range o.forFilesystem(fstype) {
		if err := configure(fs, opt); err != nil {
			return nil, fsError(fs, opt, err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, fsError(fs, "create", err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, int(o.fsmountFlags()))
	if err != nil {
		return nil, fsError(fs, "fsmount", err)
	}
	return os.NewFile(uintptr(fd), fstype), nil
}

// configure passes one option. fsconfig takes at most 255 bytes a value, so overlay's lower layers go
// one by one ("lowerdir+", Linux 6.5).
func configure(fs int, opt string) error {
	key, value, has := strings.Cut(opt, "=")
	if !has {
		return unix.FsconfigSetFlag(fs, key)
	}
	if key != "lowerdir" {
		return unix.FsconfigSetString(fs, key, value)
	}
	for _, layer := range splitLayers(value) {
		if err := unix.FsconfigSetString(fs, "lowerdir+", layer); err != nil {
			return err
		}
	}
	return nil
}

// splitLayers splits overlayfs's colon-separated list, in which a backslash escapes.
func splitLayers(list string) []string {
	var layers []string
	var cur strings.Builder
	for i := 0; i < len(list); i++ {
		switch {
		case list[i] == '\\' && i+1 < len(list):
			i++
			cur.WriteByte(list[i])
		case list[i] == ':':
			layers = append(layers, cur.String())
			cur.Reset()
		default:
			cur.WriteByte(list[i])
		}
	}
	return append(layers, cur.String())
}

// fsError adds what the kernel wrote into the filesystem context's log.
func fsError(fs int, what string, err error) error {
	var msgs []string
	var b [512]byte
	for len(msgs) < 8 {
		n, rerr := unix.Read(fs, b[:])
		if rerr != nil || n <= 2 {
			break
		}
		msgs = append(msgs, strings.TrimSpace(string(b[2:n]))) // "e " or "w " first
	}
	if len(msgs) == 0 {
		return fmt.Errorf("%s: %w", what, err)
	}
	return fmt.Errorf("%s: %w (%s)", what, err, strings.Join(msgs, "; "))
}
