package engine

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// mountOptions is the meaning of an fstab-style option list (runtime-spec config.md, Mounts).
type mountOptions struct {
	recursive bool
	remount   bool
	attr      unix.MountAttr // of the mount itself; Propagation too
	rattr     unix.MountAttr // of the mount and all below it
	data      []string       // what the filesystem itself is told, "key=value" or "flag"
	idmap     extent         // translate owners
	copyUp    bool           // a tmpfs begins with what it hides
	maps      IDMappings     // of a rootfs: "uidmap=" and "gidmap="
}

// extent says how much of a mount tree an option is for.
type extent uint8

const (
	nothing extent = iota
	topmost
	recursively
)

type attrChange struct{ set, clear uint64 }

var mountAttrs = map[string]attrChange{
	"ro":            {set: unix.MOUNT_ATTR_RDONLY},
	"rw":            {clear: unix.MOUNT_ATTR_RDONLY},
	"nosuid":        {set: unix.MOUNT_ATTR_NOSUID},
	"suid":          {clear: unix.MOUNT_ATTR_NOSUID},
	"nodev":         {set: unix.MOUNT_ATTR_NODEV},
	"dev":           {clear: unix.MOUNT_ATTR_NODEV},
	"noexec":        {set: unix.MOUNT_ATTR_NOEXEC},
	"exec":          {clear: unix.MOUNT_ATTR_NOEXEC},
	"nosymfollow":   {set: unix.MOUNT_ATTR_NOSYMFOLLOW},
	"symfollow":     {clear: unix.MOUNT_ATTR_NOSYMFOLLOW},
	"nodiratime":    {set: unix.MOUNT_ATTR_NODIRATIME},
	"diratime":      {clear: unix.MOUNT_ATTR_NODIRATIME},
	"relatime":      {set: unix.MOUNT_ATTR_RELATIME, clear: unix.MOUNT_ATTR__ATIME},
	"norelatime":    {set: unix.MOUNT_ATTR_STRICTATIME, clear: unix.MOUNT_ATTR__ATIME},
	"noatime":       {set: unix.MOUNT_ATTR_NOATIME, clear: unix.MOUNT_ATTR__ATIME},
	"atime":         {set: unix.MOUNT_ATTR_RELATIME, clear: unix.MOUNT_ATTR__ATIME},
	"strictatime":   {set: unix.MOUNT_ATTR_STRICTATIME, clear: unix.MOUNT_ATTR__ATIME},
	"nostrictatime": {set: unix.MOUNT_ATTR_RELATIME, clear: unix.MOUNT_ATTR__ATIME},
}

var propagations = map[string]struct {
	kind      uint64
	recursive bool
}{
	"private": {unix.MS_PRIVATE, false}, "rprivate": {unix.MS_PRIVATE, true},
	"slave": {unix.MS_SLAVE, false}, "rslave": {unix.MS_SLAVE, true},
	"shared": {unix.MS_SHARED, false}, "rshared": {unix.MS_SHARED, true},
	"unbindable": {unix.MS_UNBINDABLE, false}, "runbindable": {unix.MS_UNBINDABLE, true},
}

// ignoredOptions are defaults, or say how mount(8) speaks, or mean nothing to kernels since 5.15 (mand) or to the
// new mount interface (iversion, which filesystems now do by themselves).
var ignoredOptions = map[string]bool{
	"": true, "defaults": true, "loud": true, "silent": true, "mand": true, "nomand": true, "iversion": true, "noiversion": true,
}

// isBind tells whether a mount shows what is mounted elsewhere already (mount(8), "Bind mount operation").
func isBind(fstype string, options []string) bool {
	return fstype == "bind" || slices.Contains(options, "bind") || slices.Contains(options, "rbind")
}

// parseMountOptions sorts an option list. Options that it does not know belong to the filesystem.
func parseMountOptions(options []string) (mountOptions, error) {
	var o mountOptions
	for _, opt := range options {
		switch {
		case ignoredOptions[opt]:
		case opt == "bind": // see isBind
		case opt == "rbind":
			o.recursive = true
		case opt == "idmap":
			o.idmap = topmost
		case opt == "ridmap":
			o.idmap = recursively
		case opt == "tmpcopyup":
			o.copyUp = true
		case opt == "remount":
			o.remount = true
		case strings.ContainsRune(opt, 0):
			return o, fmt.Errorf("mount option %q holds a NUL byte", opt)
		default:
			o.sort(opt)
		}
	}
	return o, nil
}

func (o *mountOptions) sort(opt string) {
	if c, ok := mountAttrs[opt]; ok {
		change(&o.attr, c)
		return
	}
	if c, ok := mountAttrs[strings.TrimPrefix(opt, "r")]; ok && opt[0] == 'r' {
		change(&o.rattr, c)
		return
	}
	if p, ok := propagations[opt]; ok {
		if p.recursive {
			o.rattr.Propagation = p.kind
		} else {
			o.attr.Propagation = p.kind
		}
		return
	}
	o.data = append(o.data, opt)
}

// change applies c to a, so that the latest of two contradicting options holds.
func change(a *unix.MountAttr, c attrChange) {
	a.Attr_set = a.Attr_set&^c.clear | c.set
	a.Attr_clr = a.Attr_clr&^(c.set&^uint64(unix.MOUNT_ATTR__ATIME)) | c.clear
}

// fsmountFlags is what fsmount(2) takes for a fresh mount: it has nothing to clear.
func (o mountOptions) fsmountFlags() uint64 { return o.attr.Attr_set | o.rattr.Attr_set }

// pseudo are filesystems for which read-only is a matter of the mount alone: others may show the same
// instance writable.
var pseudo = map[string]bool{
	"proc": true, "sysfs": true, "tmpfs": true, "mqueue": true, "devpts": true, "overlay": true, "cgroup": true, "cgroup2": true,
}

// forFilesystem is what the filesystem is told: one on a device must know that it may not write.
func (o mountOptions) forFilesystem(fstype string) []string {
	if pseudo[fstype] || o.fsmountFlags()&unix.MOUNT_ATTR_RDONLY == 0 {
		return o.data
	}
	return append(o.data[:len(o.data):len(o.data)], "ro")
}
