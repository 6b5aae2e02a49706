package engine

import (
	"path/filepath"
	"sort"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/11f9778f/berth/internal/engine/cgroup"
	"github.com/11f9778f/berth/internal/engine/stage"
)

// addCgroupMount shows the container its own cgroup at the mount's destination: under v2 a cgroup2
// filesystem seen from the new cgroup namespace, under v1 a tmpfs with a bind of the container's own
// directory for each controller.
func (u *setup) addCgroupMount(m specs.Mount, opts mountOptions, earlier []specs.Mount) error {
	at, err := u.o.cgroupPath()
	if err != nil {
		return err
	}
	group, err := cgroup.Load(at)
	if err != nil {
		return err
	}
	what := "mount " + m.Destination
	if err := u.destination(m.Destination, true, earlier); err != nil {
		return err
	}
	attr := opts.attr
	attr.Attr_set |= opts.rattr.Attr_set
	paths := group.Paths()
	if _, pure := paths[""]; pure && len(paths) == 1 {
		return u.bindCgroup(what, m.Destination, paths[""], attr)
	}
	u.newFilesystem(what, "tmpfs", "tmpfs", mountOptions{
		attr: unix.MountAttr{Attr_set: attr.Attr_set &^ unix.MOUNT_ATTR_RDONLY}, data: []string{"mode=755", "size=64k"},
	})
	u.place(what, m.Destination)
	u.closeCell(u.mount)
	for _, h := range hierarchyDirs(group) {
		u.makeBelow(relative(m.Destination), h.name, true)
		if err := u.bindCgroup(what+"/"+h.name, m.Destination+"/"+h.name, h.dir, attr); err != nil {
			return err
		}
	}
	u.remountReadonly(what, m.Destination, attr)
	return nil
}

// bindCgroup shows the directory dir at dest, which exists.
func (u *setup) bindCgroup(what, dest, dir string, attr unix.MountAttr) error {
	tree, err := bindTree(dir, mountOptions{attr: attr})
	if err != nil {
		return err
	}
	u.do(what, unix.SYS_FCNTL, u.p.File(u.own(tree)), stage.Int(unix.F_DUPFD_CLOEXEC), stage.Int(0)).Into(u.mount)
	u.place(what, dest)
	u.closeCell(u.mount)
	return nil
}

// remountReadonly makes the tmpfs read-only after its directories were made.
func (u *setup) remountReadonly(what, dest string, attr unix.MountAttr) {
	if attr.Attr_set&unix.MOUNT_ATTR_RDONLY == 0 {
		return
	}
	u.open(what, dest, u.dest, unix.O_PATH)
	u.setAttr(what+" read-only", u.dest, unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}, false)
	u.closeCell(u.dest)
}

type hierarchyDir struct{ name, dir string }

// hierarchyDirs are the v1 directories under the names that they have on the host ("cpu,cpuacct").
// A hybrid's v2 hierarchy limits nothing and stays out.
func hierarchyDirs(group *cgroup.Group) []hierarchyDir {
	seen := map[string]bool{}
	var dirs []hierarchyDir
	for controller, dir := range group.Paths() {
		if controller == "" || seen[dir] {
			continue
		}
		seen[dir] = true
		dirs = append(dirs, hierarchyDir{filepath.Base(strings.TrimSuffix(dir, group.Path())), dir})
	}
	sort.Slice(dirs, func(i, j int) bool { return dirs[i].name < dirs[j].name })
	return dirs
}
