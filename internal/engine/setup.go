package engine

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/11f9778f/berth/internal/engine/stage"
)

// setup writes the programs that turn a fresh child into a container that waits for Start. Programs
// refer to the root filesystem by a descriptor and resolve every path below it with RESOLVE_IN_ROOT,
// before pivot_root: no path of the container is ever looked up from the host's root.
type setup struct {
	o     CreateOptions
	p     *stage.Program
	root  *os.File // detached; the child attaches it
	files []*os.File

	rootCell, fs, mount, dest, scratch stage.Cell
}

func newSetup(o CreateOptions, s *stage.Stage, root *os.File) (*setup, error) {
	u := &setup{o: o, p: &stage.Program{}, root: root}
	for _, c := range []*stage.Cell{&u.rootCell, &u.fs, &u.mount, &u.dest, &u.scratch} {
		cell, err := s.NewCell()
		if err != nil {
			return nil, err
		}
		*c = cell
	}
	return u, nil
}

// close releases the parent's copies of what was sent.
func (u *setup) close() {
	closeAll(u.files)
	u.files = nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// own keeps f open until the program has run.
func (u *setup) own(f *os.File) *os.File {
	u.files = append(u.files, f)
	return f
}

func (u *setup) do(what string, nr uintptr, args ...stage.Arg) *stage.Instruction {
	return u.p.Do(what, nr, args...)
}

// open adds an openat2 below the container's root into cell.
func (u *setup) open(what, path string, cell stage.Cell, flags uint64) *stage.Instruction {
	how := []stage.Arg{stage.Int(flags | unix.O_CLOEXEC), stage.Int(0), stage.Int(inRoot.Resolve)}
	return u.do(what, unix.SYS_OPENAT2, u.rootCell.Value(), u.p.String(relative(path)), u.p.Words(how...), stage.Int(24)).Into(cell)
}

func (u *setup) closeCell(c stage.Cell) { u.do("close", unix.SYS_CLOSE, c.Value()) }

// moveTo puts the mount in cell from onto the directory or file in u.dest.
func (u *setup) moveTo(what string, from stage.Arg) *stage.Instruction {
	const flags = unix.MOVE_MOUNT_F_EMPTY_PATH | unix.MOVE_MOUNT_T_EMPTY_PATH
	empty := u.p.String("")
	return u.do(what, unix.SYS_MOVE_MOUNT, from, empty, u.dest.Value(), empty, stage.Int(flags))
}

// setAttr applies attributes to the mount in cell.
func (u *setup) setAttr(what string, c stage.Cell, attr unix.MountAttr, recursive bool) {
	if attr == (unix.MountAttr{}) {
		return
	}
	flags := unix.AT_EMPTY_PATH
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	words := u.p.Words(stage.Int(attr.Attr_set), stage.Int(attr.Attr_clr), stage.Int(attr.Propagation), stage.Int(attr.Userns_fd))
	u.do(what, unix.SYS_MOUNT_SETATTR, c.Value(), u.p.String(""), stage.Int(flags), words, stage.Int(32))
}

// namespaces joins those that the spec gives a path for. A joined user namespace would have to come
// first; validate refuses it.
func (u *setup) namespaces() error {
	for _, ns := range u.o.Spec.Linux.Namespaces {
		if ns.Path == "" || ns.Type == specs.PIDNamespace {
			continue
		}
		f, err := os.Open(ns.Path)
		if err != nil {
			return fmt.Errorf("linux.namespaces: %s: %w", ns.Type, err)
		}
		u.do(fmt.Sprintf("join %s namespace %s", ns.Type, ns.Path), unix.SYS_SETNS, u.p.File(u.own(f)), stage.Int(cloneFlags[ns.Type]))
	}
	return nil
}

// attachRoot takes the child's mounts out of the host's sight and puts the root filesystem on top of
// "/", from where pivot later makes it the only one.
func (u *setup) attachRoot() {
	p := u.p
	u.do("stop mount propagation to the host", unix.SYS_MOUNT, stage.Int(0), p.String("/"), stage.Int(0), stage.Int(unix.MS_REC|unix.MS_SLAVE), stage.Int(0))
	// The descriptor of a packet is gone with the packet: keep a duplicate.
	u.do("receive root filesystem", unix.SYS_FCNTL, p.File(u.root), stage.Int(unix.F_DUPFD_CLOEXEC), stage.Int(0)).Into(u.rootCell)
	u.do("open /", unix.SYS_OPENAT, stage.Int(unix.AT_FDCWD), p.String("/"), stage.Int(openPath|unix.O_DIRECTORY)).Into(u.dest)
	u.moveTo("attach root filesystem", u.rootCell.Value())
	u.closeCell(u.dest)
}

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
	dir := true
	what := "mount " + m.Destination
	switch {
	case m.Type == "bind" || opts.bind:
		source := m.Source
		if !filepath.IsAbs(source) {
			source = filepath.Join(u.o.Bundle, source)
		}
		tree, err := bindTree(source, opts)
		if err != nil {
			return err
		}
		if dir, err = isDir(tree); err != nil {
			return err
		}
		u.do(what, unix.SYS_FCNTL, u.p.File(u.own(tree)), stage.Int(unix.F_DUPFD_CLOEXEC), stage.Int(0)).Into(u.mount)
	case m.Type == "cgroup" || m.Type == "cgroup2":
		return u.addCgroupMount(m, opts, earlier)
	default:
		u.newFilesystem(what, m.Type, m.Source, opts)
	}
	if err := u.destination(m.Destination, dir, earlier); err != nil {
		return err
	}
	u.place(what, m.Destination)
	if m.Type != "bind" && !opts.bind {
		attr := opts.attr
		attr.Attr_set, attr.Attr_clr = 0, 0
		u.setAttr(what, u.mount, attr, false)
	}
	u.closeCell(u.mount)
	return nil
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
	for _, opt := range opts.data {
		key, value, has := strings.Cut(opt, "=")
		cmd, arg := unix.FSCONFIG_SET_FLAG, stage.Int(0)
		if has {
			cmd, arg = unix.FSCONFIG_SET_STRING, p.String(value)
		}
		u.do(what+": option "+opt, unix.SYS_FSCONFIG, u.fs.Value(), stage.Int(cmd), p.String(key), arg, stage.Int(0))
	}
	u.do(what+": create "+fstype, unix.SYS_FSCONFIG, u.fs.Value(), stage.Int(unix.FSCONFIG_CMD_CREATE), stage.Int(0), stage.Int(0), stage.Int(0))
	u.do(what, unix.SYS_FSMOUNT, u.fs.Value(), stage.Int(unix.FSMOUNT_CLOEXEC), stage.Int(opts.fsmountFlags())).Into(u.mount)
	u.closeCell(u.fs)
}

// destination makes sure that a mount's destination exists. Below an earlier mount only the child
// can look; everywhere else the parent does it, on the detached root.
func (u *setup) destination(dest string, dir bool, earlier []specs.Mount) error {
	under := ""
	for _, m := range earlier {
		if d := relative(m.Destination); strings.HasPrefix(relative(dest)+"/", d+"/") && len(d) > len(under) {
			under = d
		}
	}
	if under == "" {
		return ensureDestination(u.root, dest, dir)
	}
	if under == relative(dest) {
		return nil
	}
	u.makeBelow(under, strings.TrimPrefix(relative(dest), under+"/"), dir)
	return nil
}

// makeBelow lets the child create path below base, which exists; all but its last part are directories.
func (u *setup) makeBelow(base, path string, dir bool) {
	parts := strings.Split(path, "/")
	for n, part := range parts {
		what := "create mount destination /" + base + "/" + part
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

// identity sets the names of a new UTS namespace.
func (u *setup) identity() {
	set := func(what string, nr uintptr, name string) {
		if name != "" {
			u.do(what, nr, u.p.String(name), stage.Int(len(name)))
		}
	}
	set("set hostname", unix.SYS_SETHOSTNAME, u.o.Spec.Hostname)
	set("set domainname", unix.SYS_SETDOMAINNAME, u.o.Spec.Domainname)
}

// pivot makes the root filesystem the only one that the child sees.
func (u *setup) pivot() {
	p := u.p
	u.do("enter root filesystem", unix.SYS_FCHDIR, u.rootCell.Value())
	if u.o.NoPivot {
		u.do("chroot", unix.SYS_CHROOT, p.String("."))
	} else {
		u.do("pivot_root", unix.SYS_PIVOT_ROOT, p.String("."), p.String("."))
		u.do("detach the host's filesystem", unix.SYS_UMOUNT2, p.String("."), stage.Int(unix.MNT_DETACH))
	}
	u.do("enter /", unix.SYS_CHDIR, p.String("/"))
	attr := unix.MountAttr{}
	if u.o.Spec.Root != nil && u.o.Spec.Root.Readonly {
		attr.Attr_set = unix.MOUNT_ATTR_RDONLY
	}
	u.setAttr("make root filesystem read-only", u.rootCell, attr, false)
	if prop, ok := propagations[u.o.Spec.Linux.RootfsPropagation]; ok {
		u.setAttr("set propagation of the root filesystem", u.rootCell, unix.MountAttr{Propagation: prop.kind}, prop.recursive)
	}
	u.closeCell(u.rootCell)
}
