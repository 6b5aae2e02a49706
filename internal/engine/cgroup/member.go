package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// Join moves the process (all its threads) into the group, in all hierarchies. Under v1 the first join after a
// rest waits some 5 ms for the kernel (an RCU grace period); later ones are quick.
func (g *Group) Join(pid int) error {
	if pid <= 0 {
		return fmt.Errorf("join cgroup %s: bad process id %d", g.Path(), pid)
	}
	value := strconv.Itoa(pid)
	for _, h := range g.h.list {
		_, err := h.dir.Write(g.rel+"/cgroup.procs", value)
		if errors.Is(err, syscall.ENOSPC) && !h.V2 && slices.Contains(h.Controllers, "cpuset") {
			// A group that somebody else made may have no CPUs or no memory nodes.
			if err = g.fillCpuset(h); err == nil {
				_, err = h.dir.Write(g.rel+"/cgroup.procs", value)
			}
		}
		if err != nil {
			return fmt.Errorf("join cgroup: process %d: %w", pid, err)
		}
	}
	return nil
}

// JoinSub moves a process of the group into a group below it that exists: in the hierarchy of a cgroup v1 controller, or
// for controller "", the only one there is under v2, in all of them.
func (g *Group) JoinSub(pid int, controller, sub string) error {
	rel, err := clean(sub)
	if err != nil {
		return err
	}
	rel = g.rel + "/" + rel
	joined := false
	for _, h := range g.h.list {
		if controller != "" && (h.V2 || h.Name != controller && !slices.Contains(h.Controllers, controller)) {
			continue
		}
		if _, err := h.dir.Write(rel+"/cgroup.procs", strconv.Itoa(pid)); err != nil {
			return fmt.Errorf("join sub-cgroup %q: process %d: %w", sub, pid, err)
		}
		joined = true
	}
	if !joined {
		return fmt.Errorf("join sub-cgroup %q: no cgroup v1 hierarchy of controller %q", sub, controller)
	}
	return nil
}

// gone tells that a group was removed while, or before, a file of it was used.
func gone(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENODEV) }

// Pids lists the processes of the group and its children, sorted. A group that does not exist has none.
func (g *Group) Pids() ([]int, error) {
	pids, err := g.pidsIn(g.h.primary)
	if err != nil {
		return nil, fmt.Errorf("list processes of a cgroup: %w", err)
	}
	return pids, nil
}

// pidsIn lists the subtree's processes in one hierarchy. A process that this PID namespace can't name is
// left out: the kernel shows it as 0, which as a target of a signal would be ourselves.
func (g *Group) pidsIn(h *hierarchy) ([]int, error) {
	var pids []int
	err := h.walk(g.rel, func(dir string, _ []string) error {
		text, err := h.dir.Read(dir+"/cgroup.procs", nil)
		if gone(err) || errors.Is(err, syscall.EOPNOTSUPP) {
			return nil // threads of a threaded v2 group belong to processes of a group above it
		}
		if err != nil {
			return err
		}
		for field := range strings.FieldsSeq(string(text)) {
			pid, err := strconv.Atoi(field)
			if err != nil {
				return fmt.Errorf("read %s: %w", h.dir.Path(dir+"/cgroup.procs"), err)
			}
			if pid > 0 {
				pids = append(pids, pid)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.Sort(pids)
	return slices.Compact(pids), nil
}
