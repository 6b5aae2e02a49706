package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"syscall"

	"github.com/11f9778f/berth/internal/sys"
)

// OOMEvent tells that the OOM killer was at work in a group.
type OOMEvent struct {
	// Kills is the number of processes that it has ended there so far.
	Kills uint64
}

// oomFile is where the kernel counts OOM kills.
func (r *reader) oomFile() string {
	if r.h.V2 {
		return "memory.events"
	}
	return "memory.oom_control"
}

// OOMEvents reports each time from now on that the OOM killer has ended processes of the group, until ctx ends or the group is
// removed: then the channel is closed. Events that nobody has fetched are merged into one. It costs a goroutine and two
// descriptors; who only wants to know why a process died asks OOMKills.
func (g *Group) OOMEvents(ctx context.Context) (<-chan OOMEvent, error) {
	h := g.h.find("memory")
	if h == nil {
		return nil, fmt.Errorf("watch for OOM in cgroup %s: %w: no memory controller", g.Path(), ErrUnsupported)
	}
	watch, looks := g.watchOOMV1, looksV1
	if h.V2 {
		watch, looks = g.watchOOMV2, 1
	}
	wait, end, err := watch(h)
	if err != nil {
		return nil, fmt.Errorf("watch for OOM: %w", err)
	}
	before, err := g.OOMKills()
	if err != nil {
		end()
		return nil, fmt.Errorf("watch for OOM: %w", err)
	}
	events := make(chan OOMEvent, 1)
	go func() {
		defer close(events)
		defer context.AfterFunc(ctx, end)()
		defer end()
		g.countOOM(ctx, before, wait, looks, events)
	}()
	return events, nil
}

// looksV1 is how often the counter is read after a ring: v1 rings before it counts. The looks spread over 50 ms.
const looksV1 = 10

func (g *Group) countOOM(ctx context.Context, last uint64, wait func() error, looks int, events chan OOMEvent) {
	for wait() == nil {
		pause := newBackoff()
		for look := 1; ; look++ {
			kills, err := g.OOMKills()
			if err != nil {
				return // the group has gone
			}
			if kills > last {
				last = kills
				select { // make room: the newest count is what matters
				case <-events:
				default:
				}
				events <- OOMEvent{Kills: kills}
				break
			}
			if look == looks {
				break
			}
			if pause.sleep(ctx) != nil {
				return
			}
		}
	}
}

// watchOOMV1 has the kernel ring an eventfd when the group is out of memory, and when it is removed.
func (g *Group) watchOOMV1(h *hierarchy) (wait func() error, end func(), err error) {
	control, err := h.dir.Open(g.rel+"/memory.oom_control", syscall.O_RDONLY)
	if err != nil {
		return nil, nil, err
	}
	defer control.Close()
	bell, err := sys.EventFD()
	if err != nil {
		return nil, nil, err
	}
	if err := g.connectBell(h, bell, control); err != nil {
		bell.Close()
		return nil, nil, err
	}
	wait = func() error {
		var count [8]byte
		_, err := bell.Read(count[:])
		return err
	}
	return wait, func() { bell.Close() }, nil
}

func (g *Group) connectBell(h *hierarchy, bell, control *os.File) error {
	raw, err := bell.SyscallConn() // Fd would take the file out of the poller
	if err != nil {
		return err
	}
	var write error
	err = raw.Control(func(fd uintptr) {
		value := strconv.Itoa(int(fd)) + " " + strconv.Itoa(int(control.Fd()))
		_, write = h.dir.Write(g.rel+"/cgroup.event_control", value)
	})
	return errors.Join(err, write)
}

// watchOOMV2 waits for changes of memory.events. Of the group's removal only its parent directory tells.
func (g *Group) watchOOMV2(h *hierarchy) (wait func() error, end func(), err error) {
	w, err := sys.WatchModified(h.dir.Path(g.rel + "/memory.events"))
	if err != nil {
		return nil, nil, err
	}
	if err := w.AddRemovals(h.dir.Path(path.Dir(g.rel))); err != nil {
		w.Close()
		return nil, nil, err
	}
	return func() error { _, err := w.Wait(); return err }, func() { w.Close() }, nil
}
