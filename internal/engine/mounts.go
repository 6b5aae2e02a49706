package engine

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/11f9778f/berth/internal/engine/stage"
	"github.com/11f9778f/berth/internal/sys"
)

// mounts adds the spec's mounts in their order.
func (u *setup) mounts() error {
	for n, m := range u.o.Spec.Mounts {
		if err := u.addMount(m, u.o.Spec.Mounts[:n]); err != nil {
			return fmt.Errorf("mounts[%d] %s: %w", n, m.Destination, err)
		}
	}
	return nil
}

func (u *setup) addMount(m specs.Mount, earlier []specs.Mount) error {
	opts, err := parseMountOptions(m.Options)
	if err != nil {
		return err
	}
	bind := isBind(m.Type, m.Options)
	switch {
	case opts.remount:
		u.remount(m, opts, bind)
		return nil
	case m.Type == "cgroup" || m.Type == "cgroup2":
		return u.addCgroupMount(m, opts, earlier)
	case !bind && wantsMap(m, opts):
		return errors.New("only a bind mount can be id-mapped")
	}
	// /proc/self/mountinfo lists mounts by their age: what the child makes of the earlier ones comes first.
	if bind && u.fresh {
		if err := u.flush(); err != nil {
			return err
		}
	}
	dir := true
	what := "mount " + m.Destination
	tree, err := u.prepare(m, opts, bind, earlier)
	if err != nil {
		return err
	}
	if tree != nil {
		if dir, err = isDir(tree); err != nil {
			return err
		}
		u.do(what, unix.SYS_FCNTL, u.p.File(u.own(tree)), stage.Int(unix.F_DUPFD_CLOEXEC), stage.Int(0)).Into(u.mount)
	} else {
		if u.o.Spec.Linux.MountLabel != "" && labelled[m.Type] {
			opts.data = append(opts.data, "context="+u.o.Spec.Linux.MountLabel)
		}
		u.newFilesystem(what, m.Type, m.Source, opts)
		u.fresh = true
	}
	if err := u.destination(m.Destination, dir, earlier); err != nil {
		return err
	}
	u.place(what, m.Destination)
	if !bind {
		u.setAttr(what, u.mount, unix.MountAttr{Propagation: opts.attr.Propagation}, false)
		u.setAttr(what, u.mount, unix.MountAttr{Propagation: opts.rattr.Propagation}, true)
	}
	u.closeCell(u.mount)
	return nil
}

// labelled are the filesystems of a container's own that take SELinux's mount option.
var labelled = map[string]bool{"tmpfs": true, "mqueue": true, "devpts": true}

// prepare makes what only this process can make: binds, whose sources are the host's paths; instances of namespaces that
// do not belong to the container's user namespace; a tmpfs that begins with a copy. nil: the child makes the mount.
func (u *setup) prepare(m specs.Mount, opts mountOptions, bind bool, earlier []specs.Mount) (*os.File, error) {
	switch {
	case bind:
		source := u.o.bindSource(m)
		idmap, err := u.mappingOf(m, opts)
		if err != nil {
			return nil, err
		}
		if idmap != nil {
			defer idmap.Close()
		}
		tree, err := u.sources.clone(source, opts.recursive)
		if err != nil {
			return nil, err
		}
		return asBind(tree, source, opts, idmap)
	case opts.copyUp && m.Type == "tmpfs":
		return u.copiedUp(m, opts, earlier)
	}
	foreign, err := u.foreign(m.Type)
	if err != nil || foreign == nil {
		return nil, err
	}
	return foreign.newFilesystem(m.Type, m.Source, opts)
}

func wantsMap(m specs.Mount, opts mountOptions) bool {
	return opts.idmap != nothing || len(m.UIDMappings)+len(m.GIDMappings) > 0
}

// mappingOf opens a user namespace with the maps of the mount: its own, or the container's. nil: none.
func (u *setup) mappingOf(m specs.Mount, opts mountOptions) (*os.File, error) {
	switch {
	case !wantsMap(m, opts):
		return nil, nil
	case len(m.UIDMappings)+len(m.GIDMappings) > 0:
		maps := IDMappings{UID: m.UIDMappings, GID: m.GIDMappings}
		if err := maps.check("uidMappings and gidMappings"); err != nil {
			return nil, err
		}
		return newUserNamespace(maps)
	case !inUserNamespace(u.o.Spec):
		return nil, errors.New("an id-mapped mount needs uidMappings and gidMappings, or the container a user namespace")
	}
	return userNamespaceOf(u.pid)
}

// namespaceOf is the namespace that an instance of a filesystem shows.
var namespaceOf = map[string]specs.LinuxNamespaceType{
	"proc": specs.PIDNamespace, "sysfs": specs.NetworkNamespace, "mqueue": specs.IPCNamespace,
}

// foreigner makes instances of a filesystem for a namespace that the container's user namespace does not own: the
// kernel lets nobody in that user namespace do it.
type foreigner struct {
	ns specs.LinuxNamespace // without a path: this process's own
}

// foreign returns who makes instances of the filesystem, nil if the child itself can.
func (u *setup) foreign(fstype string) (*foreigner, error) {
	kind, ok := namespaceOf[fstype]
	if !ok || !inUserNamespace(u.o.Spec) {
		return nil, nil
	}
	ns, ok := namespace(u.o.Spec, kind)
	if ok && ns.Path == "" {
		return nil, nil
	}
	if !ok {
		return &foreigner{}, nil
	}
	owner, err := userNamespaceOf(u.pid)
	if err != nil {
		return nil, err
	}
	defer owner.Close()
	own, err := ownedBy(ns.Path, owner)
	if err != nil || own {
		return nil, err
	}
	if kind == specs.PIDNamespace {
		return nil, fmt.Errorf("the pid namespace %s does not belong to the container's user namespace, so nobody can mount its proc there", ns.Path)
	}
	return &foreigner{ns: ns}, nil
}

func (f *foreigner) newFilesystem(fstype, source string, opts mountOptions) (tree *os.File, err error) {
	if f.ns.Path == "" {
		return newFilesystem(fstype, source, opts)
	}
	ns, err := openNamespace(f.ns)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	err = sys.OnThread(func() error {
		if err := unix.Setns(int(ns.Fd()), int(cloneFlags[f.ns.Type])); err != nil {
			return fmt.Errorf("join %s namespace %s: %w", f.ns.Type, f.ns.Path, err)
		}
		tree, err = newFilesystem(fstype, source, opts)
		return err
	})
	return tree, err
}

// remount changes a mount that is there: with bind its attributes, else its filesystem's options too.
func (u *setup) remount(m specs.Mount, opts mountOptions, bind bool) {
	what := "remount " + m.Destination
	u.open(what, m.Destination, u.dest, unix.O_PATH)
	if !bind {
		u.do(what, unix.SYS_FSPICK, u.dest.Value(), u.p.String(""), stage.Int(unix.FSPICK_CLOEXEC|unix.FSPICK_EMPTY_PATH)).Into(u.fs)
		u.configure(what, opts.data)
		u.do(what, unix.SYS_FSCONFIG, u.fs.Value(), stage.Int(unix.FSCONFIG_CMD_RECONFIGURE), stage.Int(0), stage.Int(0), stage.Int(0))
		u.closeCell(u.fs)
	}
	u.setAttr(what, u.dest, opts.rattr, true)
	u.setAttr(what, u.dest, opts.attr, false)
	u.closeCell(u.dest)
}

// place opens the destination and moves u.mount there.
func (u *setup) place(what, dest string) {
	u.open(what, dest, u.dest, unix.O_PATH)
	u.moveTo(what, u.mount.Value())
	u.closeCell(u.dest)
}

func isDir(f *os.File) (bool, error) {
	st, err := f.Stat()
	if err != nil {
		return false, err
	}
	return st.IsDir(), nil
}

// newFilesystem makes the child mount a new instance into u.mount: proc, sysfs and mqueue show the
// namespaces of whoever makes them.
func (u *setup) newFilesystem(what, fstype, source string, opts mountOptions) {
	p := u.p
	u.do(what+": "+fstype, unix.SYS_FSOPEN, p.String(fstype), stage.Int(unix.FSOPEN_CLOEXEC)).Into(u.fs)
	if source != "" {
		u.do(what+": source", unix.SYS_FSCONFIG, u.fs.Value(), stage.Int(unix.FSCONFIG_SET_STRING), p.String("source"), p.String(source), stage.Int(0))
	}
	u.configure(what, opts.forFilesystem(fstype))
	u.do(what+": create "+fstype, unix.SYS_FSCONFIG, u.fs.Value(), stage.Int(unix.FSCONFIG_CMD_CREATE), stage.Int(0), stage.Int(0), stage.Int(0))
	u.do(what, unix.SYS_FSMOUNT, u.fs.Value(), stage.Int(unix.FSMOUNT_CLOEXEC), stage.Int(opts.fsmountFlags())).Into(u.mount)
	u.closeCell(u.fs)
}

// configure passes options to the filesystem context in u.fs.
func (u *setup) configure(what string, data []string) {
	for _, opt := range data {
		key, value, has := strings.Cut(opt, "=")
		cmd, arg := unix.FSCONFIG_SET_FLAG, stage.Int(0)
		if has {
			cmd, arg = unix.FSCONFIG_SET_STRING, u.p.String(value)
		}
		u.do(what+": option "+opt, unix.SYS_FSCONFIG, u.fs.Value(), stage.Int(cmd), u.p.String(key), arg, stage.Int(0))
	}
}

// destination makes sure that a mount's destination exists. Below an earlier mount only the child
// can look; everywhere else the parent does it, on the detached root, but for what a user namespace's
// root has to own.
func (u *setup) destination(dest string, dir bool, earlier []specs.Mount) error {
	under := ""
	for _, m := range earlier {
		if d := relative(m.Destination); strings.HasPrefix(relative(dest)+"/", d+"/") && len(d) > len(under) {
			under = d
		}
	}
	switch {
	case under == relative(dest):
		return nil
	case under != "":
		u.makeBelow(under, strings.TrimPrefix(relative(dest), under+"/"), dir)
		return nil
	case !inUserNamespace(u.o.Spec):
		return ensureDestination(u.root, dest, dir)
	}
	fd, err := openInRoot(u.root, dest)
	if err == nil {
		unix.Close(fd)
		return nil
	}
	if !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("mount destination %s: %w", dest, err)
	}
	u.makeBelow(".", relative(dest), dir)
	return nil
}

// makeBelow lets the child create path below base, which exists; all but its last part are directories.
func (u *setup) makeBelow(base, path string, dir bool) {
	parts := strings.Split(path, "/")
	for n, part := range parts {
		what := "create mount destination /" + strings.TrimPrefix(base+"/"+part, "./")
		u.open(what, base, u.scratch, unix.O_PATH|unix.O_DIRECTORY)
		at, name := u.scratch.Value(), u.p.String(part)
		// A read-only parent is no failure here: opening the destination decides.
		if dir || n < len(parts)-1 {
			u.do(what, unix.SYS_MKDIRAT, at, name, stage.Int(0o755)).Tolerate(unix.EEXIST, unix.EROFS)
		} else {
			u.do(what, unix.SYS_MKNODAT, at, name, stage.Int(unix.S_IFREG|0o644), stage.Int(0)).Tolerate(unix.EEXIST, unix.EROFS)
		}
		u.closeCell(u.scratch)
		base += "/" + part
	}
}
