package engine

import (
	"os"

	"golang.org/x/sys/unix"

	"github.com/11f9778f/berth/internal/engine/stage"
)

// setup writes the programs that turn a fresh child into a container that waits for Start. Programs
// refer to the root filesystem by a descriptor and resolve every path below it with RESOLVE_IN_ROOT,
// before pivot_root: no path of the container is ever looked up from the host's root.
type setup struct {
	o     CreateOptions
	p     *stage.Program
	pid   int      // of the child
	root  *os.File // detached; the child attaches it
	files []*os.File
	// sources are those of binds.
	sources sources
	// flush lets the child do what has been written so far and begins a new program. fresh: there are
	// filesystems in it that the child is to make.
	flush func() error
	fresh bool

	rootCell, fs, mount, dest, scratch, node stage.Cell
}

func newSetup(o CreateOptions, s *stage.Stage, root *os.File) (*setup, error) {
	u := &setup{o: o, p: &stage.Program{}, pid: s.Pid, root: root, sources: newSources(o)}
	for _, c := range []*stage.Cell{&u.rootCell, &u.fs, &u.mount, &u.dest, &u.scratch, &u.node} {
		cell, err := s.NewCell()
		if err != nil {
			return nil, err
		}
		*c = cell
	}
	return u, nil
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

// attachRoot takes the child's mounts out of the host's sight and puts the root filesystem on top of
// "/", from where pivot later makes it the only one.
func (u *setup) attachRoot() {
	p := u.p
	u.do("stop mount propagation to the host", unix.SYS_MOUNT, stage.Int(0), p.String("/"), stage.Int(0), stage.Int(unix.MS_REC|unix.MS_SLAVE), stage.Int(0))
	// The descriptor of a packet is gone with the packet: keep a duplicate.
	u.do("receive root filesystem", unix.SYS_FCNTL, p.File(u.root), stage.Int(unix.F_DUPFD_CLOEXEC), stage.Int(0)).Into(u.rootCell)
	at := func(path string) *stage.Instruction {
		return u.do("open "+path, unix.SYS_OPENAT, stage.Int(unix.AT_FDCWD), p.String(path), stage.Int(openPath|unix.O_DIRECTORY)).Into(u.dest)
	}
	if createHooks(u.o.Spec) && u.o.Spec.Root != nil && u.o.Spec.Root.Path != "" {
		// Hooks look for the root filesystem where the spec has it.
		var missing, opened stage.Label
		at(u.o.rootPath()).TolerateAny().ElseGoTo(&missing)
		p.GoTo(&opened)
		p.Mark(&missing)
		at("/")
		p.Mark(&opened)
	} else {
		at("/")
	}
	u.moveTo("attach root filesystem", u.rootCell.Value())
	u.closeCell(u.dest)
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
func (u *setup) pivot(chroot bool) {
	p := u.p
	u.do("enter root filesystem", unix.SYS_FCHDIR, u.rootCell.Value())
	if chroot {
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
