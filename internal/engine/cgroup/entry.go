package cgroup

import (
	"fmt"
	"os"
	"syscall"
)

// Entries opens the files by which a process with a single thread joins the group itself, by writing "0"
// into each. Under v1 that is the only join that does not wait for an RCU grace period (5 ms and more
// on an idle machine): the kernel takes cgroup_threadgroup_rwsem for a write that names a process or moves a
// thread group, and not for one that moves the writing thread alone. Under v2 there is none: a child is
// born in the group (FD), and so it is in the v2 hierarchy of a hybrid machine.
func (g *Group) Entries() (_ []*os.File, err error) {
	var files []*os.File
	defer func() {
		if err != nil {
			for _, f := range files {
				f.Close()
			}
		}
	}()
	for _, h := range g.h.list {
		if h.V2 {
			continue
		}
		f, err := h.dir.Open(g.rel+"/tasks", syscall.O_WRONLY)
		if err != nil {
			return nil, fmt.Errorf("join cgroup %s: %w", g.Path(), err)
		}
		files = append(files, f)
	}
	return files, nil
}
