package network

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/11f9778f/berth/internal/failpoint"
	"github.com/11f9778f/berth/internal/network/book"
	"github.com/11f9778f/berth/internal/network/netns"
	"github.com/11f9778f/berth/internal/network/rtnl"
	"github.com/11f9778f/berth/internal/trace"
)

// spare is a namespace with lo and a link to the bridge that no sandbox has yet. It is held by descriptors alone:
// with them, and so with this process however that ends, the kernel removes the namespace and the link.
type spare struct {
	ns     *os.File
	inside *rtnl.Conn
	host   int // index of the link's end on the host
	bridge int // index of the bridge that it is in
}

func (s *spare) close() {
	s.inside.Close()
	s.ns.Close()
}

// spares are made ahead while nobody waits.
type spares struct {
	want int

	mu     sync.Mutex
	free   []*spare
	pinned map[string]*spare // by sandbox: its namespace is a spare's, and it is not attached yet
	serial int               // of the one goroutine that fills

	wake chan struct{}
	stop context.CancelFunc // nil where none are made
	done sync.WaitGroup
}

// rest is how long nobody must have asked for a namespace before one is made ahead: a little longer than it takes to
// start ten pods at once.
const rest = 100 * time.Millisecond

func (s *spares) take() *spare {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.free) == 0 {
		return nil
	}
	last := s.free[len(s.free)-1]
	s.free = s.free[:len(s.free)-1]
	return last
}

// put takes a spare if there are not enough.
func (s *spares) put(sp *spare) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.free) >= s.want {
		sp.close()
		return
	}
	s.free = append(s.free, sp)
}

func (s *spares) pin(id string, sp *spare) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pinned[id] = sp
}

// unpin returns the spare that a sandbox's namespace is, if it is one that was not attached yet.
func (s *spares) unpin(id string) *spare {
	s.mu.Lock()
	defer s.mu.Unlock()
	sp := s.pinned[id]
	delete(s.pinned, id)
	return sp
}

func (s *spares) missing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.free) < s.want
}

// CreateNetNS makes a network namespace for sandbox id, with lo up and the net.* sysctls set, and pins it.
// It returns the pin's path. A namespace that is there already is returned as it is.
func (m *Manager) CreateNetNS(ctx context.Context, id string, sysctls map[string]string) (string, error) {
	m.spares.asked()
	sp := m.spares.take()
	if sp == nil {
		return m.Keeper.CreateNetNS(ctx, id, sysctls)
	}
	path, used, err := m.Keeper.UseNetNS(ctx, id, sp.ns, sysctls)
	switch {
	case err != nil: // with sysctls that failed it is as good as used
		sp.close()
	case used:
		m.spares.pin(id, sp)
	default:
		m.spares.put(sp)
	}
	return path, err
}

// RemoveNetNS removes the pin of id's namespace; a missing one is success. With the last process in it
// gone, the kernel then removes the namespace and its links, some milliseconds later.
func (m *Manager) RemoveNetNS(ctx context.Context, id string) error {
	if sp := m.spares.unpin(id); sp != nil {
		sp.close()
	}
	return m.Keeper.RemoveNetNS(ctx, id)
}

// startSpares begins to fill up; closeSpares ends that.
func (m *Manager) startSpares() {
	m.spares.want, m.spares.pinned = m.cfg.Spares, map[string]*spare{}
	if m.cfg.Spares <= 0 {
		return
	}
	var ctx context.Context
	ctx, m.spares.stop = context.WithCancel(context.Background())
	m.spares.wake = make(chan struct{}, 1)
	m.spares.done.Go(func() { m.fill(ctx) })
}

func (m *Manager) closeSpares() {
	if m.spares.stop == nil {
		return
	}
	m.spares.stop()
	m.spares.done.Wait()
	for sp := m.spares.take(); sp != nil; sp = m.spares.take() {
		sp.close()
	}
	m.spares.mu.Lock()
	defer m.spares.mu.Unlock()
	for _, sp := range m.spares.pinned {
		sp.close()
	}
	m.spares.pinned = map[string]*spare{}
}

// asked tells that somebody wants a namespace: it is time to make others, after a rest.
func (s *spares) asked() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// fill runs until ctx ends.
func (m *Manager) fill(ctx context.Context) {
	var pause <-chan time.Time // nil while there is nothing to do
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.spares.wake: // pods are being started: wait anew
			pause = time.After(rest)
		case <-pause:
			if pause = nil; m.spares.missing() && m.spareOne() {
				pause = time.After(0) // another one, if nobody asks meanwhile
			}
		}
	}
}

// spareOne makes a spare, if there is a bridge for it, and reports whether it did.
func (m *Manager) spareOne() bool {
	m.bridge.mu.Lock()
	bridge := m.bridge.index
	m.bridge.mu.Unlock()
	if bridge == 0 {
		return false
	}
	sp, err := m.makeSpare(bridge)
	if err != nil {
		m.log.Debug("no namespace was made ahead", "error", err)
		return false
	}
	m.spares.put(sp)
	return true
}

func (m *Manager) makeSpare(bridge int) (*spare, error) {
	ns, inside, err := netns.Spare()
	if err != nil {
		return nil, err
	}
	m.spares.serial++
	sp := &spare{ns: ns, inside: inside, bridge: bridge}
	p := rtnl.Pair{
		Host: m.cfg.hostLink(fmt.Sprintf("/%s/%d", m.cfg.Bridge, m.spares.serial)), Alias: m.cfg.alias(""), Bridge: bridge,
		Pod: podInterface, NetNS: ns, MTU: m.cfg.MTU, Spare: true,
	}
	err = m.onHost(func(c *rtnl.Conn) (err error) {
		if err = c.CreatePair(p); err == nil {
			sp.host, err = c.Index(p.Host)
		}
		return err
	})
	if err != nil {
		sp.close()
		return nil, err
	}
	return sp, nil
}

// takeSpare makes a spare what the entry says. Where that fails, its link is gone.
func (m *Manager) takeSpare(ctx context.Context, e book.Entry, sp *spare) error {
	defer trace.Start(ctx, "network.spare")()
	defer sp.close() // the pin holds the namespace now
	if err := failpoint.Here("network/spare/before"); err != nil {
		return err
	}
	p := rtnl.Pair{Host: m.cfg.hostLink(e.Owner), Alias: m.cfg.alias(e.Owner), Bridge: sp.bridge}
	err := m.onHost(func(c *rtnl.Conn) error { return c.TakePair(sp.host, p) })
	if err == nil {
		err = failpoint.Here("network/spare/taken")
	}
	if err == nil {
		err = sp.inside.ConfigurePod(podInterface, macOf(e.Addresses[0].Addr()), e.Addresses, entryGateways(e))
	}
	if err == nil {
		err = m.onHost(func(c *rtnl.Conn) error { return c.Settle(p.Host, m.cfg.Bridge) })
	}
	if err == nil {
		return failpoint.Here("network/spare/after")
	}
	m.log.Debug("a namespace that was made ahead is of no use", "sandbox", e.Owner, "error", err)
	return errors.Join(err, sp.inside.DeleteLink(podInterface))
}
