package cgroup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"
)

// Kill ends all processes of the group and its children by SIGKILL, and returns when none is left: those that their
// parents have yet to wait for count as gone. Frozen groups are thawed. A group that does not exist is done.
//
// The kernel's own cgroup.kill is used wherever the group's v2 part has members, a hybrid's too. Otherwise, and for
// those who are still there after a moment, members are frozen, so that they can't fork away, signalled through pidfds, so
// that no stranger with a reused number is hit, and thawed to die.
func (g *Group) Kill(ctx context.Context) error {
	byKernel, err := g.killByKernel()
	if err != nil {
		return fmt.Errorf("kill cgroup: %w", err)
	}
	wait := newBackoff()
	for round := 0; ; round++ {
		empty, err := g.emptied(byKernel)
		if err != nil {
			return fmt.Errorf("kill cgroup: %w", err)
		}
		if empty {
			return nil
		}
		if err := g.killRound(ctx, round, byKernel); err != nil {
			return fmt.Errorf("kill cgroup: %w", err)
		}
		if err := wait.sleep(ctx); err != nil {
			left, lerr := g.members()
			if lerr != nil || len(left) == 0 {
				return fmt.Errorf("kill cgroup %s: %w", g.Path(), errors.Join(err, lerr))
			}
			return fmt.Errorf("kill cgroup %s: %d processes are left, the first is %d: %w", g.Path(), len(left), left[0], err)
		}
	}
}

// emptied tells whether no process is left. While those are dying that the kernel has hit, one short file says so.
func (g *Group) emptied(byKernel bool) (bool, error) {
	if byKernel && g.populated() {
		return false, nil
	}
	left, err := g.members()
	return len(left) == 0, err
}

// populated tells whether the v2 part of the group, or of one below it, has members for sure.
func (g *Group) populated() bool {
	events, err := g.h.v2.dir.Read(g.rel+"/cgroup.events", nil)
	return err == nil && bytes.Contains(events, []byte("populated 1"))
}

// How many looks those get to die who were hit already: freezing would only hold them up. Those that the kernel hit
// can't have forked away.
const (
	quietRounds       = 4 // 0.8 ms
	quietKernelRounds = 9 // 23 ms
)

func (g *Group) killRound(ctx context.Context, round int, byKernel bool) error {
	switch {
	case round >= quietKernelRounds, round >= quietRounds && !byKernel:
		return g.killFrozen(ctx)
	case round == 0 && !byKernel:
		if err := g.signal(); err != nil {
			return err
		}
	case round > 0 && byKernel:
		return nil
	}
	return g.thawAll() // a paused group can't die
}

// killByKernel writes cgroup.kill, and tells whether that has hit anybody.
func (g *Group) killByKernel() (bool, error) {
	if g.h.v2 == nil {
		return false, nil
	}
	events, err := g.h.v2.dir.Read(g.rel+"/cgroup.events", nil)
	if err == nil && !bytes.Contains(events, []byte("populated 1")) {
		return false, nil
	}
	if err == nil {
		_, err = g.h.v2.dir.Write(g.rel+"/cgroup.kill", "1")
	}
	if gone(err) || errors.Is(err, syscall.EOPNOTSUPP) { // a kernel before 5.14, no such group, or a threaded one
		return false, nil
	}
	return err == nil, err
}

// members lists the processes of all hierarchies that kill: the primary one and v2.
func (g *Group) members() ([]int, error) {
	pids, err := g.pidsIn(g.h.primary)
	if err != nil || g.h.v2 == nil || g.h.primary == g.h.v2 {
		return pids, err
	}
	more, err := g.pidsIn(g.h.v2)
	if err != nil {
		return nil, err
	}
	pids = append(pids, more...)
	slices.Sort(pids)
	return slices.Compact(pids), nil
}

// killFrozen freezes, signals whoever is in the group, and thaws. It does not wait until all stand still: a child
// that a process forks while it is being frozen starts frozen, or is found in the next round.
func (g *Group) killFrozen(ctx context.Context) error {
	h, err := g.freezer()
	if err == nil {
		err = g.setFreezer(h, true)
	}
	if err != nil && !errors.Is(err, ErrUnsupported) && !gone(err) {
		return err
	}
	if err == nil {
		for wait := newBackoff(); wait.next < 4e6; { // 4 ms at most
			if done, err := g.still(h); done || err != nil || wait.sleep(ctx) != nil {
				break
			}
		}
	}
	if err := g.signal(); err != nil {
		return errors.Join(err, g.thawAll())
	}
	return g.thawAll()
}

// maxPidFDs bounds the descriptors that are open at once, however many processes there are.
const maxPidFDs = 512

// signal sends SIGKILL to all members.
func (g *Group) signal() error {
	pids, err := g.members()
	if err != nil {
		return err
	}
	for some := range slices.Chunk(pids, maxPidFDs) {
		if err := g.signalSome(some); err != nil {
			return err
		}
	}
	return nil
}

// signalSome signals a process only if it was a member after its pidfd was opened: so the number
// belonged to a member at that time, or the pidfd to somebody who is dead.
func (g *Group) signalSome(pids []int) error {
	procs := make([]*os.Process, 0, len(pids))
	defer func() {
		for _, p := range procs {
			p.Release()
		}
	}()
	for _, pid := range pids {
		p, err := os.FindProcess(pid) // opens a pidfd
		if err != nil {
			return err
		}
		procs = append(procs, p)
	}
	now, err := g.members()
	if err != nil {
		return err
	}
	for _, p := range procs {
		if _, member := slices.BinarySearch(now, p.Pid); !member {
			continue
		}
		err := p.Signal(syscall.SIGKILL)
		if err != nil && !errors.Is(err, os.ErrProcessDone) && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("signal process %d: %w", p.Pid, err)
		}
	}
	return nil
}

// thawAll thaws the group and all its children: a process that stays frozen does not die under v1.
func (g *Group) thawAll() error {
	h, err := g.freezer()
	if err != nil {
		return nil
	}
	return h.walk(g.rel, func(dir string, _ []string) error {
		if err := h.setFreezer(dir, false); err != nil && !gone(err) {
			return err
		}
		return nil
	})
}
