package client

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/status"

	"github.com/11f9778f/berth/internal/shim/api/pb"
)

const (
	// returnTimeout is how long a shim that executes another binary may take to answer again.
	returnTimeout = 15 * time.Second
	// quietTimeout is how long calls that are under way are waited for; new ones wait meanwhile.
	quietTimeout = 5 * time.Second
	// busyPause is how long a shim that was busy is left alone, at first and at most.
	busyPause, longestBusyPause = time.Second, time.Minute
)

// upgradeStale has the shims of an earlier installation execute the binary of this one. It returns at once; a shim that is
// busy is asked again later.
func (m *Manager) upgradeStale() {
	m.mu.Lock()
	groups := slices.Collect(maps.Values(m.groups))
	m.mu.Unlock()
	for _, g := range groups {
		if binary := g.newBinary(); binary != "" {
			m.wg.Go(func() { g.upgradeWhenQuiet(m.ctx, binary) })
		}
	}
}

// newBinary is what the group's shim should execute, "" if it does already. Files are compared, not their names: an
// installation puts a new file in the old one's place.
func (g *group) newBinary() string {
	if g.rec.Foreign || g.shim.Pid() == 0 {
		return ""
	}
	h, err := g.m.handler(g.rec.Handler)
	if err != nil {
		return ""
	}
	want, err := os.Stat(h.Binary)
	if err != nil {
		return ""
	}
	have, err := os.Stat("/proc/" + strconv.Itoa(g.shim.Pid()) + "/exe")
	if err != nil || os.SameFile(want, have) {
		return ""
	}
	return h.Binary
}

func (g *group) upgradeWhenQuiet(ctx context.Context, binary string) {
	for pause := busyPause; ; pause = min(2*pause, longestBusyPause) {
		err := g.upgrade(ctx, binary)
		switch {
		case err == nil:
			g.m.log.Info("a shim was upgraded", "group", g.id, "pid", g.shim.Pid(), "binary", binary)
			return
		case !errors.Is(err, errdefs.ErrFailedPrecondition):
			g.m.log.Warn("a shim stays as it was before the upgrade", "group", g.id, "error", err)
			return
		}
		g.m.log.Info("a shim is upgraded later", "group", g.id, "because", err)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
	}
}

// upgrade has the shim execute the binary in its place, and connects to it again. Calls made meanwhile wait. An error that
// is FAILED_PRECONDITION says that the shim is busy.
func (g *group) upgrade(ctx context.Context, binary string) error {
	g.mu.Lock()
	p, ending := g.process, g.ending
	g.mu.Unlock()
	if p == nil || ending {
		return errBeingReplaced
	}
	conn := g.shim.detach()
	if conn == nil {
		return errBeingReplaced
	}
	// A call that has taken the connection, and has not sent its request yet, would meet the exec.
	for deadline := time.Now().Add(quietTimeout); !g.shim.quiet(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) || ctx.Err() != nil {
			g.shim.attach(conn, p.pid)
			return fmt.Errorf("upgrade shim %s: calls are in flight: %w", g.id, errdefs.ErrFailedPrecondition)
		}
	}
	ask, cancel := context.WithTimeout(ctx, returnTimeout)
	defer cancel()
	_, err := pb.NewShimClient(conn).Upgrade(ask, &pb.UpgradeRequest{Binary: binary})
	if !errors.Is(err, ttrpc.ErrClosed) { // it goes on as it is
		g.shim.attach(conn, p.pid)
		if _, ok := status.FromError(err); ok {
			err = errgrpc.ToNative(err)
		}
		return fmt.Errorf("upgrade shim %s: %w", g.id, err)
	}
	conn.Close()
	back, cancel := context.WithTimeout(ctx, returnTimeout)
	defer cancel()
	for g.comeBack(back, p) != nil {
		select {
		case <-p.dead: // whoever watches it starts a successor
			return fmt.Errorf("upgrade shim %s: it ended", g.id)
		case <-back.Done():
			return fmt.Errorf("upgrade shim %s: it does not answer any more: %w", g.id, back.Err())
		case <-time.After(2 * time.Millisecond):
		}
	}
	g.mu.Lock()
	g.rec.Binary = binary
	g.rec.Generation++
	g.mu.Unlock()
	if err := g.save(); err != nil {
		return err
	}
	return g.shim.reportEnded(ctx) // what ended in between nobody has told
}

// comeBack connects to the shim that a process has become.
func (g *group) comeBack(ctx context.Context, p *process) error {
	c, pid, err := g.dial(ctx)
	if err != nil {
		return err
	}
	if pid != p.pid {
		c.Close()
		return fmt.Errorf("process %d answers in place of %d", pid, p.pid)
	}
	if _, err := g.shim.greet(ctx, pb.NewShimClient(c.client)); err != nil {
		c.Close() // it was the old one, about to go
		return err
	}
	if err := g.openVault(); err != nil {
		c.Close()
		return err
	}
	g.shim.connected(c)
	return nil
}

var errBeingReplaced = errors.New("the shim is ending, or is being replaced")

// detach makes calls wait, and returns the connection that they went over until now.
func (s *Shim) detach() *ttrpc.Client {
	s.mu.Lock()
	conn := s.conn
	s.mu.Unlock()
	if conn != nil {
		s.disconnected()
	}
	return conn
}

// attach takes detach back, unless a successor has connected meanwhile.
func (s *Shim) attach(conn *ttrpc.Client, pid int) {
	s.mu.Lock()
	replaced := s.conn != nil || s.gone != nil
	s.mu.Unlock()
	if replaced {
		conn.Close()
		return
	}
	s.connected(&connection{conn, pid})
}
