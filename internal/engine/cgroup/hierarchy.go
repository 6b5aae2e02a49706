package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/11f9778f/berth/internal/sys"
)

// Hierarchy is one mounted cgroup hierarchy.
type Hierarchy struct {
	// MountPoint is the absolute directory of its root.
	MountPoint string
	// Controllers are those that it offers ("cpu", "cpuacct"); none for a named one.
	Controllers []string
	// Name is that of a named v1 hierarchy ("systemd"), else empty.
	Name string
	// V2 tells that this is the unified hierarchy.
	V2 bool
}

type hierarchy struct {
	Hierarchy
	dir *sys.KernDir
}

// Hierarchies are all cgroup hierarchies that a mount table shows. They hold a descriptor each. What is mounted or
// unmounted later is not seen.
type Hierarchies struct {
	list         []*hierarchy
	byController map[string]*hierarchy
	v2           *hierarchy // nil if no cgroup2 filesystem is mounted
	unified      bool       // invariant: unified implies v2 != nil and that no v1 controller is mounted
	primary      *hierarchy // the one whose members are the group's members; never nil
}

// v1Controllers are the mount options of cgroup v1 that name a controller.
var v1Controllers = []string{"blkio", "cpu", "cpuacct", "cpuset", "debug", "devices", "freezer", "hugetlb",
	"memory", "misc", "net_cls", "net_prio", "perf_event", "pids", "rdma"}

// local finds this machine's hierarchies once.
var local = sync.OnceValues(func() (*Hierarchies, error) {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("find cgroup hierarchies: %w", err)
	}
	return Discover(table)
})

// Local returns this process's hierarchies, found at the first call.
func Local() (*Hierarchies, error) { return local() }

// Discover finds hierarchies in a mount table in the format of /proc/PID/mountinfo and opens their
// roots. Close releases them.
func Discover(mountinfo []byte) (*Hierarchies, error) {
	hs := &Hierarchies{byController: map[string]*hierarchy{}}
	for _, m := range cgroupMounts(mountinfo) {
		if err := hs.add(m); err != nil {
			hs.Close()
			return nil, fmt.Errorf("find cgroup hierarchies: %w", err)
		}
	}
	if len(hs.list) == 0 {
		return nil, errors.New("find cgroup hierarchies: none is mounted writable; mount cgroup2 at /sys/fs/cgroup")
	}
	if err := hs.settle(); err != nil {
		hs.Close()
		return nil, fmt.Errorf("find cgroup hierarchies: %w", err)
	}
	return hs, nil
}

func (hs *Hierarchies) add(m Hierarchy) error {
	dir, err := sys.OpenKernDir(m.MountPoint)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // another mount hides this one
	}
	if err != nil {
		return err
	}
	h := &hierarchy{Hierarchy: m, dir: dir}
	hs.list = append(hs.list, h)
	for _, c := range m.Controllers {
		hs.byController[c] = h
	}
	if m.V2 {
		hs.v2 = h
	}
	return nil
}

// settle decides between v1 and v2, and gives the unified hierarchy the controllers that v1 has not taken.
func (hs *Hierarchies) settle() error {
	hs.unified = hs.v2 != nil && len(hs.byController) == 0
	for _, c := range []string{"freezer", "pids", "memory", "devices", "cpu"} {
		if hs.primary = hs.byController[c]; hs.primary != nil {
			break
		}
	}
	if hs.unified {
		hs.primary = hs.v2
	}
	if hs.primary == nil {
		hs.primary = hs.list[0]
	}
	if hs.v2 == nil {
		return nil
	}
	text, err := hs.v2.dir.Read("cgroup.controllers", nil)
	if err != nil {
		return err
	}
	hs.v2.Controllers = strings.Fields(string(text))
	for _, c := range hs.v2.Controllers {
		if hs.byController[c] == nil {
			hs.byController[c] = hs.v2
		}
	}
	return nil
}

// Close releases the hierarchies' descriptors; groups loaded from them can't be used any more.
func (hs *Hierarchies) Close() {
	for _, h := range hs.list {
		h.dir.Close()
	}
}

// Unified tells that this machine has pure cgroup v2. A hybrid with controllers in v1 is v1.
func (hs *Hierarchies) Unified() bool { return hs.unified }

// All lists the hierarchies in the order of the mount table.
func (hs *Hierarchies) All() []Hierarchy {
	var list []Hierarchy
	for _, h := range hs.list {
		list = append(list, h.Hierarchy)
	}
	return list
}

// find returns the hierarchy of the first of the controllers that is there, by its v1 or v2 name.
func (hs *Hierarchies) find(controllers ...string) *hierarchy {
	for _, c := range controllers {
		if h := hs.byController[c]; h != nil {
			return h
		}
	}
	return nil
}

// cgroupMounts reads the writable cgroup filesystems from a mount table, each filesystem once.
func cgroupMounts(mountinfo []byte) []Hierarchy {
	var list []Hierarchy
	seen := map[string]int{} // device number → index in list, or -1-index if what stands there shows only a part
	for line := range bytes.Lines(mountinfo) {
		// 36 35 98:0 /root /mount/point rw,noatime master:1 - cgroup source rw,cpu,cpuacct
		head, tail, ok := strings.Cut(strings.TrimSuffix(string(line), "\n"), " - ")
		pre, post := strings.Fields(head), strings.Fields(tail)
		if !ok || len(pre) < 6 || len(post) < 3 || post[0] != "cgroup" && post[0] != "cgroup2" {
			continue
		}
		if slices.Contains(strings.Split(pre[5], ","), "ro") {
			continue
		}
		h := Hierarchy{MountPoint: sys.MountPath(pre[4]), V2: post[0] == "cgroup2"}
		if !h.V2 {
			h.Controllers, h.Name = superOptions(post[2])
		}
		whole := pre[3] == "/"
		i, again := seen[pre[2]]
		switch {
		case !again:
			list = append(list, h)
			seen[pre[2]] = len(list) - 1
			if !whole {
				seen[pre[2]] = -len(list)
			}
		case i < 0 && whole: // a mount of the whole filesystem is better than one of a part
			list[-1-i] = h
			seen[pre[2]] = -1 - i
		}
	}
	return list
}

func superOptions(options string) (controllers []string, name string) {
	for o := range strings.SplitSeq(options, ",") {
		if n, ok := strings.CutPrefix(o, "name="); ok {
			name = n
		}
		if slices.Contains(v1Controllers, o) {
			controllers = append(controllers, o)
		}
	}
	return controllers, name
}
