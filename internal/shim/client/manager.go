package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/11f9778f/berth/internal/failpoint"
	"github.com/11f9778f/berth/internal/shim/state"
)

// DefaultBinary is the name of Berth's own shim.
const DefaultBinary = "containerd-shim-berth-v1"

// Manager keeps all shims below one run directory.
//
// Lock order: Manager.mu, then group.mu. Neither is held over a system call or a call to a shim.
type Manager struct {
	cfg    Config
	dir    string
	log    *slog.Logger
	events *eventServer
	out    *pump
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup
	// stopWatch ends watchStopped.
	stopWatch context.CancelFunc

	mu       sync.Mutex
	closed   bool
	groups   map[string]*group
	assigned map[string]*group // by sandbox
	retiring map[*group]bool   // empty groups on their way out
	spare    *group            // blank, ready or starting; nil if there is none
}

// Open finds the shims that live below cfg.RunDir, starts successors for those that died, and returns
// when each has answered or has been given up.
func Open(ctx context.Context, cfg Config) (*Manager, error) {
	cfg = cfg.withDefaults()
	m := &Manager{cfg: cfg, dir: filepath.Join(cfg.RunDir, "shims"), log: cfg.Logger, groups: map[string]*group{}, assigned: map[string]*group{}, retiring: map[*group]bool{}}
	if err := os.MkdirAll(m.dir, 0o700); err != nil {
		return nil, fmt.Errorf("open shim directory: %w", err)
	}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	m.out = newPump()
	var err error
	if m.events, err = serveEvents(m.dir, m.out); err != nil {
		m.cancel()
		m.out.close()
		return nil, err
	}
	if err := m.recover(ctx); err != nil {
		m.Close()
		return nil, err
	}
	m.wantSpare()
	m.upgradeStale()
	var watch context.Context
	watch, m.stopWatch = context.WithCancel(m.ctx)
	m.wg.Go(func() { m.watchStopped(watch) })
	return m, nil
}

func (c Config) withDefaults() Config {
	if c.GroupSize <= 0 {
		c.GroupSize = 72
	}
	if c.CallTimeout <= 0 {
		c.CallTimeout = 30 * time.Second
	}
	if c.StuckTimeout <= 0 {
		c.StuckTimeout = 20 * time.Second
	}
	if c.Namespace == "" {
		c.Namespace = "k8s.io"
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// recover takes up the groups on disk, all at once: a shim that hangs holds up no other.
func (m *Manager) recover(ctx context.Context) error {
	entries, err := os.ReadDir(m.dir)
	if err != nil {
		return fmt.Errorf("find shims: %w", err)
	}
	var wg sync.WaitGroup
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		g := m.newGroup(e.Name())
		err := state.Load(g.file(), &g.rec)
		if errors.Is(err, os.ErrNotExist) {
			os.RemoveAll(g.dir) // made, and then nothing: the record comes before anything else
			continue
		}
		if err != nil || g.rec.ID != g.id {
			m.log.Error("a shim group's record is unreadable; nothing of it is touched", "dir", g.dir, "err", err)
			continue
		}
		m.groups[g.id] = g
		for _, id := range g.rec.Sandboxes {
			m.assigned[id] = g
		}
		wg.Go(func() { m.resume(ctx, g) })
	}
	wg.Wait()
	return nil
}

// resume makes one group of an earlier daemon ours. An empty one is ended: it was a spare, or about to be released.
func (m *Manager) resume(ctx context.Context, g *group) {
	if len(g.rec.Sandboxes) == 0 {
		m.retire(ctx, g)
		return
	}
	err := g.reconnect(ctx)
	if err != nil && !g.rec.Foreign {
		m.log.Warn("a shim died while no daemon was there; starting a successor", "group", g.id, "err", err)
		err = g.succeed(ctx)
	}
	if err != nil {
		m.log.Error("a shim is lost", "group", g.id, "err", err)
		g.shim.setGone(err)
	}
}

// Acquire gives the sandbox a shim: the one that it already has, one with room, or a new one.
func (m *Manager) Acquire(ctx context.Context, p Placement) (*Shim, error) {
	if err := state.ValidID(p.SandboxID); err != nil {
		return nil, fmt.Errorf("acquire shim: sandbox: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	h, err := m.handler(p.Handler)
	if err != nil {
		return nil, err
	}
	g, fresh, err := m.place(p, h)
	if err != nil {
		return nil, err
	}
	if fresh {
		err = g.begin(ctx, p)
	} else {
		err = g.join(ctx)
	}
	if err != nil {
		if uerr := m.unplace(p.SandboxID, g); uerr != nil {
			m.log.Error("undo placement", "sandbox", p.SandboxID, "err", uerr)
		}
		return nil, fmt.Errorf("acquire shim for sandbox %s: %w", p.SandboxID, err)
	}
	m.wantSpare()
	return g.shim, nil
}

// SetHandlers replaces Config.Handlers. Shims that run keep what they were started with.
func (m *Manager) SetHandlers(rows map[string]Handler) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cfg.Handlers = rows
}

func (m *Manager) handler(name string) (Handler, error) {
	m.mu.Lock()
	h, ok := m.cfg.Handlers[name]
	m.mu.Unlock()
	if !ok && name != "" {
		return h, fmt.Errorf("runtime handler %q: %w", name, errdefs.ErrNotFound)
	}
	if h.Binary == "" {
		h.Binary = DefaultBinary
	}
	path, err := findBinary(h.Binary)
	if err != nil {
		return h, err
	}
	h.Binary = path
	return h, nil
}

// findBinary looks in the folder of this program, then in PATH.
func findBinary(name string) (string, error) {
	if filepath.IsAbs(name) {
		return name, nil
	}
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), name)
		if st, err := os.Stat(beside); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return beside, nil
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("the shim %s is neither beside this program nor in PATH: %w", name, err)
	}
	return path, nil
}

// place decides, in memory, which group the sandbox belongs to. fresh tells that the group is new: the caller starts it.
func (m *Manager) place(p Placement, h Handler) (g *group, fresh bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, false, fmt.Errorf("acquire shim: the manager is closed: %w", errdefs.ErrUnavailable)
	}
	if g := m.assigned[p.SandboxID]; g != nil {
		return g, false, nil
	}
	for _, have := range m.groups {
		if have.takes(p, m.cfg.GroupSize) {
			g = have
			break
		}
	}
	if g == nil && m.spare != nil && p.Handler == "" && m.spare.usable() {
		g = m.spare
		m.spare = nil
		g.settle(p.Tenant)
	}
	if g == nil {
		g = m.newGroup(newGroupID())
		g.rec = groupRecord{ID: g.id, Tenant: p.Tenant, Handler: p.Handler, Binary: h.Binary, Foreign: h.Foreign, Options: h.Options}
		m.groups[g.id] = g
		fresh = true
	}
	g.add(p.SandboxID)
	m.assigned[p.SandboxID] = g
	return g, fresh, nil
}

// unplace takes a sandbox out of its group, on disk too, and ends the group if it was the last one.
func (m *Manager) unplace(sandboxID string, g *group) error {
	m.mu.Lock()
	delete(m.assigned, sandboxID)
	empty := g.remove(sandboxID)
	if empty && m.cfg.Linger > 0 && m.cfg.GroupSize > 1 && !m.closed && !g.rec.Foreign && g.usable() {
		empty = false
		time.AfterFunc(m.cfg.Linger, func() { m.expire(g) })
	}
	if empty {
		m.bury(g)
	}
	m.mu.Unlock()
	if err := failpoint.Here("shim/client/release"); err != nil {
		return err
	}
	if err := g.save(); err != nil {
		return err
	}
	if empty {
		m.wg.Go(func() { m.retire(m.ctx, g) })
	}
	return nil
}

// bury keeps everybody from joining an empty group. The caller holds m.mu, and retires the group then.
func (m *Manager) bury(g *group) {
	g.shim.retire()
	delete(m.groups, g.id)
	m.retiring[g] = true
}

// expire ends a group that was left empty, unless somebody has joined it meanwhile.
func (m *Manager) expire(g *group) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed || m.groups[g.id] != g || !g.isEmpty() {
		return
	}
	m.bury(g)
	m.wg.Go(func() { m.retire(m.ctx, g) })
}

// Lookup returns the shim that the sandbox was given.
func (m *Manager) Lookup(sandboxID string) (*Shim, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	g := m.assigned[sandboxID]
	if g == nil {
		return nil, false
	}
	return g.shim, true
}

// Release takes the sandbox out of its group, and shuts it down in the shim if that was not done; the last one out
// ends the shim. An unknown sandbox is no error.
func (m *Manager) Release(ctx context.Context, sandboxID string) error {
	m.mu.Lock()
	g := m.assigned[sandboxID]
	m.mu.Unlock()
	if g == nil {
		return nil
	}
	if err := g.shim.release(ctx, sandboxID); err != nil {
		return fmt.Errorf("release sandbox %s: %w", sandboxID, err)
	}
	return m.unplace(sandboxID, g)
}

// retire ends an empty group's shim and removes its directory.
func (m *Manager) retire(ctx context.Context, g *group) {
	if err := g.end(ctx); err != nil {
		m.log.Error("end shim", "group", g.id, "err", err)
		return
	}
	m.mu.Lock()
	delete(m.groups, g.id)
	delete(m.retiring, g)
	m.mu.Unlock()
}

// wantSpare starts a blank shim if one is wanted and there is none.
func (m *Manager) wantSpare() {
	if !m.cfg.Spare {
		return
	}
	h, err := m.handler("")
	if err != nil || h.Foreign {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed || m.spare != nil {
		return
	}
	g := m.newGroup(newGroupID())
	g.rec = groupRecord{ID: g.id, Binary: h.Binary}
	m.spare = g
	m.wg.Go(func() {
		if err := g.begin(m.ctx, Placement{}); err != nil {
			m.log.Warn("start a spare shim", "err", err)
			m.dropSpare(g)
		}
	})
}

func (m *Manager) dropSpare(g *group) {
	m.mu.Lock()
	if m.spare == g {
		m.spare = nil
	}
	m.mu.Unlock()
}

// Events is where events arrive, in order, for one reader. It is closed by Close.
func (m *Manager) Events() <-chan Event { return m.out.out }

// Inventory lists what there is.
func (m *Manager) Inventory() Inventory {
	m.mu.Lock()
	known := map[string]*group{}
	for id, g := range m.groups {
		known[id] = g
	}
	for g := range m.retiring {
		known[g.id] = g
	}
	if m.spare != nil {
		known[m.spare.id] = m.spare
	}
	m.mu.Unlock()
	var inv Inventory
	for _, g := range known {
		inv.Groups = append(inv.Groups, g.info())
	}
	slices.SortFunc(inv.Groups, func(a, b GroupInfo) int { return slices.Compare([]string{a.ID}, []string{b.ID}) })
	entries, _ := os.ReadDir(m.dir)
	for _, e := range entries {
		if known[e.Name()] == nil && e.Name() != eventsSocket {
			inv.Unowned = append(inv.Unowned, filepath.Join(m.dir, e.Name()))
		}
	}
	return inv
}

// Close ends the connections, and the shims that keep nothing. All others live on.
func (m *Manager) Close() error {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return nil
	}
	m.closed = true
	if m.stopWatch != nil {
		m.stopWatch()
	}
	spare := m.spare
	groups := make([]*group, 0, len(m.groups))
	for _, g := range m.groups {
		if g.isEmpty() {
			m.bury(g)
			m.wg.Go(func() { m.retire(m.ctx, g) })
			continue
		}
		groups = append(groups, g)
	}
	m.mu.Unlock()
	var err error
	if spare != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		err = errors.Join(spare.join(ctx), spare.end(ctx))
		cancel()
	}
	for _, g := range groups {
		g.disconnect()
	}
	m.events.close()
	// Groups that are being retired finish; everything else stops waiting.
	done := make(chan struct{})
	go func() { m.wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(5 * time.Second):
	}
	m.cancel()
	<-done
	m.out.close()
	return err
}
