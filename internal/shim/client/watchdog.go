package client

import (
	"context"
	"errors"
	"os"
	"syscall"
	"time"

	"github.com/containerd/ttrpc"

	"github.com/11f9778f/berth/internal/sys"
)

// stoppedInterval is how often shims are looked at that nobody calls. It costs one read of /proc for each.
const stoppedInterval = 5 * time.Second

// watchStopped asks shims for a sign of life that somebody has stopped: as long as nobody calls one, nobody else would
// notice that its logs and exits are not seen to. It ends with ctx.
func (m *Manager) watchStopped(ctx context.Context) {
	tick := time.NewTicker(stoppedInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		m.mu.Lock()
		groups := make([]*group, 0, len(m.groups))
		for _, g := range m.groups {
			groups = append(groups, g)
		}
		m.mu.Unlock()
		for _, g := range groups {
			if conn, pid := g.shim.connection(); conn != nil && sys.Stopped(pid) {
				g.shim.suspect(conn)
			}
		}
	}
}

// connection is the present one, nil while there is none.
func (s *Shim) connection() (*ttrpc.Client, int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conn, s.pid
}

// giveUp kills a shim of our own that gives no sign of life; its successor takes its containers over. A foreign one has no
// successor: it stays stuck.
func (g *group) giveUp(conn *ttrpc.Client) {
	if now, _ := g.shim.connection(); now != conn || g.rec.Foreign {
		return
	}
	g.mu.Lock()
	p := g.process
	g.mu.Unlock()
	if p == nil {
		return
	}
	g.m.log.Warn("a shim gives no sign of life: it is killed and replaced", "group", g.id, "pid", p.pid, "after", g.m.cfg.StuckTimeout)
	err := sys.SignalPidFD(p.pidfd, syscall.SIGKILL)
	if err != nil && !errors.Is(err, os.ErrProcessDone) && !errors.Is(err, os.ErrClosed) {
		g.m.log.Error("kill a stuck shim", "group", g.id, "err", err)
	}
}
