package engine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// openRootfs makes the detached mount that becomes the container's root.
func openRootfs(o CreateOptions) (*os.File, error) {
	if len(o.Rootfs) == 0 {
		opts := mountOptions{recursive: true}
		if strings.TrimPrefix(o.Spec.Linux.RootfsPropagation, "r") == "slave" { // of the host's mount there
			opts.rattr.Propagation = unix.MS_SLAVE
		}
		tree, err := bindTree(o.rootPath(), opts)
		if err != nil {
			return nil, fmt.Errorf("root filesystem: %w", err)
		}
		return tree, nil
	}
	if len(o.Rootfs) == 1 {
		tree, err := openMount(o.Rootfs[0])
		if err != nil {
			return nil, fmt.Errorf("root filesystem: %w", err)
		}
		return tree, nil
	}
	tree, err := stack(o.Rootfs)
	if err != nil {
		return nil, fmt.Errorf("root filesystem: %w", err)
	}
	return tree, nil
}

// openMount makes one detached mount of a rootfs.
func openMount(m Mount) (*os.File, error) {
	opts, err := parseRootOptions(m.Options)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", m.Type, err)
	}
	var idmap *os.File
	if len(opts.maps.UID)+len(opts.maps.GID) > 0 {
		if err := opts.maps.check("uidmap and gidmap"); err != nil {
			return nil, fmt.Errorf("%s: %w", m.Type, err)
		}
		if idmap, err = newUserNamespace(opts.maps); err != nil {
			return nil, fmt.Errorf("%s: %w", m.Type, err)
		}
		defer idmap.Close()
	}
	var f *os.File
	switch {
	case isBind(m.Type, m.Options):
		opts.recursive = true
		f, err = bindMapped(m.Source, opts, idmap)
	case m.Type == "overlay":
		f, err = openOverlay(m, opts, idmap)
	default:
		if f, err = newFilesystem(m.Type, m.Source, opts); err == nil {
			err = mapOwners(f, idmap, false)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", m.Type, err)
	}
	return f, nil
}

// parseRootOptions is parseMountOptions, and takes out "uidmap=" and "gidmap=".
func parseRootOptions(options []string) (mountOptions, error) {
	o, err := parseMountOptions(options)
	if err != nil {
		return o, err
	}
	data := o.data[:0:0]
	for _, opt := range o.data {
		key, value, _ := strings.Cut(opt, "=")
		switch key {
		case "uidmap":
			o.maps.UID, err = parseMappings(value)
		case "gidmap":
			o.maps.GID, err = parseMappings(value)
		default:
			data = append(data, opt)
		}
		if err != nil {
			return o, fmt.Errorf("option %s: %w", key, err)
		}
	}
	o.data = data
	return o, nil
}

// stack mounts several mounts of a rootfs: each at its Target in the one before, the top one hiding what is
// below. Mounting on something detached takes Linux 6.15, so it happens in a mount namespace that lives for
// a moment, and the result is taken out of it.
func stack(mounts []Mount) (*os.File, error) {
	var tree *os.File
	err := inPrivateMounts(func(base *os.File) error {
		root := base
		for n, m := range mounts {
			f, err := openMount(m)
			if err != nil {
				return fmt.Errorf("mount %d: %w", n, err)
			}
			defer f.Close()
			at, err := openInRoot(root, m.Target)
			if err != nil {
				return fmt.Errorf("mount %d: target %s: %w", n, m.Target, err)
			}
			err = unix.MoveMount(int(f.Fd()), "", at, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
			unix.Close(at)
			if err != nil {
				return fmt.Errorf("mount %d: move_mount: %w", n, err)
			}
			if relative(m.Target) == "." {
				root = f
			}
		}
		var err error
		tree, err = cloneTreeFD(int(root.Fd()), "rootfs", true)
		return err
	})
	return tree, err
}

// overlayLayers are an overlay's options, taken apart.
type overlayLayers struct {
	lower       []string
	upper, work string
	rest        []string
}

func parseOverlay(data []string) overlayLayers {
	var l overlayLayers
	for _, opt := range data {
		key, value, _ := strings.Cut(opt, "=")
		switch key {
		case "lowerdir":
			l.lower = append(l.lower, splitLayers(value)...)
		case "upperdir":
			l.upper = value
		case "workdir":
			l.work = value
		default:
			l.rest = append(l.rest, opt)
		}
	}
	return l
}

// openOverlay makes a detached overlay. The lower layers' owners are translated by idmap; new files in the upper
// one belong to who made them, as the host sees him, so its top directory is given to the root of the maps.
func openOverlay(m Mount, o mountOptions, idmap *os.File) (*os.File, error) {
	var first error
	if idmap == nil {
		f, err := newFilesystem(m.Type, m.Source, o)
		if err == nil || !errors.Is(err, unix.EINVAL) {
			return f, err
		}
		first = err // perhaps a kernel before 6.5, which takes all layers in one string
	}
	l := parseOverlay(o.data)
	if idmap != nil && l.upper != "" {
		if err := giveToRoot(l.upper, o.maps); err != nil {
			return nil, err
		}
	}
	var f *os.File
	err := inPrivateMounts(func(base *os.File) (err error) {
		f, err = l.mount(base, m.Source, o, idmap)
		return err
	})
	if err != nil && first != nil {
		return nil, first
	}
	return f, err
}

// giveToRoot makes the root of the maps own the directory, unless it is somebody's already.
func giveToRoot(dir string, maps IDMappings) error {
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return &os.PathError{Op: "stat", Path: dir, Err: err}
	}
	uid, err := hostID(maps.UID, 0)
	if err != nil {
		return fmt.Errorf("uidmap: %w", err)
	}
	gid, err := hostID(maps.GID, 0)
	if err != nil {
		return fmt.Errorf("gidmap: %w", err)
	}
	if st.Uid != 0 || st.Gid != 0 || uid == 0 && gid == 0 {
		return nil
	}
	return os.Lchown(dir, int(uid), int(gid))
}

// mount mounts the layers on a directory of base, which is mounted, and returns a detached copy. Layers go by
// descriptor, so that their names need no escapes and all of them fit into the page of options that mount(2) takes.
func (l overlayLayers) mount(base *os.File, source string, o mountOptions, idmap *os.File) (*os.File, error) {
	var open []*os.File
	defer func() { closeAll(open) }()
	name := func(f *os.File) string {
		open = append(open, f)
		return "/proc/self/fd/" + strconv.Itoa(int(f.Fd()))
	}
	lower := make([]string, len(l.lower))
	for n, dir := range l.lower {
		f, err := l.layer(base, n, dir, idmap)
		if err != nil {
			return nil, err
		}
		lower[n] = name(f)
	}
	data := []string{"lowerdir=" + strings.Join(lower, ":")}
	for _, d := range []struct{ key, dir string }{{"upperdir", l.upper}, {"workdir", l.work}} {
		if d.dir == "" {
			continue
		}
		fd, err := unix.Open(d.dir, openPath|unix.O_DIRECTORY, 0)
		if err != nil {
			return nil, &os.PathError{Op: "open", Path: d.dir, Err: err}
		}
		data = append(data, d.key+"="+name(os.NewFile(uintptr(fd), d.dir)))
	}
	if err := unix.Mkdirat(int(base.Fd()), "merged", 0o755); err != nil {
		return nil, err
	}
	target := filepath.Join("/proc/self/fd", strconv.Itoa(int(base.Fd())), "merged")
	options := strings.Join(append(data, l.rest...), ",")
	if len(options) >= os.Getpagesize() {
		return nil, fmt.Errorf("%d lower layers are more than one mount takes", len(l.lower))
	}
	if err := unix.Mount(source, target, "overlay", 0, options); err != nil {
		return nil, fmt.Errorf("mount: %w", err)
	}
	return bindTree(target, mountOptions{attr: o.attr, rattr: o.rattr})
}

// layer opens a lower layer in this mount namespace, with its owners translated.
func (l overlayLayers) layer(base *os.File, n int, dir string, idmap *os.File) (*os.File, error) {
	if idmap == nil {
		fd, err := unix.Open(dir, openPath|unix.O_DIRECTORY, 0)
		if err != nil {
			return nil, &os.PathError{Op: "open", Path: dir, Err: err}
		}
		return os.NewFile(uintptr(fd), dir), nil
	}
	tree, err := bindMapped(dir, mountOptions{}, idmap)
	if err != nil {
		return nil, err
	}
	at := strconv.Itoa(n)
	err = unix.Mkdirat(int(base.Fd()), at, 0o755)
	if err == nil {
		err = unix.MoveMount(int(tree.Fd()), "", int(base.Fd()), at, unix.MOVE_MOUNT_F_EMPTY_PATH)
	}
	if err != nil {
		tree.Close()
		return nil, fmt.Errorf("attach layer %s: %w", dir, err)
	}
	return tree, nil
}
